"""The answering side of the control socket: who may connect, and one task for each request.

What a request does is the service's; here it is read, handed over, and answered once, with the
descriptors that belong to the answer.
"""

import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from gcs.errors import GcsError, ProtocolError
from gcs.host.fdstream import FdStream
from gcs.wire.connection import GuestConnection, RequestReceived, RequestRefused
from gcs.wire.control import CONTROL
from gcs.wire.schema import Notification, Reply, Request

__all__ = ["Answer", "Conversation", "Handler", "serve_control"]

#: Clients that wait to be accepted: gcsctl commands that are started at the same moment.
_BACKLOG = 16
#: accept(2) for want of something that comes back, and how long it is given.
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ROOM_S = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply and the descriptors to send with it; they are closed afterwards."""

    reply: Reply
    fds: Sequence[int] = ()


Handler = Callable[["Conversation", Request[Reply]], Awaitable[Answer]]


class Conversation:
    """One connected client."""

    def __init__(self, stream: FdStream) -> None:
        self._stream = stream
        self._connection = GuestConnection(CONTROL)
        self._lock = trio.Lock()
        self._unanswered = 0
        #: set anew whenever one more is answered
        self._answered = trio.Event()
        self._gone = trio.Event()

    async def wait_gone(self) -> None:
        """Wait until the client has closed its end, or has broken off."""
        await self._gone.wait()

    async def wait_answered(self) -> None:
        """Wait until nothing is left to answer, or the client is gone."""
        while self._unanswered and not self._gone.is_set():
            await self._answered.wait()

    async def serve(self, handler: Handler) -> None:
        """Answer requests until the client is gone; what is unanswered then is cancelled."""
        async with trio.open_nursery() as nursery:
            try:
                while data := await self._stream.receive_some():
                    self._connection.receive_data(data)
                    for event in self._connection.events():
                        nursery.start_soon(self._answer, event, handler)
            except (ProtocolError, trio.BrokenResourceError):
                pass  # a client that breaks off or talks nonsense is gone like any other
            finally:
                nursery.cancel_scope.cancel()
                self._gone.set()
                await trio.aclose_forcefully(self._stream)

    async def _answer(self, event: RequestReceived | RequestRefused, handler: Handler) -> None:
        self._unanswered += 1
        try:
            if isinstance(event, RequestRefused):
                await self._send(self._connection.refuse(event.message_id, event.error))
            else:
                await self._handle(event, handler)
        finally:
            self._unanswered -= 1
            answered, self._answered = self._answered, trio.Event()
            answered.set()

    async def _handle(self, event: RequestReceived, handler: Handler) -> None:
        try:
            answer = await handler(self, event.request)
        except GcsError as error:
            await self._send(self._connection.refuse(event.message_id, error))
            return
        except OSError as error:
            # One client's question, as of descriptors that have run out: no end of the service.
            refusal = GcsError(f"{type(event.request).__name__}: {error}")
            await self._send(self._connection.refuse(event.message_id, refusal))
            return
        try:
            data = self._connection.reply(event.message_id, answer.reply)
            await self._send(data, answer.fds)
        finally:
            for fd in answer.fds:
                os.close(fd)

    async def notify(self, notification: Notification) -> None:
        """Say something unasked; a client that is gone does not hear it."""
        await self._send(self._connection.notify(notification))

    async def _send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        try:
            async with self._lock:
                if fds:
                    await self._stream.send_with_fds(data, fds)
                else:
                    await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # its reader sees the same end


async def serve_control(
    path: Path,
    handler: Handler,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve whoever connects to the socket at a path and is its owner; until cancelled."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        accepting = trio.socket.from_stdlib_socket(listener)
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                try:
                    connection, _ = await accepting.accept()
                except OSError as error:
                    if error.errno not in _NO_ROOM:
                        raise
                    await trio.sleep(_ROOM_S)
                    continue
                stdlib = _detached(connection)
                if _peer_uid(stdlib) in (os.getuid(), 0):
                    nursery.start_soon(Conversation(FdStream(stdlib)).serve, handler)
                else:
                    stdlib.close()


def _detached(connection: trio.socket.SocketType) -> socket.socket:
    return socket.socket(fileno=connection.detach())


def _peer_uid(connection: socket.socket) -> int:
    """Return the user that connected. Source: unix(7), struct ucred."""
    layout = struct.Struct("3i")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    _, uid, _ = layout.unpack(raw)
    return int(uid)
