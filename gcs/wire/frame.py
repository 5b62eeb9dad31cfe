"""Frames: a 16-byte little-endian header and a payload.

```
 0        4        8                16
 ├ type ──┼ size ──┼ message id ─────┼ payload (size - 16 bytes) …
   u32      u32      u64
```

`type` is four bit fields: kind (31–28), category (27–20), number (19–8), version (7–0). `size`
counts the header. Nothing here looks into a payload.

Source: the GCS bridge protocol, version 4 (PROTOCOL.md).
"""

import struct
from enum import IntEnum

from msgspec import Struct

from gcs.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "HEADER_SIZE",
    "MAX_GUEST_FRAME",
    "MAX_HOST_FRAME",
    "Category",
    "Frame",
    "FrameDecoder",
    "Kind",
    "MessageType",
    "encode",
]

_HEADER = struct.Struct("<IIQ")
HEADER_SIZE = _HEADER.size

#: What a guest may send in one frame, header included. A host in use takes anything larger for
#: a broken transport and drops the bridge.
MAX_GUEST_FRAME = 64 * 1024

#: What a guest takes in one frame. Hosts have no limit of their own and send the whole OCI
#: spec as a string inside a string, which doubles every quote and backslash: 1 MiB of spec can
#: become 2 MiB, and 4 MiB leaves as much again while it still fits into a VM of 64 MiB.
MAX_HOST_FRAME = 4 * 1024 * 1024


class Kind(IntEnum):
    """Who speaks: bits 31–28."""

    #: host → guest
    REQUEST = 0x1
    #: guest → host, with the message id of its request
    REPLY = 0x2
    #: guest → host, message id 0
    NOTIFICATION = 0x3


class Category(IntEnum):
    """Whose message numbers these are: bits 27–20."""

    #: the bridge, version 4
    COMPUTE_SYSTEM = 0x001
    #: on a bridge as well: what version 4 lacks
    EXTENSION = 0x0F2
    #: gcsctl and the process that owns a VM; never on a bridge
    SERVICE = 0x0F1
    # 0x002 (ComputeService, Windows guests only) is deliberately absent.


# A Struct, as all that each message makes anew: a frozen dataclass takes ten times as long.
class MessageType(Struct, frozen=True):
    """The type word of a header, taken apart."""

    kind: int
    category: int
    number: int
    version: int = 1

    @classmethod
    def from_word(cls, word: int) -> "MessageType":
        """Split the 32-bit word."""
        return cls(word >> 28, word >> 20 & 0xFF, word >> 8 & 0xFFF, word & 0xFF)

    @property
    def word(self) -> int:
        """The 32-bit word."""
        return self.kind << 28 | self.category << 20 | self.number << 8 | self.version

    @property
    def reply(self) -> "MessageType":
        """The type of the reply to this request, known or not: all but the kind is kept."""
        return MessageType(Kind.REPLY, self.category, self.number, self.version)


class Frame(Struct, frozen=True):
    """One message as it travels."""

    type: MessageType
    message_id: int
    payload: bytes


def encode(frame: Frame, limit: int) -> bytes:
    """Return the bytes of a frame, header and payload in one piece.

    Raises LocalProtocolError when it would be longer than `limit` bytes.
    """
    size = HEADER_SIZE + len(frame.payload)
    if size > limit:
        raise LocalProtocolError(f"frame of {size} bytes is over the limit of {limit}")
    return _HEADER.pack(frame.type.word, size, frame.message_id) + frame.payload


class FrameDecoder:
    """Cut a byte stream into frames, holding at most one incomplete frame of bounded size."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    @property
    def is_empty(self) -> bool:
        """True between frames: an end of stream here is a clean one."""
        return not self._buffer

    def receive_data(self, data: bytes) -> None:
        """Take bytes as they came."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None until more bytes come.

        Raises RemoteProtocolError as soon as a header with an impossible size is there; the
        stream can't be resumed after that.
        """
        if len(self._buffer) < HEADER_SIZE:
            return None
        word, size, message_id = _HEADER.unpack_from(self._buffer)
        if not HEADER_SIZE <= size <= self._limit:
            raise RemoteProtocolError(
                f"frame header says {size} bytes, allowed are {HEADER_SIZE} to {self._limit}"
            )
        if len(self._buffer) < size:
            return None
        payload = bytes(self._buffer[HEADER_SIZE:size])
        del self._buffer[:size]
        return Frame(MessageType.from_word(word), message_id, payload)
