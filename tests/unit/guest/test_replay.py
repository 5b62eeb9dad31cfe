"""The newest bytes of a pipe, remembered while they are moved on."""

import os
import random
import socket
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcs.guest.replay import REPLAY_BYTES, Replay

#: Places of its pipe: 384 KiB, rounded up to a power of two, of a page each.
PLACES = 512 * 1024 // 4096

_sizes = st.integers(1, 300) | st.integers(1, 65_536)


def _move(replay: Replay, source: int, sink: socket.socket) -> int:
    try:
        return replay.splice(source, sink.fileno())
    except BlockingIOError:
        return 0


@given(st.lists(st.tuples(_sizes, st.integers(0, 100_000)), max_size=40), st.integers())
def test_what_is_remembered_is_the_newest_that_was_moved(
    steps: list[tuple[int, int]], seed: int
) -> None:
    """Whatever is written and read, and however little the sink takes."""
    numbers = random.Random(seed)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    replay, written, moved, got = Replay(), bytearray(), 0, bytearray()
    theirs.setblocking(False)
    for size, taken in steps:
        data = numbers.randbytes(size)
        with suppress(BlockingIOError):
            written += data[: os.write(writer, data)]
        while count := _move(replay, reader, ours):
            moved += count
        recent = replay.recent()
        assert replay.recent() == recent
        assert recent == written[moved - len(recent) : moved]
        if taken:
            got += _received(theirs, taken)
    os.close(writer)
    while (count := _move(replay, reader, ours)) or len(got) < len(written):
        moved += count
        got += _received(theirs, 1 << 20)
    assert got == written
    replay.close()
    os.close(reader)
    ours.close()
    theirs.close()


def _received(sock: socket.socket, limit: int) -> bytes:
    try:
        return sock.recv(limit)
    except BlockingIOError:
        return b""


def test_of_a_busy_stream_the_last_64_kib_and_more_are_there() -> None:
    """As much as hosts can have on their way to the reader; never more than is documented."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    replay, data = Replay(), random.Random(1).randbytes(1 << 20)
    for start in range(0, len(data), 32_768):
        os.write(writer, data[start : start + 32_768])
        moved = 0
        while moved < 32_768:
            moved += _move(replay, reader, ours)
            _received(theirs, 1 << 20)
    recent = replay.recent()
    assert 65_536 <= len(recent) <= REPLAY_BYTES
    assert data.endswith(recent)
    replay.close()
    os.close(reader)
    os.close(writer)
    ours.close()
    theirs.close()


def test_of_more_writes_than_there_are_places_the_newest_are_kept() -> None:
    """Their source is open still, and half of what was kept makes place for the next one."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    replay = Replay()
    written = bytes(range(PLACES + 10))
    for number in written:
        os.write(writer, bytes([number]))
        assert replay.splice(reader, ours.fileno()) == 1
        assert _received(theirs, 1) == bytes([number])
    kept = replay.recent()
    assert PLACES // 2 <= len(kept) < len(written)
    assert written.endswith(kept)
    with pytest.raises(BlockingIOError):
        replay.splice(reader, ours.fileno())
    replay.close()
    os.close(reader)
    os.close(writer)
    ours.close()
    theirs.close()


def test_the_end_is_seen_though_there_is_no_place_for_more() -> None:
    """The kernel says that of both; whoever waits for the source then would wait in a loop."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    replay = Replay()
    # Each byte has a place of its own, and a place is for a page.
    for _ in range(PLACES):
        os.write(writer, b"x")
        assert replay.splice(reader, ours.fileno()) == 1
        _received(theirs, 1)
    os.close(writer)
    assert replay.splice(reader, ours.fileno()) == 0
    replay.close()
    os.close(reader)
    ours.close()
    theirs.close()
