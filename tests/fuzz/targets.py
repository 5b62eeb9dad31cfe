"""What is done with one input of the fuzzer, and what counts as a find.

An input is a byte of options, then either a raw stream, or the number of a message and its
payload: raw streams reach the framing, and a header that is always right lets the fuzzer spend
its time on what is inside.

A find is any exception but the protocol's own, a reply that a host would drop the bridge over,
a request that changes on its way through the codec, too much memory, or too much time.
"""

import struct
import time
import tracemalloc
from collections.abc import Iterator

from gcs.errors import GcsError, RemoteProtocolError
from gcs.wire.codec import Encoding
from gcs.wire.connection import GuestConnection, HostConnection, RequestReceived
from gcs.wire.control import CONTROL
from gcs.wire.frame import Kind, MessageType
from gcs.wire.messages import BRIDGE
from gcs.wire.schema import Catalogue, Reply, Request
from tests.support import strict_host
from tests.support.strict_host import StrictHost
from tests.vectors import make
from tests.vectors.frames import Vector
from tests.vectors.records import REQUESTS

__all__ = ["MAX_INPUT", "TARGETS", "at_guest", "at_host", "bounded", "seeds"]

#: Bytes of an input: what is wrong in a long one is wrong in a short one, and short ones are
#: fast.
MAX_INPUT = 8 * 1024
#: Memory that one input may take: a byte of CBOR becomes 72 at most, so 8 Ki become 576 KiB;
#: the frame, its payload and the reply are copies on top.
MAX_GROWTH = 1024 * 1024
#: CPU time of one input. The slowest of this size takes 20 ms; the rest is for a busy machine
#: and the fuzzer's own instruments.
MAX_SECONDS = 1.0

_WRAPPED, _SERVICE = 1, 2
#: The rest of the options: bytes per read, in units of 5; 0 is all at once.
_CUT_SHIFT, _CUT_UNIT = 2, 5


def _pieces(stream: bytes, options: int) -> Iterator[bytes]:
    step = (options >> _CUT_SHIFT) * _CUT_UNIT or len(stream) or 1
    for start in range(0, len(stream), step):
        yield stream[start : start + step]


def _catalogue(options: int) -> Catalogue:
    return CONTROL if options & _SERVICE else BRIDGE


def _frame(word: MessageType, message_id: int, payload: bytes) -> bytes:
    return struct.pack("<IIQ", word.word, 16 + len(payload), message_id) + payload


# -- a hostile host ----------------------------------------------------------------------


def at_guest(data: bytes) -> None:
    """Be a guest that hears these bytes."""
    options, rest = (data[0], data[1:]) if data else (0, b"")
    catalogue = _catalogue(options)
    if options & _WRAPPED and rest:
        word = MessageType(Kind.REQUEST, catalogue.category, rest[0])
        rest = _frame(word, 7, rest[1:])
    guest = GuestConnection(catalogue)
    try:
        for piece in _pieces(rest, options):
            guest.receive_data(piece)
            for event in guest.events():
                if isinstance(event, RequestReceived):
                    _check_again(event.request, catalogue)
                    answer = guest.reply(event.message_id, Reply())
                else:
                    assert isinstance(event.error, GcsError)
                    answer = guest.refuse(event.message_id, event.error)
                _check_answer(answer, event.message_id)
    except RemoteProtocolError:
        return


def _check_again(request: Request[Reply], catalogue: Catalogue) -> None:
    """A request that was read is written, and read again, as the same."""
    for encoding in Encoding:
        message_id, data = HostConnection(catalogue, encoding).request(request)
        guest = GuestConnection(catalogue)
        guest.receive_data(data)
        assert list(guest.events()) == [RequestReceived(message_id, request)]


