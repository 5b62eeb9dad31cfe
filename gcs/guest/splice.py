"""Move bytes between a pipe and a socket by splice(2), until a side ends.

A stream at rest waits in the event loop. One that is busy moves to a thread, because the loop's
own work per wake-up (under a millisecond on bare metal, several under emulation) is more than
the 32 KiB take that a vsock accepts at a time. The thread waits for a side only briefly: a
stream that nobody reads or writes goes back to the event loop and frees its thread for others.

Source: splice(2), poll(2).
"""

import errno
import os
import select
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import trio

from gcs.linux import abi

__all__ = ["FLAGS", "THREAD_WAIT_MS", "Direct", "End", "Way", "is_gone", "move"]

#: Bytes per call: four times the default size of a pipe.
_CHUNK = 256 * 1024
FLAGS = abi.SPLICE_F_NONBLOCK | abi.SPLICE_F_MOVE
#: How long a thread waits for either side before it gives the stream back to the event loop. A
#: busy writer needs a scheduler's time slice at most; coming back costs two thread switches.
THREAD_WAIT_MS = 50
#: Moves in a row that did not have to wait: from here on a stream counts as busy.
_BUSY_AFTER = 4

#: What a write says when its reader has gone.
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN})


def is_gone(error: OSError) -> bool:
    """Tell whether a write failed because its reader has gone."""
    return error.errno in _GONE


class End(Enum):
    """What ended a stream."""

    SOURCE = "there are no more bytes"
    SINK = "there is no reader"


class Way(Protocol):
    """From a source to a sink; it owns neither."""

    def step(self) -> End | None:
        """Move some bytes, or return which side has ended. Raises BlockingIOError."""

    async def until_ready(self) -> None:
        """Wait until a step that could not be made may be possible."""

    def move_busy(self) -> End | None:
        """Move bytes, in a thread, until a side is not ready for a while, or has ended."""


async def move(way: Way, threads: trio.CapacityLimiter | None = None) -> End:
    """Move bytes until a side has ended: the source has no more of them, or the sink no reader.

    Without `threads` the event loop does it all.
    """
    in_a_row = 0
    while True:
        try:
            ended = way.step()
        except BlockingIOError:
            in_a_row = 0
            await way.until_ready()
            continue
        in_a_row += 1
        if ended is not None:
            return ended
        if in_a_row >= _BUSY_AFTER and threads is not None and threads.available_tokens >= 1:
            in_a_row = 0
            ended = await trio.to_thread.run_sync(way.move_busy, limiter=threads)
            if ended is not None:
                return ended
        else:
            await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class Direct:
    """From one descriptor to another, one of them a pipe, neither of which blocks."""

    source: int
    sink: int

    def step(self) -> End | None:
        """Move what is there."""
        try:
            moved = os.splice(self.source, self.sink, _CHUNK, flags=FLAGS)
        except OSError as error:
            if is_gone(error):
                return End.SINK
            raise
        return None if moved else End.SOURCE

    async def until_ready(self) -> None:
        """Wait for both: either may be the one that is not ready, and waiting costs nothing."""
        await trio.lowlevel.wait_readable(self.source)
        await trio.lowlevel.wait_writable(self.sink)

    def move_busy(self) -> End | None:
        """Move bytes; wait in poll(2) only."""
        readable, writable = select.poll(), select.poll()
        readable.register(self.source, select.POLLIN)
        writable.register(self.sink, select.POLLOUT)
        while True:
            trio.from_thread.check_cancelled()
            try:
                ended = self.step()
            except BlockingIOError:
                if not readable.poll(THREAD_WAIT_MS) or not writable.poll(THREAD_WAIT_MS):
                    return None
            else:
                if ended is not None:
                    return ended
