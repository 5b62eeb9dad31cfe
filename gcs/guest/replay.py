"""The newest bytes of a pipe that were moved on, kept in the kernel to be sent once more.

tee(2) gives a pipe of ours references to the pages of the process's pipe, and splice(2) drops
the oldest ones into /dev/null: no byte is copied unless it is wanted again. The pipe has a
limited number of places and not of bytes: of a process that writes short lines these are fewer,
the newest 64 writes.

Source: tee(2), pipe(7).
"""

import fcntl
import logging
import os
import select
import termios
from array import array
from contextlib import ExitStack, suppress

from gcs.guest.log import fields
from gcs.linux import abi, syscall

__all__ = ["REPLAY_BYTES", "Replay", "replay_or_none", "waiting"]

_log = logging.getLogger("gcs.replay")

#: More than can be on its way: hosts give a stream a buffer of 64 KiB.
REPLAY_BYTES = 128 * 1024
#: What the pipe holds: these, and what is remembered before it is moved, as much as a busy
#: stream moves at a time (gcs.guest.passage). The kernel makes that 128 places, a page each.
_CAPACITY = REPLAY_BYTES + 256 * 1024
_FLAGS = abi.SPLICE_F_NONBLOCK | abi.SPLICE_F_MOVE


def waiting(source: int) -> int:
    """Return how many bytes can be read from a pipe or a terminal."""
    found = array("i", [0])
    fcntl.ioctl(source, termios.FIONREAD, found)
    return found[0]


def _is_ready(source: int) -> bool:
    """Tell whether a pipe has bytes, or has come to its end."""
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return bool(poll.poll(0))


class Replay:
    """Moves bytes from a pipe to a socket, and remembers the newest of them."""

    def __init__(self) -> None:
        """Make the pipe. Raises OSError; then nothing stays open."""
        with ExitStack() as undo:
            self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, self._reader)
            undo.callback(os.close, self._writer)
            self._null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            undo.callback(os.close, self._null)
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, _CAPACITY)
            self._open = undo.pop_all()
        #: how many of the bytes that are remembered were not moved yet, and come next
        self._ahead = 0
        #: how many are remembered
        self._held = 0

    def splice(self, source: int, sink: int) -> int:
        """Move some bytes and return their number, 0 at the end. Raises OSError.

        The source may be another pipe than before, if what comes next is the same.
        """
        if not self._ahead:
            self._ahead = self._remember(source)
        if not self._ahead:
            return 0
        moved = os.splice(source, sink, self._ahead, flags=_FLAGS)
        self._ahead -= moved
        return moved

    def _remember(self, source: int) -> int:
        # A busy stream fills whole pages: making place before it is missed saves three calls,
        # and making it for many pieces at once one for each of them.
        if self._held > REPLAY_BYTES:
            self._drop(self._held - REPLAY_BYTES // 2)
        while True:
            count = _CAPACITY - self._held
            try:
                copied = syscall.tee(source, self._writer, count, abi.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                # The source is empty, or there is no place for more: then this is said even at
                # the source's end.
                if not _is_ready(source) or not waiting(self._reader):
                    raise
                self._drop(max(self._held // 2, 1))
            else:
                self._held += copied
                return copied

    def _drop(self, count: int) -> None:
        self._held -= os.splice(self._reader, self._null, count, flags=_FLAGS)

    def recent(self) -> bytes:
        """Return the newest bytes that were moved."""
        found = bytearray()
        with suppress(BlockingIOError):
            while True:
                found += os.read(self._reader, _CAPACITY)
        os.write(self._writer, found)
        self._held = len(found)
        return bytes(found[: len(found) - self._ahead][-REPLAY_BYTES:])

    def close(self) -> None:
        """Forget them."""
        self._open.close()


def replay_or_none() -> Replay | None:
    """Return one; that it can't be made costs no more than the repetition, and is said."""
    try:
        return Replay()
    except OSError as error:
        _log.warning("output will not be sent again", extra=fields(error=error))
        return None
