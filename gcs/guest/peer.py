"""One connection to a host: its bytes in, and its frames out one after the other.

The socket is read and written by hand. A turn of trio's loop costs as much as a whole request,
and each call of a trio stream takes one, whether or not there is anything to wait for.
"""

import os
from dataclasses import dataclass, field

import trio

from gcs.wire.connection import GuestConnection
from gcs.wire.messages import BRIDGE

__all__ = ["Peer"]

#: Bytes per read: the guest's receive buffer of a vsock is 256 KiB.
_READ_SIZE = 64 * 1024


@dataclass(slots=True, eq=False)
class Peer:
    """One connection to a host."""

    sock: trio.socket.SocketType
    #: cancelled when the connection is found to be gone
    scope: trio.CancelScope
    connection: GuestConnection = field(default_factory=lambda: GuestConnection(BRIDGE))
    is_negotiated: bool = False
    #: it began to count on this connection
    is_new: bool = False
    received: int = 0
    #: what was kept for the host has been sent, so that exits can follow
    hears_exits: bool = False
    #: to write a frame; what one task has begun another may finish
    _turn: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(1, max_value=1))

    async def receive(self) -> bytes:
        """Return what has come, b"" at the end. Raises OSError when the connection is lost."""
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            try:
                return os.read(self.sock.fileno(), _READ_SIZE)
            except BlockingIOError:
                continue

    def begin(self, frame: bytes) -> int:
        """Write what of a frame can be written without waiting; return how many bytes.

        Unless that is all of it `send` must follow, which meets what stood in the way. A frame
        that was begun keeps the turn.
        """
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            return 0
        written = 0
        try:
            written = self._write(frame)
        except OSError:
            return 0
        finally:
            if written in (0, len(frame)):
                self._turn.release()
        return written

    async def send(self, frame: bytes, written: int = 0) -> bool:
        """Write a frame whole, or what `begin` left of it; False if the connection is gone."""
        written = written or self.begin(frame)
        if written == len(frame):
            return True
        if not written:
            await self._turn.acquire()
        try:
            while (written := written + self._write(frame[written:])) < len(frame):
                await trio.lowlevel.wait_writable(self.sock)
        except (OSError, trio.ClosedResourceError):
            self.scope.cancel()
            return False
        finally:
            self._turn.release()
        return True

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self.sock.fileno(), data)
        except BlockingIOError:
            return 0
