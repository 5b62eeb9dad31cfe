"""A host that drops the bridge wherever a host in use would: the judge of what a guest sends.

Written from what hosts do and not from our codec: it has a reader of its own, of the standard
library and cbor2, and knows nothing of `gcs`.
"""

import json
import struct
import uuid
from dataclasses import dataclass, field

import cbor2

__all__ = ["StrictHost", "is_cbor", "read"]

_HEADER = struct.Struct("<IIQ")
_MAX_FRAME = 65_536
_NOTIFICATION = 0x30100101
_INT32 = range(-(2**31), 2**31)
_UINT32 = range(2**32)

Body = dict[str, object]


@dataclass
class StrictHost:
    """What the host knows, and what has come in."""

    #: requests that wait for a reply: id → (type word, is it CBOR, activity id or "")
    waiting: dict[int, tuple[int, bool, str]] = field(default_factory=dict)
    #: containers that a notification may name
    containers: set[str] = field(default_factory=set)
    #: ids answered, in order, with the result
    answers: list[tuple[int, int]] = field(default_factory=list)
    _buffer: bytes = b""

    def asked(self, frame: bytes, activity_id: str = "") -> None:
        """Note a request that is on its way."""
        word, _, message_id = _HEADER.unpack_from(frame)
        assert message_id not in self.waiting, f"id {message_id} is used twice"
        self.waiting[message_id] = word, is_cbor(frame[_HEADER.size :]), activity_id

    def receive(self, data: bytes) -> None:
        """Take bytes from the guest. Raises AssertionError where a host drops the bridge."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            word, size, message_id = _HEADER.unpack_from(self._buffer)
            assert _HEADER.size <= size <= _MAX_FRAME, f"a frame of {size} bytes"
            if len(self._buffer) < size:
                return
            payload, self._buffer = self._buffer[_HEADER.size : size], self._buffer[size:]
            self._take(word, message_id, payload)

    def is_between_frames(self) -> bool:
        """Tell whether everything that came was whole."""
        return not self._buffer

    def _take(self, word: int, message_id: int, payload: bytes) -> None:
        if word >> 28 == 2:
            self._take_reply(word, message_id, payload)
        else:
            assert word == _NOTIFICATION, f"a message of type {word:#010x}"
            assert message_id == 0
            self._take_notification(payload)

    def _take_reply(self, word: int, message_id: int, payload: bytes) -> None:
        assert message_id in self.waiting, f"an answer to {message_id}, which was not asked"
        request, was_cbor, activity_id = self.waiting.pop(message_id)
        assert is_cbor(payload) == was_cbor, "an answer in the other encoding"
        assert word == 0x20000000 | request & 0x0FFFFFFF
        body = read(payload)
        result = body["Result"]
        assert isinstance(result, int)
        assert result in _INT32
        assert body.get("ActivityId", "") == activity_id
        _check_guid(body)
        _check_error(body, result)
        _check_members(body, was_cbor=was_cbor)
        self.answers.append((message_id, result))

    def _take_notification(self, payload: bytes) -> None:
        body = read(payload)
        assert body["ContainerId"] in self.containers, "a container that is not known"
        self.containers.remove(str(body["ContainerId"]))
        _check_guid(body)
        assert "ResultInfo" not in body
        assert body["Result"] in _INT32


def is_cbor(payload: bytes) -> bool:
    """Tell the encoding as the protocol does."""
    return bool(payload) and 0xA0 <= payload[0] <= 0xBB


def read(payload: bytes) -> Body:
    """Return the members of a message's body."""
    body: object = cbor2.loads(payload) if is_cbor(payload) else json.loads(payload.decode())
    assert isinstance(body, dict)
    return body


def _check_guid(body: Body) -> None:
    """An absent activity id is zero; any other must be a GUID of 36 characters."""
    if "ActivityId" in body:
        text = body["ActivityId"]
        assert isinstance(text, str)
        assert len(text) == 36
        assert str(uuid.UUID(text)) == text.lower()


def _check_error(body: Body, result: int) -> None:
    assert isinstance(body.get("ErrorMessage", ""), str)
    records = body.get("ErrorRecords", [])
    assert isinstance(records, list)
    assert len(records) == (0 if result == 0 else 1)
    for record in records:
        assert record["Result"] == result
        assert record["Message"] == body["ErrorMessage"]
        assert isinstance(record["ModuleName"], str)
        assert isinstance(record["FileName"], str)
        assert record["Line"] in _UINT32


def _check_members(body: Body, *, was_cbor: bool) -> None:
    """Check the members that a host reads as numbers of 32 bits, or as a document."""
    for name in ("ProcessId", "ExitCode", "Version", "SelectedProtocolVersion"):
        assert body.get(name, 0) in _UINT32, name
    if "Properties" in body and not was_cbor:
        document = body["Properties"]
        assert isinstance(document, str)
        assert isinstance(json.loads(document), dict)
