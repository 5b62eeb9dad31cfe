"""Typed calls over one connection: a bridge to a guest, or the control socket of a service.

One task reads, one writes; callers only wait. A caller may be cancelled at any time: its
request stays sent, and the late reply is dropped. When the connection ends, every caller that
waits gets DisconnectedError with the true cause, and so does every later one.

Deadlines are the caller's: `with trio.fail_after(...)` around `call`.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import trio

from gcs.errors import CallError, DisconnectedError, ProtocolError
from gcs.host.background import open_background
from gcs.wire.codec import Encoding
from gcs.wire.connection import HostConnection, NotificationReceived, ReplyReceived
from gcs.wire.schema import Catalogue, Notification, Reply, Request

__all__ = ["Client", "open_client"]

R = TypeVar("R", bound=Reply)

_log = logging.getLogger("gcs.host.client")

#: Largest reply frame, so that one read usually takes all that is there.
_READ_SIZE = 64 * 1024
#: Requests that wait for the writer. A stalled peer then holds up callers, not memory.
_OUTGOING = 16
#: Notifications that nobody has taken yet. One container sends one exit and a few dozen
#: progress steps; a peer that is this far ahead is not one that the reader should wait for. At
#: 64 KiB each they take 16 MiB.
_NOTIFICATIONS = 256
#: Characters of an error's text: what a guest of ours sends at most. It is for a person.
_MAX_TEXT = 4096


@dataclass(slots=True)
class _Waiter(Generic[R]):
    """A caller that waits for its reply."""

    event: trio.Event = field(default_factory=trio.Event)
    reply: Reply | None = None


class Client:
    """The asking side of a connection; made by `open_client`."""

    def __init__(
        self, stream: trio.abc.Stream, catalogue: Catalogue, encoding: Encoding
    ) -> None:
        self._stream = stream
        self._connection = HostConnection(catalogue, encoding)
        self._catalogue = catalogue
        self._waiters: dict[int, _Waiter[Reply]] = {}
        self._cause: BaseException | None = None
        self._to_writer, self._outgoing = trio.open_memory_channel[bytes](_OUTGOING)
        self._to_owner, self.notifications = trio.open_memory_channel[Notification](
            _NOTIFICATIONS
        )
        #: set when the connection has ended
        self.disconnected = trio.Event()

    async def call(self, request: Request[R]) -> R:
        """Send a request and return its reply.

        Raises CallError when the peer answers with an error, DisconnectedError when the
        connection ends first, LocalProtocolError when the request is too long for a frame.
        """
        name, began = type(request).__name__, trio.current_time()
        if self.disconnected.is_set():
            raise self._disconnected(name)
        message_id, data = self._connection.request(request)
        waiter: _Waiter[Reply] = _Waiter()
        self._waiters[message_id] = waiter
        try:
            await self._send(name, data)
            await waiter.event.wait()
        finally:
            self._waiters.pop(message_id, None)
        reply = waiter.reply
        _trace(name, request.container_id, trio.current_time() - began, reply)
        if reply is None:
            raise self._disconnected(name)
        if reply.result:
            raise CallError(name, reply.result, reply.error_message[:_MAX_TEXT])
        return self._typed(request, reply)

    def _typed(self, request: Request[R], reply: Reply) -> R:
        expected: type[R] = _reply_type(self._catalogue, request)
        assert isinstance(reply, expected), "HostConnection decodes what the catalogue says"
        return reply

    async def _send(self, name: str, data: bytes) -> None:
        try:
            await self._to_writer.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._disconnected(name) from self._cause

    def _disconnected(self, name: str) -> DisconnectedError:
        why = str(self._cause) if self._cause else "the peer closed the connection"
        error = DisconnectedError(f"{name}: disconnected: {why}")
        error.__cause__ = self._cause
        return error

    # -- the two tasks ----------------------------------------------------------------------

    async def read(self) -> None:
        """Read until the connection ends, then let go of everybody who waits."""
        try:
            while data := await self._stream.receive_some(_READ_SIZE):
                self._connection.receive_data(bytes(data))
                for event in self._connection.events():
                    self._take(event)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError) as error:
            self._end(error)
        else:
            self._end(None)

    def _take(self, event: ReplyReceived | NotificationReceived) -> None:
        if isinstance(event, NotificationReceived):
            try:
                self._to_owner.send_nowait(event.notification)
            except trio.WouldBlock:
                text = f"{_NOTIFICATIONS} notifications wait unread"
                raise ProtocolError(text) from None
            except trio.BrokenResourceError:
                pass  # nobody listens any more, which is the owner's right
            return
        waiter = self._waiters.get(event.message_id)
        if waiter is not None:
            waiter.reply = event.reply
            waiter.event.set()

    async def write(self) -> None:
        """Write what callers hand over, one whole frame after the other."""
        with self._outgoing:
            async for data in self._outgoing:
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    # The reader may still find replies that were on their way; it ends the
                    # connection when it has them all.
                    self._cause = self._cause or error
                    return

    def _end(self, cause: BaseException | None) -> None:
        self._cause = cause or self._cause
        self.disconnected.set()
        self._to_writer.close()
        self._to_owner.close()
        for waiter in self._waiters.values():
            waiter.event.set()


def _trace(name: str, container_id: str, seconds: float, reply: Reply | None) -> None:
    """Leave a line of the conversation for whoever has to find out what went wrong."""
    said = "none: disconnected" if reply is None else reply.error_message[:_MAX_TEXT]
    _log.debug(
        "call",
        extra={
            "request": name,
            "container": container_id,
            "milliseconds": round(seconds * 1000, 1),
            "answer": said or "success",
        },
    )


def _reply_type(catalogue: Catalogue, request: Request[R]) -> type[R]:
    """Return the reply's type from the catalogue; it is the request's parameter."""
    # A test compares every row's reply with the parameter of its request.
    reply: type[R] = catalogue.find(type(request))[1].reply  # type: ignore[assignment]
    return reply


@asynccontextmanager
async def open_client(
    stream: trio.abc.Stream, catalogue: Catalogue, encoding: Encoding = Encoding.JSON
) -> AsyncIterator[Client]:
    """Serve a client of a stream for the length of the block; the stream is closed after it."""
    client = Client(stream, catalogue, encoding)
    try:
        async with open_background() as nursery:
            nursery.start_soon(client.read)
            nursery.start_soon(client.write)
            yield client
    finally:
        await trio.aclose_forcefully(stream)
