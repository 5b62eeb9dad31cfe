"""Logs with an end, of guests and programs that may print without one.

Who prints gets one half of a socket pair, and a task here keeps what comes out of the other in
a file of bounded size. When the file is full its older half is dropped, and its first line says
how much that makes in all. A guest can thus fill neither the disk nor our memory.
"""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from gcs.host.background import open_background

__all__ = ["MAX_LOG_SIZE", "Log", "LogFile", "keep", "open_log"]

#: A kernel that tells everything about its boot prints 60 KB. The state folder often lies in
#: memory, and a VM has four of these.
MAX_LOG_SIZE = 512 * 1024
#: More than a unix socket holds by default (208 KiB), so that one read empties it.
_CHUNK = 256 * 1024
#: How far the cut may move to begin with a whole line.
_LINE = 4096
#: How long the rest of a log may take to come when its writer has ended: it is in a buffer of
#: the kernel by then.
_DRAIN_S = 1.0
#: What an error repeats of a log: its last lines, as far as they are in its last bytes.
_TAIL_LINES = 3
_TAIL_SIZE = 4096
#: What a kernel says of its own end, before it lists the calls that led there.
_PANIC = "Kernel panic"


class LogFile:
    """A file that takes any amount, and keeps the newest of it."""

    def __init__(self, path: Path, limit: int = MAX_LOG_SIZE) -> None:
        """Make the file, or make it empty. Raises OSError."""
        self._path = path
        self._limit = limit
        self._lost = 0
        #: length of the first line, when it says how much was lost
        self._mark = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        """Append, and drop what is oldest when there is no room.

        A disk that is full costs the log and not the VM: what can't be written counts as lost.
        """
        try:
            if os.fstat(self._fd).st_size + len(data) > self._limit:
                data = self._shorten(data)
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            self._lost += len(data)

    def _shorten(self, data: bytes) -> bytes:
        """Begin a new file, and return what is to be written next, to stay below half of it."""
        whole = self._path.read_bytes()[self._mark :] + data
        start = max(0, len(whole) - self._limit // 2)
        start = max(start, whole.find(b"\n", start, start + _LINE) + 1)
        unfinished = self._path.with_name(f".{self._path.name}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(unfinished, flags, 0o600)
        unfinished.replace(self._path)
        os.close(self._fd)
        self._fd = fd
        self._lost += start
        mark = b"[%d bytes before this were dropped]\n" % self._lost
        self._mark = len(mark)
        return mark + whole[start:]

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class Log:
    """A log that is being kept; made by `open_log`."""

    path: Path
    #: the end to print into; to be closed here once it was handed on
    writer: socket.socket
    #: set when nobody has the writer's end any more, and all of it is in the file
    ended: trio.Event = field(default_factory=trio.Event)

    def size(self) -> int:
        """Return how much of it is in the file."""
        return self.path.stat().st_size

    def tail(self, after: int = 0) -> str:
        """Return the last lines on one line, or that of a panic; empty without any.

        Args:
            after: An earlier size; what was there by then is left out, unless the log has been
                shortened to less since.
        """
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(after if after <= size else 0, size - _TAIL_SIZE))
            lines = file.read().decode(errors="replace").splitlines()
        found = [line.strip() for line in lines if line.strip()]
        panic = next((line for line in found if _PANIC in line), None)
        return " | ".join(found[-_TAIL_LINES:]) if panic is None else panic


async def keep(reader: trio.abc.ReceiveStream, file: LogFile) -> None:
    """Copy what comes into a log file, until its other end is closed everywhere."""
    try:
        while data := await reader.receive_some(_CHUNK):
            file.write(bytes(data))
    except trio.BrokenResourceError:
        return  # a writer that was killed: no less of an end


@asynccontextmanager
async def open_log(path: Path) -> AsyncIterator[Log]:
    """Keep a log for the length of the block, and what is on its way at the end of it.

    Raises OSError when the file can't be made.
    """
    file = LogFile(path)
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    log = Log(path, writer)
    try:
        async with (
            trio.SocketStream(trio.socket.from_stdlib_socket(reader)) as stream,
            open_background() as nursery,
        ):
            nursery.start_soon(_keep_all, log, stream, file)
            try:
                yield log
            finally:
                writer.close()
                with trio.move_on_after(_DRAIN_S, shield=True):
                    await log.ended.wait()
    finally:
        writer.close()
        file.close()


async def _keep_all(log: Log, stream: trio.abc.ReceiveStream, file: LogFile) -> None:
    await keep(stream, file)
    log.ended.set()
