"""A unix socket whose messages can carry open files.

The control socket passes the ends of a container's streams this way, so that their bytes go
straight to gcsctl and not through the service.

Source: unix(7), SCM_RIGHTS.
"""

import array
import os
import socket
from collections import deque
from collections.abc import Sequence

import trio

__all__ = ["FdStream"]

#: stdin, stdout and stderr.
_MAX_FDS = 3
_READ_SIZE = 64 * 1024


class FdStream(trio.abc.Stream):
    """A stream that also sends and keeps descriptors."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._stream = trio.SocketStream(self._socket)
        self._received: deque[int] = deque()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        await self._stream.send_all(data)

    async def send_with_fds(self, data: bytes, fds: Sequence[int]) -> None:
        """Send bytes, and with the first of them copies of these descriptors."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        try:
            sent = await self._socket.sendmsg([data], rights)
        except OSError as error:
            raise trio.BrokenResourceError(f"control socket: {error.strerror}") from error
        await self._stream.send_all(data[sent:])

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive bytes; descriptors that come with them are kept for `take_fds`."""
        space = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
        try:
            data, rights, flags, _ = await self._socket.recvmsg(
                max_bytes or _READ_SIZE, space, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise trio.BrokenResourceError(f"control socket: {error.strerror}") from error
        for level, kind, raw in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                self._received.extend(fds)
        if flags & socket.MSG_CTRUNC:
            raise trio.BrokenResourceError("control socket: more descriptors than streams")
        return data

    def take_fds(self, count: int) -> tuple[int, ...]:
        """Return the oldest descriptors that came; the caller closes them.

        They come with the first byte of a reply, so they are here when the reply is.
        """
        if count > len(self._received):
            text = f"control socket: {count} descriptors announced, {len(self._received)} came"
            raise trio.BrokenResourceError(text)
        return tuple(self._received.popleft() for _ in range(count))

    async def aclose(self) -> None:
        """Close the socket, and the descriptors that nobody has taken."""
        while self._received:
            os.close(self._received.popleft())
        await self._stream.aclose()
