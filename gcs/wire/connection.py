"""One connection of either side, as a state machine over bytes.

The guest's half turns bytes into requests and replies into bytes; the host's half the other way
round. Neither does I/O or knows time. Every request that came in is answered exactly once, by
`reply` or `refuse`; every request that went out is answered once or interrupted.

A reply uses the encoding of its request; a notification uses that of the connection's first
request (NegotiateProtocol, on a bridge).

Source: PROTOCOL.md, "Connections".
"""

import re
from collections.abc import Iterator
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gcs.errors import (
    GcsError,
    Hresult,
    InvalidRequestError,
    LocalProtocolError,
    RemoteProtocolError,
    UnsupportedError,
)
from gcs.wire import codec
from gcs.wire.codec import Encoding
from gcs.wire.frame import (
    MAX_GUEST_FRAME,
    MAX_HOST_FRAME,
    Frame,
    FrameDecoder,
    Kind,
    MessageType,
)
from gcs.wire.frame import encode as encode_frame
from gcs.wire.schema import Catalogue, ErrorRecord, Notification, Reply, Request

__all__ = [
    "GuestConnection",
    "HostConnection",
    "NotificationReceived",
    "Pending",
    "ReplyReceived",
    "RequestReceived",
    "RequestRefused",
    "encode_reply",
    "error_reply",
]

R = TypeVar("R", bound=Reply)

#: Characters of an error text. It travels twice (ErrorMessage and the error record), and a
#: character takes at most 6 bytes of JSON (a control character as an escape): 2 × 6 × 4096 =
#: 49,152, and the rest of the frame is a few hundred.
_MAX_ERROR_TEXT = 4096

_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class RequestReceived(Struct, frozen=True):
    """A well-formed request that waits for its answer."""

    message_id: int
    request: Request[Reply]


class RequestRefused(Struct, frozen=True):
    """A request that no handler will see: unknown, or not readable. Answer it with `refuse`."""

    message_id: int
    error: GcsError


class ReplyReceived(Struct, frozen=True):
    """The answer to one of our requests; look at `reply.result` first."""

    message_id: int
    reply: Reply


class NotificationReceived(Struct, frozen=True):
    """Something that the guest says unasked."""

    notification: Notification


class Pending(Struct, frozen=True):
    """What a reply must match: the type word, the encoding, the activity."""

    type: MessageType
    encoding: Encoding
    activity_id: str


def error_reply(error: BaseException, hresult: Hresult) -> Reply:
    """Return the reply that says what went wrong, notes included, bounded in length."""
    text = "; ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
    if len(text) > _MAX_ERROR_TEXT:
        half = _MAX_ERROR_TEXT // 2 - 8
        text = f"{text[:half]} … {text[-half:]}"
    text = text.encode(errors="replace").decode()
    record = ErrorRecord(result=hresult, message=text)
    return Reply(result=hresult, error_message=text, error_records=(record,))


class GuestConnection:
    """The side that is asked."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._decoder = FrameDecoder(MAX_HOST_FRAME)
        self._pending: dict[int, Pending] = {}
        self._encoding: Encoding | None = None

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the host."""
        self._decoder.receive_data(data)

    def events(self) -> Iterator[RequestReceived | RequestRefused]:
        """Yield what has come in whole.

        Raises RemoteProtocolError when the host breaks framing, sends anything but a request,
        or uses the id of a request that is still unanswered.
        """
        while (frame := self._decoder.next_frame()) is not None:
            yield self._receive(frame)

    def _receive(self, frame: Frame) -> RequestReceived | RequestRefused:
        if frame.type.kind != Kind.REQUEST:
            raise RemoteProtocolError(f"expected a request, got type {frame.type.word:#010x}")
        if frame.message_id in self._pending:
            raise RemoteProtocolError(f"message id {frame.message_id} is already in use")
        encoding = codec.encoding_of(frame.payload)
        self._encoding = self._encoding or encoding
        self._pending[frame.message_id] = Pending(frame.type, encoding, "")
        try:
            return self._read(frame, encoding)
        except GcsError as error:
            return RequestRefused(frame.message_id, error)

    def _read(self, frame: Frame, encoding: Encoding) -> RequestReceived:
        kind, row = frame.type, self._catalogue.row(frame.type.category, frame.type.number)
        known = row is not None and kind.version == 1
        tree = codec.decode_tree(frame.payload) if known or frame.payload else {}
        activity_id = _take_activity_id(tree)
        self._pending[frame.message_id] = Pending(kind, encoding, activity_id)
        if row is None or not known:
            raise UnsupportedError(f"message type {kind.word:#010x} is not known")
        request = codec.decode(tree, row.request)
        return RequestReceived(frame.message_id, replace(request, activity_id=activity_id))

    def take(self, message_id: int) -> Pending:
        """Forget a request and return what its reply must match, to be sent elsewhere.

        Raises LocalProtocolError when no request of that id waits.
        """
        pending = self._pending.pop(message_id, None)
        if pending is None:
            raise LocalProtocolError(f"no request {message_id} waits for a reply")
        return pending

    def reply(self, message_id: int, reply: Reply) -> bytes:
        """Return the bytes that answer a request, which is then forgotten.

        A reply that is too long for a frame is replaced by an error that says so.
        """
        return encode_reply(message_id, self.take(message_id), reply)

    def refuse(self, message_id: int, error: GcsError) -> bytes:
        """Return the bytes that answer a request with an error."""
        return self.reply(message_id, error_reply(error, error.hresult))

    def notify(self, notification: Notification) -> bytes:
        """Return the bytes of a notification."""
        numbers = self._catalogue.notifications.items()
        number = next(n for n, record in numbers if record is type(notification))
        kind = MessageType(Kind.NOTIFICATION, self._catalogue.category, number)
        payload = codec.encode(notification, self._encoding or Encoding.JSON)
        return encode_frame(Frame(kind, 0, payload), MAX_GUEST_FRAME)


