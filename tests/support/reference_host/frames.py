"""Frames of the bridge, version 4, with JSON as hosts in use write it."""

import json
import struct
from dataclasses import dataclass
from enum import IntEnum

import trio

__all__ = [
    "BRIDGE_PORT",
    "NOTIFICATION",
    "NULL_ID",
    "BridgeKilledError",
    "Frame",
    "FrameReader",
    "Hresult",
    "Rpc",
    "encode_request",
    "go_json",
    "reply_word",
]

BRIDGE_PORT = 0x40000000
#: The container id that means the utility VM itself, and the activity id of every request.
NULL_ID = "00000000-0000-0000-0000-000000000000"
NOTIFICATION = 0x30100101
#: What the host takes at most from the guest, with the header.
_MAX_FRAME = 0x10000
#: type, size with the header, id: the host's ids are signed.
_HEADER = struct.Struct("<IIq")
#: Go's encoder writes these as escapes, so that JSON can stand in HTML.
_ESCAPED = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


class BridgeKilledError(Exception):
    """The guest did what makes a host drop the bridge, and with it the VM."""


class Rpc(IntEnum):
    """The requests that a Linux guest serves, by their number."""

    CREATE = 1
    START = 2
    SHUTDOWN_GRACEFUL = 3
    SHUTDOWN_FORCED = 4
    EXECUTE_PROCESS = 5
    WAIT_FOR_PROCESS = 6
    SIGNAL_PROCESS = 7
    RESIZE_CONSOLE = 8
    GET_PROPERTIES = 9
    MODIFY_SETTINGS = 10
    NEGOTIATE_PROTOCOL = 11
    DUMP_STACKS = 12
    DELETE_CONTAINER_STATE = 13
    #: Hosts have a number for it, guests for Linux never served it.
    UPDATE_CONTAINER = 14


class Hresult(IntEnum):
    """Results that mean something to a host, as the int32 that is on the wire."""

    SUCCESS = 0
    NOT_IMPLEMENTED = 0x80004001 - 2**32
    FAIL = 0x80004005 - 2**32
    NOT_FOUND = 0x80070490 - 2**32
    INVALID_ARGUMENT = 0x80070057 - 2**32
    TIMEOUT = 0xC0370109 - 2**32
    UNSUPPORTED_PROTOCOL_VERSION = 0xC037010C - 2**32
    INVALID_JSON = 0xC037010D - 2**32
    SYSTEM_NOT_FOUND = 0xC037010E - 2**32
    SYSTEM_ALREADY_EXISTS = 0xC037010F - 2**32
    SYSTEM_ALREADY_STOPPED = 0xC0370110 - 2**32
    INVALID_STATE = 0x80370105 - 2**32


@dataclass(frozen=True, slots=True)
class Frame:
    """What came from the guest."""

    word: int
    message_id: int
    payload: bytes


def go_json(document: object) -> str:
    """Return JSON as Go's encoder writes it: compact, and safe within HTML."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPED)


def _word(kind: int, rpc: Rpc) -> int:
    """Return kind, category ComputeSystem, number and version 1 as one word."""
    return kind << 28 | 0x001 << 20 | rpc << 8 | 1


def reply_word(rpc: Rpc) -> int:
    """Return the type of the reply to a request."""
    return _word(0x2, rpc)


def _trace(message_id: int) -> dict[str, object]:
    """Return what hosts add to a request that belongs to a trace: these ones, or older ones."""
    if message_id % 4 == 1:
        parent = f"00-4bf92f3577b34da6a3ce929d0e0e4736-{message_id:016x}-01"
        return {"otsc": {"traceparent": parent, "tracestate": ""}}
    if message_id % 4 == 2:
        context = {"TraceID": "4b" * 16, "SpanID": f"{message_id:016x}", "TraceOptions": 1}
        return {"ocsc": context}
    return {}


def encode_request(
    rpc: Rpc, message_id: int, container_id: str, members: dict[str, object]
) -> bytes:
    """Return a request's frame; hosts end the JSON with a line feed, and count it."""
    trace = _trace(message_id)
    document = {"ContainerId": container_id, "ActivityId": NULL_ID, **trace, **members}
    payload = go_json(document).encode() + b"\n"
    header = _HEADER.pack(_word(0x1, rpc), _HEADER.size + len(payload), message_id)
    return header + payload


class FrameReader:
    """Takes frames out of a stream."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> Frame | None:
        """Return the next frame, or None at the end of the stream between two frames."""
        header = await self._take(_HEADER.size)
        if header is None:
            return None
        word, size, message_id = _HEADER.unpack(header)
        if not _HEADER.size <= size <= _MAX_FRAME:
            raise BridgeKilledError(f"a frame of {size} bytes")
        payload = await self._take(size - _HEADER.size)
        if payload is None:
            raise BridgeKilledError("the stream ended after a header")
        return Frame(word, message_id, payload)

    async def _take(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            data = await self._stream.receive_some(65536)
            if not data:
                if self._buffer:
                    raise BridgeKilledError(f"the stream ended in a frame: {self._buffer!r}")
                return None
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken
