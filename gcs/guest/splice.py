"""Move bytes between a pipe and a socket by splice(2), until the source ends.

A stream at rest waits in the event loop. One that is busy moves to a thread, because the loop's
own work per wake-up (under a millisecond on bare metal, several under emulation) is more than
the 32 KiB take that a vsock accepts at a time. The thread never blocks in splice(2), only in
poll(2) and briefly: a stream that nobody reads goes back to the event loop and frees its thread
for others.

Source: splice(2), poll(2).
"""

import errno
import os
import select
from collections.abc import Callable
from enum import Enum

import trio

from gcs.guest.replay import Replay
from gcs.linux import abi

__all__ = ["GONE", "End", "move"]

#: Bytes per call: four times the default size of a pipe.
_CHUNK = 256 * 1024
_FLAGS = abi.SPLICE_F_NONBLOCK | abi.SPLICE_F_MOVE
#: How long a thread waits for either side before it gives the stream back to the event loop. A
#: busy writer needs a scheduler's time slice at most; coming back costs two thread switches.
_THREAD_WAIT_MS = 50
#: Moves in a row that did not have to wait: from here on a stream counts as busy.
_BUSY_AFTER = 4

#: What a write says when its reader has gone.
GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN})


class End(Enum):
    """What ended a stream."""

    SOURCE = "there are no more bytes"
    SINK = "there is no reader"


async def move(
    source: int,
    sink: int,
    on_moved: Callable[[int], None],
    threads: trio.CapacityLimiter | None = None,
    replay: Replay | None = None,
) -> End:
    """Move bytes from one descriptor to another, one of them a pipe, both non-blocking.

    Returns which of them has ended: the source has no more bytes, or the sink no reader; closes
    neither. With `replay`, which needs a pipe as source, the newest bytes are remembered there.
    `on_moved` is called, from any thread, with each count of bytes. Without `threads` the event
    loop does it all.
    """
    in_a_row = 0
    while True:
        try:
            moved = _splice(source, sink, replay)
        except BlockingIOError:
            in_a_row = 0
            # Either side may be the one that is not ready; waiting for the other costs nothing.
            await trio.lowlevel.wait_readable(source)
            await trio.lowlevel.wait_writable(sink)
            continue
        if isinstance(moved, End):
            return moved
        on_moved(moved)
        in_a_row += 1
        if in_a_row >= _BUSY_AFTER and threads is not None and threads.available_tokens >= 1:
            in_a_row = 0
            ended = await trio.to_thread.run_sync(
                _move_busy, source, sink, on_moved, replay, limiter=threads
            )
            if ended is not None:
                return ended
        else:
            await trio.lowlevel.checkpoint()


def _splice(source: int, sink: int, replay: Replay | None) -> int | End:
    """Return how many bytes were moved, or which side has ended. Raises BlockingIOError."""
    try:
        if replay is not None:
            return replay.splice(source, sink) or End.SOURCE
        return os.splice(source, sink, _CHUNK, flags=_FLAGS) or End.SOURCE
    except OSError as error:
        if error.errno in GONE:
            return End.SINK
        raise


def _move_busy(
    source: int, sink: int, on_moved: Callable[[int], None], replay: Replay | None
) -> End | None:
    """Move bytes until a side is not ready for a while; return which has ended, if one has."""
    readable, writable = select.poll(), select.poll()
    readable.register(source, select.POLLIN)
    writable.register(sink, select.POLLOUT)
    while True:
        try:
            moved = _splice(source, sink, replay)
        except BlockingIOError:
            is_there = replay is not None and replay.is_ahead
            if not is_there and not readable.poll(_THREAD_WAIT_MS):
                return None
            if not writable.poll(_THREAD_WAIT_MS):
                return None
            continue
        if isinstance(moved, End):
            return moved
        on_moved(moved)
