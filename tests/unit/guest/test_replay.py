"""The newest bytes of a pipe, remembered while they are moved on."""

import os
import random
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcs.guest.replay import REPLAY_BYTES, Replay

#: Places of its pipe: 384 KiB, rounded up to a power of two, of a page each.
PLACES = 512 * 1024 // 4096

_sizes = st.integers(1, 300) | st.integers(1, 65_536)


@dataclass(frozen=True)
class Way:
    """A pipe, a connection and what goes from one to the other; nothing of it blocks."""

    reader: int
    writer: FileIO
    ours: socket.socket
    theirs: socket.socket
    replay: Replay

    def write(self, data: bytes) -> int:
        """Write what there is place for. Raises BlockingIOError."""
        return os.write(self.writer.fileno(), data)

    def move(self) -> int:
        """Move some bytes; return how many."""
        try:
            return self.replay.splice(self.reader, self.ours.fileno())
        except BlockingIOError:
            return 0

    def received(self, limit: int) -> bytes:
        """Return what has come, up to a limit."""
        try:
            return self.theirs.recv(limit)
        except BlockingIOError:
            return b""


@contextmanager
def _open_way() -> Iterator[Way]:
    """Have one for the block, which may close the writer."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with FileIO(reader), FileIO(writer, "w") as end, ours, theirs, closing(Replay()) as replay:
        yield Way(reader, end, ours, theirs, replay)


@given(st.lists(st.tuples(_sizes, st.integers(0, 100_000)), max_size=40), st.integers())
def test_what_is_remembered_is_the_newest_that_was_moved(
    steps: list[tuple[int, int]], seed: int
) -> None:
    """Whatever is written and read, and however little the sink takes."""
    numbers = random.Random(seed)
    written, moved, got = bytearray(), 0, bytearray()
    with _open_way() as way:
        for size, taken in steps:
            data = numbers.randbytes(size)
            with suppress(BlockingIOError):
                written += data[: way.write(data)]
            while count := way.move():
                moved += count
            recent = way.replay.recent()
            assert way.replay.recent() == recent
            assert recent == written[moved - len(recent) : moved]
            if taken:
                got += way.received(taken)
        way.writer.close()
        while (count := way.move()) or len(got) < len(written):
            moved += count
            got += way.received(1 << 20)
    assert got == written


def test_of_a_busy_stream_the_last_64_kib_and_more_are_there() -> None:
    """As much as hosts can have on their way to the reader; never more than is documented."""
    data = random.Random(1).randbytes(1 << 20)
    with _open_way() as way:
        for start in range(0, len(data), 32_768):
            way.write(data[start : start + 32_768])
            moved = 0
            while moved < 32_768:
                moved += way.move()
                way.received(1 << 20)
        recent = way.replay.recent()
    assert 65_536 <= len(recent) <= REPLAY_BYTES
    assert data.endswith(recent)


def test_of_more_writes_than_there_are_places_the_newest_are_kept() -> None:
    """Their source is open still, and half of what was kept makes place for the next one."""
    written = bytes(range(PLACES + 10))
    with _open_way() as way:
        for number in written:
            way.write(bytes([number]))
            assert way.move() == 1
            assert way.received(1) == bytes([number])
        kept = way.replay.recent()
        with pytest.raises(BlockingIOError):
            way.replay.splice(way.reader, way.ours.fileno())
    assert PLACES // 2 <= len(kept) < len(written)
    assert written.endswith(kept)


def test_the_end_is_seen_though_there_is_no_place_for_more() -> None:
    """The kernel says that of both; whoever waits for the source then would wait in a loop."""
    with _open_way() as way:
        # Each byte has a place of its own, and a place is for a page.
        for _ in range(PLACES):
            way.write(b"x")
            assert way.move() == 1
            way.received(1)
        way.writer.close()
        assert way.replay.splice(way.reader, way.ours.fileno()) == 0
