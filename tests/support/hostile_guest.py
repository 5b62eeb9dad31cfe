"""A guest that does its worst, in plain bytes.

It answers the bridge as a guest should, with a reader and a writer of its own, until a request
comes at which its attack begins. `python -m tests.support.hostile_guest qemu|vsock …` stands in
for the programs of a VM as tests.support.vm does; GCS_TEST_ATTACK names the attack.
"""

import json
import os
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import trio

from tests.support.guest import Dial
from tests.support.vm import run_qemu, run_vsock

__all__ = ["ATTACKS", "ESCAPES", "HostileGuest", "frame", "main"]

_HEADER = struct.Struct("<IIQ")
_EXITED = 0x30100101
_CREATE, _EXECUTE, _WAIT, _SIGNAL, _NEGOTIATE = 1, 5, 6, 7, 11
#: What a guest should answer, but for Result.
_REPLIES: Mapping[int, Mapping[str, object]] = {
    _NEGOTIATE: {
        "Version": 4,
        "Capabilities": {
            "SupportedSchemaVersions": [{"Major": 2, "Minor": 1}],
            "RuntimeOsType": "Linux",
            "GuestDefinedCapabilities": {},
        },
    },
    _CREATE: {"SelectedProtocolVersion": 4},
    _EXECUTE: {"ProcessId": 7},
    _WAIT: {"ExitCode": 0},
}
#: A title for the window, colours, an answer for the shell to run, a C1 control, text that runs
#: backwards, what takes no room, and a new line that pretends to be ours.
ESCAPES = (
    "\x1b]0;pwned\x07\x1b[31mred\x1b[6n\x9b2J\x7f\u202egnp.exe\u2066\u200b\u061c\ufeff"
    "\r\ngcsctl: all is well"
)

Body = dict[str, object]


def frame(word: int, payload: bytes, message_id: int = 0, size: int | None = None) -> bytes:
    """Return a frame with any header."""
    return _HEADER.pack(word, len(payload) + 16 if size is None else size, message_id) + payload


class HostileGuest:
    """One connection of it."""

    def __init__(self, bridge: trio.abc.Stream, dial: Dial, attack: str) -> None:
        self._bridge = bridge
        self._sending = trio.Lock()
        self.dial = dial
        self._attack = ATTACKS[attack]
        self.streams: dict[str, trio.SocketStream] = {}

    async def serve(self) -> None:
        """Answer and attack until the host is gone."""
        buffer = bytearray()
        async with trio.open_nursery() as nursery:
            while data := await self._receive():
                buffer += data
                while len(buffer) >= 16 and len(buffer) >= _HEADER.unpack_from(buffer)[1]:
                    word, size, message_id = _HEADER.unpack_from(buffer)
                    body: Body = json.loads(bytes(buffer[16:size]))
                    del buffer[:size]
                    nursery.start_soon(self._take, word >> 8 & 0xFFF, message_id, body)
            nursery.cancel_scope.cancel()

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._bridge.receive_some())
        except trio.BrokenResourceError:
            return b""

    async def send(self, data: bytes) -> None:
        """Send bytes, in one piece."""
        async with self._sending:
            await self._bridge.send_all(data)

    async def _take(self, number: int, message_id: int, body: Body) -> None:
        act = self._attack.get(number)
        # The host may be gone in the middle of it.
        with suppress(trio.BrokenResourceError):
            if act is not None:
                await act(self, message_id, body)
            elif number == _EXECUTE:
                await self.connect(body)
                await self.answer(number, message_id)
            else:
                await self.answer(number, message_id)

    async def connect(self, body: Body) -> None:
        """Dial the streams that a request asks for."""
        for name, port in ports(body).items():
            self.streams[name] = await self.dial(port)

    async def answer(self, number: int, message_id: int, **members: object) -> None:
        """Send the reply that a guest should send, with these members instead."""
        payload = {"Result": 0, **_REPLIES.get(number, {}), **members}
        word = 0x20100001 | number << 8
        await self.send(frame(word, json.dumps(payload).encode(), message_id))

    async def notify(self, cid: object) -> None:
        """Say that a container has exited."""
        await self.send(exited(cid))


def exited(cid: object, kind: str = "UnexpectedExit") -> bytes:
    """Return an exit notification."""
    body = {
        "ContainerId": cid,
        "ActivityId": "00000000-0000-0000-0000-000000000000",
        "Type": kind,
        "Operation": "None",
        "Result": 0,
    }
    return frame(_EXITED, json.dumps(body).encode())


def ports(body: Body) -> dict[str, int]:
    """Return the ports of an ExecuteProcess, by the name of the stream."""
    settings = body["Settings"]
    assert isinstance(settings, dict)
    wanted: dict[str, int] = settings.get("VsockStdioRelaySettings", {})
    return {name: port for name, port in wanted.items() if port}


