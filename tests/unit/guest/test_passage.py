"""The way of a busy output stream: by a thread, and a pipe of our own."""

import errno
import fcntl
import logging
import os
import random
import resource
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio

from gcs.guest.passage import Passage
from gcs.guest.relay import Relay
from gcs.guest.replay import Replay
from gcs.guest.splice import End, move


@dataclass
class _Stream:
    """An output stream: the process's end, what relays it, and the host's end."""

    process: int
    relay: Relay
    passage: Passage
    host: trio.socket.SocketType
    threads: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(2))
    #: bytes that the process has written
    written: int = 0
    numbers: random.Random = field(default_factory=lambda: random.Random(1))

    async def run(self) -> End:
        """Relay it to its end."""
        assert self.relay.sock is not None
        self.passage.begin(self.relay.sock)
        ended = await move(self.passage, self.threads)
        self.relay.done.set()
        return ended

    def write(self) -> bytes:
        """Write a little, and return it; raise BlockingIOError when there is no place."""
        data = self.numbers.randbytes(4096)
        count = os.write(self.process, data)
        self.written += count
        return data[:count]

    def fill(self) -> bytes:
        """Write until the process's pipe is full; return what went in."""
        written = bytearray()
        try:
            while True:
                written += self.write()
        except BlockingIOError:
            return bytes(written)

    async def read(self, count: int) -> bytes:
        """Return so many bytes that came to the host."""
        got = bytearray()
        while len(got) < count:
            data = await self.host.recv(count - len(got))
            assert data, f"the end came after {len(got)} of {count} bytes"
            got += data
        return bytes(got)


@contextmanager
def _stream(replay: Replay | None = None) -> Iterator[_Stream]:
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    ours, theirs = trio.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    relay = Relay(reader, ours)
    stream = _Stream(writer, relay, Passage(relay, replay), theirs)
    try:
        yield stream
    finally:
        stream.passage.close()
        ours.close()
        theirs.close()
        os.close(reader)
        os.close(stream.process)


async def _make_busy(stream: _Stream) -> bytes:
    """Write as often as it looks for bytes, until it has its thread; return what is unread."""
    rest = bytearray()
    while stream.threads.borrowed_tokens == 0:
        if len(rest) > 32_768:
            assert await stream.read(len(rest)) == rest
            rest.clear()
        rest += stream.write()
        await trio.lowlevel.checkpoint()
    return bytes(rest)


async def _make_stuck(stream: _Stream) -> bytes:
    """Keep it busy, then read no more until its thread has given up; return what is unread."""
    rest = await _make_busy(stream)
    while not (stream.relay.in_hand and stream.threads.borrowed_tokens == 0):
        rest += stream.fill()
        await trio.sleep(0.02)
    return rest + stream.fill()


def _waiting(descriptor: int) -> int:
    found = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return int.from_bytes(found, "little")


async def test_what_a_stuck_stream_holds_is_bounded_and_comes_in_order() -> None:
    """A pipe of the process's, one of ours and the socket: then the process has to wait."""
    with _stream() as stream, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            written = await _make_stuck(stream)
            assert len(written) <= 2 * 262_144 + 2 * 65_536
            assert await stream.read(len(written)) == written
            more = stream.fill()  # and it goes on
            assert await stream.read(len(more)) == more
            nursery.cancel_scope.cancel()


async def test_what_our_pipe_holds_comes_though_the_process_writes_no_more() -> None:
    """A stream that went back to the event loop waits for its host only."""
    with _stream() as stream, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            rest = await _make_busy(stream)
            while not stream.relay.in_hand or stream.threads.borrowed_tokens:
                if not stream.relay.in_hand and not _waiting(stream.relay.source):
                    rest += stream.write()  # the thread takes it as a whole
                await trio.sleep(0.01)
            assert _waiting(stream.relay.source) == 0
            assert await stream.read(len(rest)) == rest
            nursery.cancel_scope.cancel()


async def test_what_is_remembered_goes_on_where_the_thread_begins() -> None:
    """What was remembered and not sent yet is not remembered again."""
    replay = Replay()
    with _stream(replay) as stream, trio.fail_after(20):
        assert stream.relay.sock is not None
        stream.passage.begin(stream.relay.sock)
        rest = b""
        with suppress(BlockingIOError):
            while True:
                rest += stream.fill()
                stream.passage.step()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, stream.passage.move_busy)
            assert await stream.read(len(rest)) == rest
        recent = replay.recent()
        assert rest.endswith(recent)
        assert len(recent) >= 65_536
    replay.close()


