"""Write the log without ever waiting for whoever reads it.

The log goes to the host over a connection, and a host that does not read it would stop the
agent at its next line. So lines are written by a thread of their own; those that find no room
are left out and counted.
"""

import atexit
import logging
import os
import queue
import threading
from collections.abc import Callable

__all__ = ["LineWriter"]

#: Lines that wait, in bytes: a thousand usual ones. A connection holds as much again.
_MAX_WAITING = 256 * 1024
#: How long the last lines of a program that ends may take.
_LAST_WORDS_S = 1.0


class LineWriter(logging.Handler):
    """Writes records as lines to a descriptor, from a thread that ends with the program."""

    def __init__(self, descriptor: int, say_lost: Callable[[int], str]) -> None:
        """Start the thread.

        Args:
            descriptor: Where the lines go.
            say_lost: Makes the line that stands for so many lines left out.
        """
        super().__init__()
        self._descriptor = descriptor
        self._say_lost = say_lost
        self._lines: queue.SimpleQueue[bytes | threading.Event | None] = queue.SimpleQueue()
        #: bytes that wait, and lines left out; under the handler's own lock
        self._waiting = 0
        self._lost = 0
        self._is_finished = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.finish)

    def emit(self, record: logging.LogRecord) -> None:
        """Put a line in the queue, or leave it out; the caller holds the lock.

        Once one is left out, so are those after it until all that waits has been written and
        the gap has been said: there is one gap, and the line about it stands where it is.
        """
        line = self.format(record).encode() + b"\n"
        if self._lost or self._waiting + len(line) > _MAX_WAITING:
            self._lost += 1
            return
        self._waiting += len(line)
        self._lines.put(line)

    def flush(self) -> None:
        """Wait a moment for what was said until now to be written; no effect after the end."""
        if not self._is_finished:
            written = threading.Event()
            self._lines.put(written)
            written.wait(_LAST_WORDS_S)

    def finish(self) -> None:
        """Wait a moment for what is still to be written, and end the thread."""
        self._is_finished = True
        self._lines.put(None)
        self._thread.join(_LAST_WORDS_S)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            if isinstance(line, threading.Event):
                line.set()
                continue
            self._write(line)
            lost = self._account_for(line)
            if lost:
                self._write(self._say_lost(lost).encode() + b"\n")

    def _account_for(self, line: bytes) -> int:
        """Give a line's room back; return how many were left out, once all has been written."""
        self.acquire()
        try:
            self._waiting -= len(line)
            if self._waiting:
                return 0
            lost, self._lost = self._lost, 0
            return lost
        finally:
            self.release()

    def _write(self, data: bytes) -> None:
        """Write all of it; a connection that is gone takes the log along, and nothing else."""
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return
