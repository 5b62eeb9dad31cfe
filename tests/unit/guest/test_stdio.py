"""The streams of a process, with pipes and socket pairs in place of a container and a VM."""

import os
import random
import socket
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from gcs.guest.redial import Redial
from gcs.guest.stdio import Endpoints, Pipes, Stdio, dial
from gcs.guest.transport import UnixTransport

_Stream = trio.lowlevel.FdStream | trio.SocketStream
_sizes = st.lists(st.integers(0, 3000) | st.integers(0, 300_000), max_size=5)


@dataclass
class Running:
    """A process's streams on their way: its ends, and the host's."""

    stdio: Stdio
    process: list[trio.lowlevel.FdStream] = field(default_factory=list)
    host: list[trio.SocketStream] = field(default_factory=list)


@contextmanager
def _streams(threads: trio.CapacityLimiter | None = None) -> Iterator[Running]:
    """Make all three streams; whatever the test leaves open is closed with the block."""
    pairs = [trio.socket.socketpair() for _ in range(3)]
    pipes = Pipes.make(stdin=True, stdout=True, stderr=True)
    ends = [os.dup(end) for end in pipes.theirs if end is not None]
    pipes.close_theirs()
    endpoints = Endpoints(*(ours for ours, _ in pairs))
    running = Running(Stdio(endpoints, pipes, threads))
    running.process = [trio.lowlevel.FdStream(end) for end in ends]
    running.host = [trio.SocketStream(theirs) for _, theirs in pairs]
    try:
        yield running
    finally:
        for stream in running.process:
            stream.close()
        for host in running.host:
            host.socket.close()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def _write(stream: _Stream, pieces: Sequence[bytes]) -> None:
    async with stream:
        for piece in pieces:
            await stream.send_all(piece)
            await trio.lowlevel.checkpoint()


async def _write_until_refused(stream: trio.lowlevel.FdStream) -> None:
    with suppress(trio.BrokenResourceError):
        await _write(stream, [bytes(8 * 1024 * 1024)])


async def _read(stream: _Stream, into: bytearray) -> None:
    async for data in stream:
        into += data


async def _exchange(pieces: list[list[bytes]], *, in_threads: bool) -> list[bytes]:
    """Send the pieces through stdin, stdout and stderr at once; return what arrived."""
    arrived = [bytearray() for _ in pieces]
    threads = trio.CapacityLimiter(4) if in_threads else None
    with _streams(threads) as running, trio.fail_after(60):
        sources: list[_Stream] = [running.host[0], *running.process[1:]]
        sinks: list[_Stream] = [running.process[0], *running.host[1:]]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.stdio.run)
            for source, sink, sent, got in zip(sources, sinks, pieces, arrived, strict=True):
                nursery.start_soon(_write, source, sent)
                nursery.start_soon(_read, sink, got)
    return [bytes(got) for got in arrived]


@settings(max_examples=50)  # each takes a fiftieth of a second
@given(_sizes, _sizes, _sizes, st.integers(0, 2**32), st.booleans())
def test_any_bytes_arrive_unchanged_and_complete(
    stdin: list[int], stdout: list[int], stderr: list[int], seed: int, in_threads: bool
) -> None:
    """In both directions, whatever their number and the cuts between them."""
    source = random.Random(seed)
    pieces = [[source.randbytes(size) for size in sizes] for sizes in (stdin, stdout, stderr)]

    async def run() -> list[bytes]:
        return await _exchange(pieces, in_threads=in_threads)

    assert trio.run(run) == [b"".join(sent) for sent in pieces]


@pytest.mark.parametrize("in_threads", [False, True])
async def test_a_reader_that_never_reads_delays_no_other(in_threads: bool) -> None:
    """8 MiB of stdout that nobody takes: stdin and stderr go on."""
    threads = trio.CapacityLimiter(4) if in_threads else None
    got = [bytearray(), bytearray()]
    with _streams(threads) as running, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.stdio.run)
            nursery.start_soon(_write, running.process[1], [bytes(8 * 1024 * 1024)])
            async with trio.open_nursery() as others:
                others.start_soon(_write, running.host[0], [b"in" * 100_000])
                others.start_soon(_read, running.process[0], got[0])
                others.start_soon(_write, running.process[2], [b"err" * 100_000])
                others.start_soon(_read, running.host[2], got[1])
            nursery.cancel_scope.cancel()
    assert got == [b"in" * 100_000, b"err" * 100_000]


async def test_a_process_learns_that_its_reader_has_gone() -> None:
    """Its write fails as at a pipe that nobody reads; its other streams go on."""
    got = bytearray()
    with _streams() as running, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.stdio.run)
            await running.host[1].aclose()
            with pytest.raises(trio.BrokenResourceError):
                await running.process[1].send_all(bytes(1024 * 1024))
            await running.process[1].aclose()
            await _write(running.process[2], [b"err"])
            await _read(running.host[2], got)
            await running.host[0].aclose()
    assert got == b"err"