def encode_reply(message_id: int, pending: Pending, reply: Reply) -> bytes:
    """Return the bytes of a reply, as an error when it would be too long for a frame."""
    try:
        return _encode_reply(message_id, pending, reply)
    except LocalProtocolError as error:
        return _encode_reply(message_id, pending, error_reply(error, Hresult.FAIL))


def _encode_reply(message_id: int, pending: Pending, reply: Reply) -> bytes:
    payload = codec.encode(replace(reply, activity_id=pending.activity_id), pending.encoding)
    return encode_frame(Frame(pending.type.reply, message_id, payload), MAX_GUEST_FRAME)


def _take_activity_id(tree: dict[str, object]) -> str:
    """Remove the activity id and return it if it has the form of a GUID, else "".

    It is the one member that may be malformed: it is only echoed, and hosts parse the echo.
    """
    names = [key for key in tree if str(key).lower() == "activityid"]
    values = [tree.pop(name) for name in names]
    value = values[0] if values else ""
    return value if isinstance(value, str) and _GUID.fullmatch(value) else ""


class HostConnection:
    """The side that asks."""

    def __init__(self, catalogue: Catalogue, encoding: Encoding = Encoding.JSON) -> None:
        self._catalogue = catalogue
        self._encoding = encoding
        self._decoder = FrameDecoder(MAX_GUEST_FRAME)
        self._next_id = 0
        #: the type and the record of the reply that each request waits for
        self._pending: dict[int, tuple[MessageType, type[Reply]]] = {}

    def request(self, request: Request[R]) -> tuple[int, bytes]:
        """Return the id and the bytes of a request, which waits for its reply from now on."""
        category, row = self._catalogue.find(type(request))
        message_id, self._next_id = self._next_id, self._next_id + 1
        kind = MessageType(Kind.REQUEST, category, row.number)
        payload = codec.encode(request, self._encoding)
        data = encode_frame(Frame(kind, message_id, payload), MAX_HOST_FRAME)
        self._pending[message_id] = kind.reply, row.reply
        return message_id, data

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the guest."""
        self._decoder.receive_data(data)

    def events(self) -> Iterator[ReplyReceived | NotificationReceived]:
        """Yield what has come in whole.

        Raises RemoteProtocolError when the guest breaks framing, answers what was not asked or
        as another type, or sends a body that its type does not have.
        """
        while (frame := self._decoder.next_frame()) is not None:
            try:
                yield self._receive(frame)
            except InvalidRequestError as error:
                # It may quote what is wrong, which is as long as the guest likes.
                text = f"message {frame.message_id} of type {frame.type.word:#010x}: {error}"
                raise RemoteProtocolError(text[:_MAX_ERROR_TEXT]) from error

    def _receive(self, frame: Frame) -> ReplyReceived | NotificationReceived:
        if frame.type.kind == Kind.REPLY:
            record = self._match(frame)
            tree = codec.decode_tree(frame.payload)
            # An error reply has the base members only.
            base = codec.decode(tree, Reply)
            reply = base if base.result else codec.decode(tree, record)
            return ReplyReceived(frame.message_id, reply)
        notification = self._catalogue.notifications.get(frame.type.number)
        expected = MessageType(Kind.NOTIFICATION, self._catalogue.category, frame.type.number)
        if notification is None or frame.type != expected:
            raise RemoteProtocolError(f"unexpected message of type {frame.type.word:#010x}")
        tree = codec.decode_tree(frame.payload)
        return NotificationReceived(codec.decode(tree, notification))

    def _match(self, frame: Frame) -> type[Reply]:
        """Return what the reply must be, by the request of that id, which waits no longer."""
        expected, record = self._pending.pop(frame.message_id, (None, Reply))
        if expected is None:
            raise RemoteProtocolError(f"no request {frame.message_id} waits for a reply")
        if frame.type != expected:
            text = f"request {frame.message_id} has a reply of type"
            raise RemoteProtocolError(
                f"{text} {frame.type.word:#010x} instead of {expected.word:#010x}"
            )
        return record