# -- attacks -----------------------------------------------------------------------------------


async def _say_nothing(guest: HostileGuest, message_id: int, body: Body) -> None:
    await trio.sleep_forever()


async def _refuse_in_escapes(guest: HostileGuest, message_id: int, body: Body) -> None:
    text = f"no such thing {ESCAPES} {'x' * 20_000}"
    await guest.answer(_CREATE, message_id, Result=-2147467259, ErrorMessage=text)


async def _notify_without_end(guest: HostileGuest, message_id: int, body: Body) -> None:
    while True:
        await guest.send(exited("c" * 60_000))


async def _announce_two_gib(guest: HostileGuest, message_id: int, body: Body) -> None:
    await guest.send(frame(0x20100101, b"{", message_id, size=2**31))
    while True:
        await guest.send(bytes(65536))


async def _print_without_end(guest: HostileGuest, message_id: int, body: Body) -> None:
    await guest.connect(body)
    await guest.answer(_EXECUTE, message_id)
    while True:
        await guest.streams["StdOut"].send_all(b"nyan" * 16384)


async def _run_and_read_nothing(guest: HostileGuest, message_id: int, body: Body) -> None:
    await guest.connect(body)
    await guest.answer(_EXECUTE, message_id)
    await guest.streams["StdOut"].send_all(b"ready\n")


async def _steal_a_stream(guest: HostileGuest, message_id: int, body: Body) -> None:
    await guest.connect(body)
    thief = await guest.dial(ports(body)["StdOut"])
    await guest.answer(_EXECUTE, message_id)
    await thief.receive_some()


async def _exit_with(guest: HostileGuest, message_id: int, body: Body) -> None:
    for stream in guest.streams.values():
        await stream.aclose()
    await guest.answer(_WAIT, message_id, ExitCode=256)
    await guest.notify(body["ContainerId"])


async def _exit_again_and_again(guest: HostileGuest, message_id: int, body: Body) -> None:
    for stream in guest.streams.values():
        await stream.aclose()
    await guest.notify("somebody else")
    await guest.answer(_WAIT, message_id, ExitCode=3)
    for cid in ("somebody else", body["ContainerId"], body["ContainerId"], ESCAPES):
        await guest.notify(cid)


async def _cling_to_streams(guest: HostileGuest, message_id: int, body: Body) -> None:
    await guest.streams["StdOut"].send_all(b"so far")
    await guest.answer(_WAIT, message_id, ExitCode=3)
    await guest.notify(body["ContainerId"])


Act = Callable[[HostileGuest, int, Body], Awaitable[None]]

#: By name: what is done at which request.
ATTACKS: Mapping[str, Mapping[int, Act]] = {
    "escapes": {_CREATE: _refuse_in_escapes},
    "notifications": {_CREATE: _notify_without_end},
    "two GiB": {_CREATE: _announce_two_gib},
    "output": {_EXECUTE: _print_without_end, _WAIT: _say_nothing},
    "deaf": {_EXECUTE: _run_and_read_nothing, _WAIT: _say_nothing, _SIGNAL: _say_nothing},
    "theft": {_EXECUTE: _steal_a_stream},
    "status": {_WAIT: _exit_with},
    "exits": {_WAIT: _exit_again_and_again},
    "clinging": {_WAIT: _cling_to_streams},
    "console": {_CREATE: _say_nothing},
}


# -- the programs ------------------------------------------------------------------------------


async def _console(serial: trio.abc.SendStream) -> None:
    with suppress(trio.BrokenResourceError):
        while True:
            await serial.send_all(b"\x1b[31mnyan " * 4096 + b"\n")


async def _chatter() -> None:
    while True:
        await trio.to_thread.run_sync(os.write, 2, b"no such port\n" * 4096)


async def _be_guest(bridge: trio.SocketStream, dial: Dial) -> None:
    async with trio.open_nursery() as nursery:
        if os.environ["GCS_TEST_ATTACK"] == "console":
            nursery.start_soon(_chatter)
        await HostileGuest(bridge, dial, os.environ["GCS_TEST_ATTACK"]).serve()
        nursery.cancel_scope.cancel()


async def _say_hello(serial: trio.abc.SendStream) -> None:
    await serial.send_all(ESCAPES.encode())


def main(argv: Sequence[str]) -> int:
    """Be one of the two programs."""
    program, words = argv[0], argv[1:]
    if program == "qemu":
        is_loud = os.environ["GCS_TEST_ATTACK"] == "console"
        trio.run(run_qemu, words, _console if is_loud else _say_hello)
    else:
        trio.run(run_vsock, words, _be_guest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
