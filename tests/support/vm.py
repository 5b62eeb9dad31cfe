"""QEMU's side of the monitor without QEMU: it keeps objects, devices and disks.

`python -m tests.support.vm qemu …` and `… vsock …` stand in for QEMU and vhost-device-vsock in
tests of the service and of gcsctl: they understand the same command lines, connect to each
other the same way, and between them run the guest of tests.support.guest. QEMU's is written to
the file that GCS_TEST_ARGV names, for tests that want to know it.
"""

import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import trio

from tests.support.guest import Dial, FakeGuest

__all__ = ["FakeQemu", "main", "run_qemu", "run_vsock"]

#: What a guest prints, and what it does on the bridge.
Console = Callable[[trio.abc.SendStream], Awaitable[None]]
Guest = Callable[[trio.SocketStream, Dial], Awaitable[None]]

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2}}, "capabilities": []}}


class RefusedError(Exception):
    """What QEMU answers with an error."""


class FakeQemu:
    """A monitor and what it has been told."""

    def __init__(self) -> None:
        self.objects: dict[str, Mapping[str, object]] = {}
        self.devices: dict[str, Mapping[str, object]] = {}
        self.nodes: dict[str, Mapping[str, object]] = {}
        self.networks: dict[str, Mapping[str, object]] = {}
        self.is_running = trio.Event()
        #: devices that the guest does not let go of
        self.stuck: set[str] = set()

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer commands until the other side is gone."""
        await _send(stream, GREETING)
        buffer = b""
        while data := await stream.receive_some():
            buffer += data
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                command = json.loads(line)
                await self._answer(stream, command["execute"], command.get("arguments", {}))

    async def _answer(
        self, stream: trio.abc.Stream, command: str, arguments: dict[str, object]
    ) -> None:
        try:
            events = self._execute(command, arguments)
        except RefusedError as refusal:
            error = {"class": "GenericError", "desc": str(refusal)}
            await _send(stream, {"error": error})
            return
        await _send(stream, {"return": {}})
        for event in events:
            await _send(stream, event)

    def _execute(self, command: str, arguments: dict[str, object]) -> Sequence[object]:
        name = str(arguments.get("id", arguments.get("node-name", "")))
        tables = {"object": self.objects, "blockdev": self.nodes, "netdev": self.networks}
        kind, _, verb = command.replace("_", "-").partition("-")
        if kind in tables and verb == "add":
            _add(tables[kind], name, arguments)
        elif kind in tables and verb == "del":
            _remove(tables[kind], name)
        elif command == "device_add":
            self._check_backing(arguments)
            _add(self.devices, name, arguments)
        elif command == "device_del":
            return self._unplug(name)
        elif command == "cont":
            self.is_running.set()
        elif command != "qmp_capabilities":
            raise RefusedError(f"The command {command} has not been found")
        return ()

    def _check_backing(self, device: Mapping[str, object]) -> None:
        memory, drive = device.get("memdev"), device.get("drive")
        if memory is not None and memory not in self.objects:
            raise RefusedError(f"memdev {memory} not found")
        if drive is not None and drive not in self.nodes:
            raise RefusedError(f"drive {drive} not found")
        if (network := device.get("netdev")) is not None and network not in self.networks:
            raise RefusedError(f"netdev {network} not found")
        taken = [one.get("bus") for one in self.devices.values() if "lun" not in one]
        if device["bus"] in taken:
            raise RefusedError(f"bus {device['bus']} is full")

    def _unplug(self, name: str) -> Sequence[object]:
        if name in self.stuck:
            return ()
        _remove(self.devices, name)
        return ({"event": "DEVICE_DELETED", "data": {"device": name}, "timestamp": {}},)


def _add(
    table: dict[str, Mapping[str, object]], name: str, value: Mapping[str, object]
) -> None:
    if name in table:
        raise RefusedError(f"Duplicate ID '{name}'")
    table[name] = value


def _remove(table: dict[str, Mapping[str, object]], name: str) -> None:
    if table.pop(name, None) is None:
        raise RefusedError(f"'{name}' not found")


async def _send(stream: trio.abc.Stream, message: object) -> None:
    await stream.send_all(json.dumps(message).encode() + b"\r\n")


# -- the programs ------------------------------------------------------------------------------


def _option(argv: Sequence[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


async def run_qemu(argv: Sequence[str], console: Console) -> None:
    """Serve the inherited monitor; tell the other program when the guest may boot."""
    chardevs = [argv[i + 1] for i, word in enumerate(argv) if word == "-chardev"]
    settings = {c.split(",")[1]: c.rpartition("=")[2] for c in chardevs}
    serial, monitor = (_inherited(settings[name]) for name in ("id=serial", "id=qmp"))
    qemu = FakeQemu()
    async with serial, trio.open_nursery() as nursery:
        nursery.start_soon(console, serial)
        nursery.start_soon(_boot, qemu, settings["id=vsock"])
        await qemu.serve(monitor)
        # The end of the monitor, or of the other program, is no end of QEMU: a signal is.
        await trio.sleep_forever()


def _inherited(fd: str) -> trio.SocketStream:
    sock = socket.socket(fileno=int(fd))
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def _say_hello(serial: trio.abc.SendStream) -> None:
    await serial.send_all(b"the guest's console\n")


async def _boot(qemu: FakeQemu, path: str) -> None:
    await qemu.is_running.wait()
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(b"boot")
        await stream.receive_some()


async def run_vsock(argv: Sequence[str], guest: Guest) -> None:
    """Be the vsock device and, once QEMU says so, the guest behind it."""
    hybrid, ready = _option(argv, "--uds-path"), Path(_option(argv, "--socket"))
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        await listener.bind(str(ready))
        listener.listen(1)
        connection, _ = await listener.accept()
        async with trio.SocketStream(connection) as qemu, trio.open_nursery() as nursery:
            while await qemu.receive_some():
                nursery.start_soon(_boot_guest, hybrid, guest)
            nursery.cancel_scope.cancel()


async def _boot_guest(hybrid: str, guest: Guest) -> None:
    async def dial(port: int) -> trio.SocketStream:
        return await trio.open_unix_socket(f"{hybrid}_{port}")

    async with await dial(0x40000000) as bridge:
        await guest(bridge, dial)


async def _be_guest(bridge: trio.SocketStream, dial: Dial) -> None:
    await FakeGuest(dial).serve(bridge)


def main(argv: Sequence[str]) -> int:
    """Be one of the two programs."""
    program, words = argv[0], argv[1:]
    if program == "qemu":
        if told := os.environ.get("GCS_TEST_ARGV"):
            Path(told).write_text(" ".join(words))
        trio.run(run_qemu, words, _say_hello)
    else:
        trio.run(run_vsock, words, _be_guest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
