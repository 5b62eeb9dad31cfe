"""The bridge from the guest's side, with a unix socket for its host."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing

from gcs.guest import connection
from gcs.guest.agent import Agent, Container
from gcs.guest.connection import Bridge
from gcs.guest.hosts import Asked, LateReply
from gcs.guest.reaper import Children
from gcs.guest.runc import Runc
from gcs.guest.transport import BRIDGE_PORT, UnixTransport
from gcs.wire.codec import Encoding
from gcs.wire.connection import Pending
from gcs.wire.frame import Frame, FrameDecoder, Kind, MessageType
from gcs.wire.frame import encode as encode_frame
from gcs.wire.messages import WaitForProcessReply

_START, _WAIT, _GET_PROPERTIES, _NEGOTIATE, _DUMP_STACKS = 2, 6, 9, 11, 12
#: Of the VM: answered at once, in a kilobyte.
_COUNTERS = (
    b'{"ContainerId":"00000000-0000-0000-0000-000000000000",'
    b'"Query":"{\\"PropertyTypes\\":[\\"Statistics\\",\\"Memory\\"]}"}'
)
_LIMIT = 64 * 1024


@dataclass
class Scene:
    """An agent whose host is the test."""

    agent: Agent
    bridge: Bridge
    listener: trio.socket.SocketType
    accepted: list[trio.socket.SocketType] = field(default_factory=list)

    async def accept(self, message_id: int) -> "Host":
        """Be there, and negotiate."""
        sock, _ = await self.listener.accept()
        self.accepted.append(sock)
        host = Host(trio.SocketStream(sock))
        await host.ask(_NEGOTIATE, message_id, b'{"MinimumVersion":4,"MaximumVersion":4}')
        return host


class Host:
    """One connection of a host."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._decoder = FrameDecoder(_LIMIT)

    async def ask(self, number: int, message_id: int, body: bytes = b"{}") -> None:
        """Send a request."""
        kind = MessageType(Kind.REQUEST, 1, number)
        await self.stream.send_all(encode_frame(Frame(kind, message_id, body), _LIMIT))

    async def receive(self) -> Frame:
        """Return what comes next."""
        while (frame := self._decoder.next_frame()) is None:
            data = await self.stream.receive_some()
            assert data, "the guest closed the bridge"
            self._decoder.receive_data(data)
        return frame


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """Run the bridge of an agent that has nothing."""
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(str(folder / str(BRIDGE_PORT)))
    listener.listen(1)
    with listener, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            children = Children()
            agent = Agent(UnixTransport(folder), children, Runc(children), nursery)
            bridge = Bridge(agent)
            nursery.start_soon(bridge.run)
            made = Scene(agent, bridge, listener)
            try:
                yield made
            finally:
                for sock in made.accepted:
                    sock.close()
                agent.kept.close()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("number", "body"), [(_DUMP_STACKS, b"{}"), (_GET_PROPERTIES, _COUNTERS)]
)
async def test_a_host_that_does_not_read_piles_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, body: bytes
) -> None:
    """Requests count until their replies are written; then reading waits for the host."""
    monkeypatch.setattr(connection, "_MAX_REQUESTS", 8)
    asked = 500
    async with scene(tmp_path) as s:
        host = await s.accept(0)
        await host.receive()
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                for message_id in range(1, asked + 1):
                    await host.ask(number, message_id, body)

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert len(s.agent.nursery.child_tasks) <= 8 + 2  # and the bridge itself
            answered = {(await host.receive()).message_id for _ in range(asked)}
        assert answered == set(range(1, asked + 1))


async def test_an_exit_never_overtakes_a_wait_of_before(tmp_path: Path) -> None:
    """The host that comes back has the wait's answer first, whenever exits are looked at."""
    async with scene(tmp_path) as s:
        asked = Asked(s.bridge._hosts.host, 3)
        pending = Pending(MessageType(Kind.REQUEST, 1, _WAIT), Encoding.JSON, "")
        reply = WaitForProcessReply(exit_code=7)
        s.bridge._hosts.keep(LateReply(asked, pending, reply, ("a", 1)))
        s.agent.announce_exit(Container("a", "/run/a", "", activity_id=""))

        async def look_all_the_time() -> None:
            while True:
                s.bridge._wake()
                await trio.lowlevel.checkpoint()

        s.agent.nursery.start_soon(look_all_the_time)
        host = await s.accept(5)
        kinds = [(await host.receive()).type.kind for _ in range(3)]
        assert kinds == [Kind.REPLY, Kind.REPLY, Kind.NOTIFICATION]


async def test_requests_that_come_together_leave_turns_to_others(tmp_path: Path) -> None:
    """What is answered at once is not answered all at once."""
    async with scene(tmp_path) as s:
        host = await s.accept(0)
        await host.receive()
        peer = s.bridge._peer
        assert peer is not None
        seen = [peer.received]

        async def look_all_the_time() -> None:
            while True:
                seen.append(peer.received)
                await trio.lowlevel.checkpoint()

        s.agent.nursery.start_soon(look_all_the_time)
        kind = MessageType(Kind.REQUEST, 1, _START)
        frames = [encode_frame(Frame(kind, n, b"{}"), _LIMIT) for n in range(1, 51)]
        await host.stream.send_all(b"".join(frames))
        assert [(await host.receive()).message_id for _ in frames] == list(range(1, 51))
        # Turns of the same round come in any order.
        assert max(after - before for before, after in pairwise(seen)) <= 2


async def test_what_can_not_be_answered_at_once_any_more_waits_for_the_host(
    tmp_path: Path,
) -> None:
    """It asks, and is away when the answer is there; when it comes back it gets it."""
    async with scene(tmp_path) as s:
        host = await s.accept(0)
        await host.receive()
        # Both before the guest has a turn.
        frame = encode_frame(Frame(MessageType(Kind.REQUEST, 1, _START), 1, b"{}"), _LIMIT)
        assert os.write(host.stream.socket.fileno(), frame) == len(frame)
        host.stream.socket.close()
        host = await s.accept(2)
        assert [(await host.receive()).message_id for _ in range(2)] == [2, 1]