async def test_the_process_can_write_while_the_thread_waits_for_the_host() -> None:
    """The thread holds a pipe of ours while it waits in the kernel, not the process's."""
    with _stream() as stream, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            rest = await _make_busy(stream)
            assert stream.relay.sock is not None
            long = struct.pack("ll", 5, 0)
            stream.relay.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, long)
            began = trio.current_time()
            while len(rest) < 262_144:  # more than the socket takes
                rest += stream.fill()
                await trio.lowlevel.checkpoint()
            await trio.sleep(0.1)
            rest += stream.fill()
            assert _waiting(stream.relay.source) == 262_144
            assert trio.current_time() - began < 2
            assert stream.threads.borrowed_tokens == 1
            assert await stream.read(len(rest)) == rest
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_read", [True, False])
async def test_a_drain_waits_for_what_our_pipe_holds(is_read: bool) -> None:
    """It counts as written by the process; and a reader that takes it all ends the wait."""
    with _stream() as stream, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            written = await _make_stuck(stream)
            with trio.move_on_after(1.5) as waited:
                async with trio.open_nursery() as readers:
                    if is_read:
                        readers.start_soon(stream.read, len(written))
                    await stream.relay.drained()  # somebody holds the pipe: no end comes
            assert waited.cancelled_caught is not is_read
            if is_read:
                assert stream.relay.count == stream.written
            nursery.cancel_scope.cancel()


async def test_a_busy_stream_ends_when_it_is_given_up() -> None:
    """Though the process goes on writing, and the host reading."""
    with _stream() as stream, trio.fail_after(20):

        async def write() -> None:
            while True:
                stream.fill()
                await trio.lowlevel.checkpoint()

        async def read() -> None:
            while True:
                await stream.host.recv(65_536)

        async with trio.open_nursery() as others:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.run)
                    await _make_busy(stream)
                    others.start_soon(write)
                    others.start_soon(read)
                    await trio.sleep(0.2)
                    scope.cancel()
            assert scope.cancelled_caught
            others.cancel_scope.cancel()
        assert stream.relay.sock is not None
        assert not os.get_blocking(stream.relay.sock.fileno())


@pytest.mark.parametrize("which", ["process", "host"])
async def test_the_end_of_a_busy_stream_is_told(which: str) -> None:
    """Whichever side ends: what was written before the process's end arrives."""
    ended = list[End]()
    with _stream() as stream, trio.fail_after(20):

        async def run() -> None:
            ended.append(await stream.run())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            written = await _make_stuck(stream)
            if which == "host":
                stream.host.close()
            else:
                writer, stream.process = stream.process, os.open(os.devnull, os.O_WRONLY)
                os.close(writer)
                assert await stream.read(len(written)) == written
    assert ended == [End.SINK if which == "host" else End.SOURCE]


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_VSOCK])
async def test_a_wait_for_the_host_is_limited(family: socket.AddressFamily) -> None:
    """Also of a vsock, of which Python sets no option that is not a number."""
    with _stream() as stream, trio.socket.socket(family, socket.SOCK_STREAM) as sock:
        stream.passage.begin(sock)
        plain = socket.socket(socket.AF_UNIX, fileno=os.dup(sock.fileno()))
        limit = plain.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)
        plain.close()
        seconds, microseconds = struct.unpack("ll", limit)
        assert (seconds, round(microseconds, -4)) == (0, 50_000)


async def test_without_descriptors_a_busy_stream_goes_on_slowly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It says so once, and loses nothing."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with _stream() as stream, trio.fail_after(20), caplog.at_level(logging.WARNING):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run)
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
            try:
                rest = await _make_busy(stream)
                for _ in range(20):
                    rest += stream.fill()
                    assert await stream.read(len(rest)) == rest
                    rest = b""
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            nursery.cancel_scope.cancel()
    assert [record.message for record in caplog.records] == ["a busy stream goes on slowly"]
    assert os.strerror(errno.EMFILE) in str(vars(caplog.records[0]))