def _check_answer(answer: bytes, message_id: int) -> None:
    word, _, answered = struct.unpack_from("<IIQ", answer)
    payload = answer[16:]
    echo = str(strict_host.read(payload).get("ActivityId", ""))
    host = StrictHost()
    request = 0x10000000 | word & 0x0FFFFFFF
    host.waiting[message_id] = request, strict_host.is_cbor(payload), echo
    host.receive(answer)
    assert host.is_between_frames()
    assert [message_id] == [answered] == [each for each, _ in host.answers]


# -- a hostile guest ---------------------------------------------------------------------


def _pending(catalogue: Catalogue) -> dict[int, tuple[MessageType, type[Reply]]]:
    """Return what waits for replies: the requests of the vectors, with their ids."""
    rows = [catalogue.by_request.get(type(request)) for request in REQUESTS.values()]
    return {
        i: (MessageType(Kind.REPLY, catalogue.category, row.number), row.reply)
        for i, row in enumerate(row for row in rows if row is not None)
    }


_WAITING = {catalogue.category: _pending(catalogue) for catalogue in (BRIDGE, CONTROL)}


def at_host(data: bytes) -> None:
    """Be a host, all of whose requests wait, that hears these bytes."""
    options, rest = (data[0], data[1:]) if data else (0, b"")
    catalogue = _catalogue(options)
    waiting = _WAITING[catalogue.category]
    if options & _WRAPPED and rest:
        message_id = rest[0] % (len(waiting) + 1)
        notification = MessageType(Kind.NOTIFICATION, catalogue.category, 1)
        word, _ = waiting.get(message_id, (notification, Reply))
        rest = _frame(word, message_id, rest[1:])
    host = HostConnection(catalogue)
    host._pending = dict(waiting)
    try:
        for piece in _pieces(rest, options):
            host.receive_data(piece)
            for _ in host.events():
                pass
    except RemoteProtocolError:
        return


TARGETS = {"guest": at_guest, "host": at_host}


# -- bounds ------------------------------------------------------------------------------


def bounded(side: str, data: bytes) -> None:
    """Run a target on one input within the bounds of memory and time."""
    target = TARGETS[side]
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    start = time.process_time()
    target(data)
    seconds = time.process_time() - start
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before <= MAX_GROWTH, f"{peak - before} bytes for an input of {len(data)}"
    assert seconds <= MAX_SECONDS, f"{seconds:.2f} s for an input of {len(data)}"


# -- seeds -------------------------------------------------------------------------------


def seeds(side: str) -> Iterator[bytes]:
    """Yield inputs made of the golden frames, raw and wrapped, in both encodings."""
    if side == "guest":
        yield from _seeds_with_data()
    for option, vectors in ((0, make.BRIDGE), (_SERVICE, make.SERVICE)):
        for vector in vectors:
            if (side == "guest") == (vector.word >> 28 == Kind.REQUEST):
                for encoding in ("json", "cbor"):
                    yield from _seeds_of(side, option, vector, vector.frame(encoding))


def _seeds_with_data() -> Iterator[bytes]:
    """Yield requests with one of each item where anything may stand, in both encodings."""
    in_json = b'{"otsc":{"a":1,"b":1.5,"c":[null,true,false],"d":{},"e":-1,"f":"x"}}'
    in_cbor = b"\xa1\x64otsc\xa6\x61a\x01\x61b\xf9\x3e\x00\x61c\x83\xf6\xf5\xf4\x61d\xa0"
    in_cbor += b"\x61e\x20\x61f\x61x"
    for payload in (in_json, in_cbor):
        yield bytes([_WRAPPED, 2]) + payload


def _seeds_of(side: str, option: int, vector: Vector, frame: bytes) -> Iterator[bytes]:
    yield bytes([option]) + frame
    selector = vector.word >> 8 & 0xFF if side == "guest" else vector.message_id
    if vector.word >> 28 == Kind.NOTIFICATION:
        selector = len(_WAITING[CONTROL.category if option else BRIDGE.category])
    yield bytes([option | _WRAPPED, selector]) + frame[16:]