async def test_a_drain_waits_for_a_slow_reader(autojump_clock: trio.testing.MockClock) -> None:
    """What the process wrote before it exited arrives, if the host reads within the grace."""
    got = bytearray()
    with _streams() as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.stdio.run)
            nursery.start_soon(_write, running.process[1], [b"x" * 30_000])
            await running.process[2].aclose()

            async def read_late() -> None:
                await trio.sleep(60)
                await _read(running.host[1], got)

            running.host[1].socket.setsockopt(1, 8, 0)  # SO_RCVBUF: as small as it gets
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read_late)
            await running.stdio.drain()
            running.process[0].close()
    assert got == b"x" * 30_000
    assert autojump_clock.current_time() >= 60


@pytest.mark.parametrize("wrote", [b"", b"some"])
async def test_a_drain_ends_though_somebody_holds_the_pipe(
    wrote: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """A daemon that the process left behind says nothing: a second of that is enough."""
    with _streams() as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.stdio.run)
            if wrote:
                await running.process[1].send_all(wrote)
                assert await running.host[1].receive_some(100) == wrote
            began = autojump_clock.current_time()
            await running.stdio.drain()
            assert 0.9 <= autojump_clock.current_time() - began <= 1.1
            await running.process[1].send_all(b"later")  # the stream itself goes on
            assert await running.host[1].receive_some(100) == b"later"
            running.stdio.close()


async def test_a_drain_ends_though_somebody_goes_on_printing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What comes after the exit is not the process's, and delays the report of it no more."""
    got = bytearray()
    with _streams() as running:

        async def print_on() -> None:
            while True:
                await running.process[1].send_all(b"later\n")
                await trio.sleep(0.3)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.stdio.run)
            nursery.start_soon(_read, running.host[1], got)
            await running.process[2].aclose()
            nursery.start_soon(print_on)
            await trio.testing.wait_all_tasks_blocked()
            began = autojump_clock.current_time()
            await running.stdio.drain()
            assert autojump_clock.current_time() - began <= 1.1
            nursery.cancel_scope.cancel()


async def test_a_drain_is_over_soon_after_the_last_bytes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Though they were not handed over yet when it began, and somebody holds the pipe."""
    got = bytearray()
    with _streams() as running:
        async with trio.open_nursery() as nursery:
            await running.process[2].aclose()
            await running.process[1].send_all(bytes(65_536))
            began = autojump_clock.current_time()
            nursery.start_soon(running.stdio.run)
            nursery.start_soon(_read, running.host[1], got)
            await running.stdio.drain()
            assert len(got) == 65_536
            assert autojump_clock.current_time() - began <= 1.1
            nursery.cancel_scope.cancel()


async def test_a_drain_gives_up_on_a_host_that_never_reads(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Two minutes; the exit is then reported without the rest."""
    with _streams() as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.stdio.run)
            nursery.start_soon(_write, running.process[1], [bytes(8 * 1024 * 1024)])
            await trio.testing.wait_all_tasks_blocked()
            began = autojump_clock.current_time()
            await running.stdio.drain()
            assert 119 <= autojump_clock.current_time() - began <= 122
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("in_threads", [False, True])
@pytest.mark.parametrize("moment", ["before", "idle", "busy"])
async def test_a_close_leaves_no_descriptor(moment: str, in_threads: bool) -> None:
    """Whether the relay has begun, waits or is stuck: nothing of ours stays open."""
    threads = trio.CapacityLimiter(4) if in_threads else None
    before = _descriptors()
    with _streams(threads) as running, trio.fail_after(60):
        theirs = 6  # the process's and the host's ends, closed by the block
        async with trio.open_nursery() as nursery:
            if moment == "busy":
                nursery.start_soon(_write_until_refused, running.process[1])
            if moment != "before":
                nursery.start_soon(running.stdio.run)
                await trio.testing.wait_all_tasks_blocked(0.05)
            running.stdio.close()
            if moment == "before":
                await running.stdio.run()
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
        assert _descriptors() <= before + theirs
    assert _descriptors() <= before


