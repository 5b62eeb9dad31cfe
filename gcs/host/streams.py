"""The container's streams and ours: bytes go through, nothing is kept.

Our own descriptors are shared with other processes, so they are never made non-blocking: they
are read when they are readable, and written by a thread.
"""

import os
import select

import trio

__all__ = ["OutputClosedError", "copy_in", "copy_out"]

#: More than a unix socket holds by default (208 KiB), so that one read empties it.
_CHUNK = 256 * 1024


class OutputClosedError(Exception):
    """Whoever reads our output has gone away (EPIPE)."""


async def copy_out(connection: trio.SocketStream, fd: int) -> None:
    """Copy until the container's stream ends.

    Raises OutputClosedError when nobody reads ours any more; the container's end is closed
    then, so that it learns the same.
    """
    async with connection:
        while data := await _receive(connection):
            try:
                await trio.to_thread.run_sync(_write_all, fd, data, abandon_on_cancel=True)
            except BrokenPipeError:
                raise OutputClosedError from None


async def _receive(connection: trio.SocketStream) -> bytes:
    try:
        return bytes(await connection.receive_some(_CHUNK))
    except trio.BrokenResourceError:
        # The VM has gone; how, is told on the control socket.
        return b""


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            # Somebody who shares the descriptor has made it non-blocking.
            select.select([], [fd], [])


async def copy_in(fd: int, connection: trio.SocketStream) -> None:
    """Copy until our stream ends or the container takes no more, then close the connection.

    It is closed whole: there is no half-close on the way.
    """
    async with connection:
        try:
            while data := await _read(fd):
                await connection.send_all(data)
        except trio.BrokenResourceError:
            return


async def _read(fd: int) -> bytes:
    try:
        try:
            await trio.lowlevel.wait_readable(fd)
        except PermissionError:
            # Regular files and /dev/null can't be waited for (EPERM of epoll_ctl(2)), and need
            # not be.
            return await trio.to_thread.run_sync(os.read, fd, _CHUNK)
        return os.read(fd, _CHUNK)
    except OSError:
        return b""  # a terminal that has hung up, or a folder