async def test_a_terminal_is_typed_on_and_read_from() -> None:
    """Both ways; the host's end-of-file is a ^D, and the end of the program ends the stream."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    pairs = [trio.socket.socketpair() for _ in range(2)]
    stdio = Stdio(Endpoints(pairs[0][0], pairs[1][0]), master)
    host_in, host_out = (trio.SocketStream(theirs) for _, theirs in pairs)
    got = bytearray()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, host_out:
            nursery.start_soon(stdio.run)
            await host_in.send_all(b"line\n")
            await host_in.aclose()
            assert await trio.to_thread.run_sync(os.read, slave, 100) == b"line\n"
            assert await trio.to_thread.run_sync(os.read, slave, 100) == b""
            os.write(slave, b"out\n")
            os.close(slave)
            await _read(host_out, got)
    assert got.endswith(b"out\r\n")
    assert stdio.terminal is None


@pytest.mark.parametrize("how", ["reset", "closed"])
async def test_a_terminal_gets_no_end_when_its_host_goes(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    """A VM that moves loses its connections: a shell must not take that for a ^D."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    ours, theirs = trio.socket.socketpair()
    stdio = Stdio(Endpoints(ours), master, redial=_redial(Path("/nowhere"), how == "closed"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stdio.run)
        await theirs.send(b"line\n")
        if how == "reset":  # a unix socket says so when something was left unread
            await ours.send(b"unread")
        theirs.close()
        await trio.sleep(10)
        assert _typed(slave) == b"line\n"
        assert stdio.terminal == master  # and it stays
        stdio.close()
    os.close(slave)


def _redial(folder: Path, is_lost: bool, port: int | None = None) -> Redial:
    """Return how a process finds a host that is back at once, if it was lost."""
    return Redial(
        UnixTransport(folder), lambda: is_lost, lambda _: is_lost, lambda: True, (port, None)
    )


@dataclass
class _Moved:
    """A process of 4 KiB blocks whose host moves; what each connection brought."""

    first: bytearray = field(default_factory=bytearray)
    second: bytearray = field(default_factory=bytearray)


async def _move_host(folder: Path, data: bytes, read: int, kind: str) -> _Moved:
    """Lose the connection after so many bytes, and listen on the port a moment later."""
    moved = _Moved()
    if kind == "terminal":
        source, theirs = os.openpty()
        tty.setraw(theirs)
        os.set_blocking(source, False)
        pipes: Pipes | int = source
    else:
        pipes = Pipes.make(stdin=False, stdout=True, stderr=False)
        theirs = os.dup(pipes.theirs[1] or 0)
        pipes.close_theirs()
    ours, host = trio.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)  # less than is sent again
    threads = trio.CapacityLimiter(4) if kind == "busy" else None
    stdio = Stdio(Endpoints(stdout=ours), pipes, threads, redial=_redial(folder, True, 7))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stdio.run)
            nursery.start_soon(_write, trio.lowlevel.FdStream(theirs), [data])
            while len(moved.first) < read:
                moved.first += await host.recv(min(4096, read - len(moved.first)))
            host.close()
            await trio.sleep(0.5)
            listener = trio.socket.socket(trio.socket.AF_UNIX)
            await listener.bind(str(folder / "7"))
            listener.listen(1)
            again, _ = await listener.accept()
            listener.close()
            async with trio.SocketStream(again) as stream:
                await _read(stream, moved.second)
    return moved


@pytest.mark.parametrize("kind", ["pipe", "busy", "terminal"])
@pytest.mark.parametrize("read", [0, 100_000, 1_000_000])
async def test_output_goes_on_at_the_host_that_took_over(
    tmp_path: Path, read: int, kind: str
) -> None:
    """On the same port, and what nobody had received comes again; nothing is missing."""
    data = random.Random(read).randbytes(1_200_000)
    moved = await _move_host(tmp_path, data, read, kind)
    assert moved.first == data[:read]
    again = len(data) - len(moved.second)
    assert moved.second == data[again:]
    assert again <= read


async def test_output_of_a_host_that_stays_away_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The process is stopped for half a minute, then told that nobody reads."""
    pipes = Pipes.make(stdin=False, stdout=True, stderr=False)
    theirs = os.dup(pipes.theirs[1] or 0)
    pipes.close_theirs()
    ours, host = trio.socket.socketpair()
    host.close()
    stdio = Stdio(Endpoints(stdout=ours), pipes, redial=_redial(Path("/nowhere"), True, 7))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stdio.run)
        await _write_until_refused(trio.lowlevel.FdStream(theirs))
    assert 30 <= autojump_clock.current_time() <= 31


def _typed(slave: int) -> bytes:
    """Return what a program would read at the terminal; an end-of-file as ^D."""
    os.set_blocking(slave, False)
    got = b""
    with suppress(BlockingIOError):
        while True:
            got += os.read(slave, 100) or b"\x04"
    return got


@pytest.mark.parametrize("reader", ["none", "gone"])
async def test_a_terminal_that_nobody_reads_is_not_hung_up(reader: str) -> None:
    """Its program goes on printing, as in a container that nobody has attached to."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    ours, theirs = trio.socket.socketpair()
    theirs.close()
    stdio = Stdio(Endpoints(stdout=ours if reader == "gone" else None), master)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stdio.run)
            async with trio.lowlevel.FdStream(slave) as program:
                await program.send_all(bytes(100_000))
                await trio.testing.wait_all_tasks_blocked()
                assert stdio.terminal == master
    ours.close()


async def test_dialling_is_all_or_nothing(tmp_path: Path) -> None:
    """One port that nobody listens on: the error names the stream, and none stays open."""
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(tmp_path / "1"))
    listener.listen(4)
    transport = UnixTransport(tmp_path)
    endpoints = await dial(transport, (1, None, 1))
    assert endpoints.stdout is None
    assert endpoints.stdin is not None
    assert endpoints.stderr is not None
    endpoints.close()
    before = _descriptors()
    with pytest.raises(FileNotFoundError, match="connect unix socket") as caught:
        await dial(transport, (1, 2, 1))
    assert caught.value.__notes__ == ["connecting stdout of the process"]
    assert _descriptors() == before
    listener.close()
