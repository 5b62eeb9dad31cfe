"""Plain maps to frames, without the codec: `struct`, `json` and thirty lines of CBOR."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Document", "Members", "Vector"]

Members = Mapping[str, object]


class Document(dict[str, object]):
    """A map that JSON carries as a string."""


@dataclass(frozen=True)
class Vector:
    """One message, before it is encoded."""

    name: str
    meaning: str
    word: int
    message_id: int
    members: Members
    #: name of the request, for a reply
    answers: str = ""

    def frame(self, encoding: str) -> bytes:
        """Return the bytes of the frame."""
        payload = cbor(self.members) if encoding == "cbor" else as_json(self.members).encode()
        return struct.pack("<IIQ", self.word, 16 + len(payload), self.message_id) + payload

    def entry(self, encoding: str) -> dict[str, str]:
        """Return the object that stands in the file."""
        entry = {"name": self.name, "meaning": self.meaning, "encoding": encoding}
        if self.answers:
            entry["answers"] = self.answers
        return entry | {"hex": self.frame(encoding).hex()}


def as_json(tree: object) -> str:
    """Return compact JSON, documents as strings."""
    return json.dumps(_with_strings(tree), ensure_ascii=False, separators=(",", ":"))


def _with_strings(tree: object) -> object:
    if isinstance(tree, Document):
        return json.dumps(
            {name: _with_strings(value) for name, value in tree.items()},
            ensure_ascii=False,
            separators=(",", ":"),
        )
    if isinstance(tree, Mapping):
        return {name: _with_strings(value) for name, value in tree.items()}
    return [_with_strings(item) for item in tree] if isinstance(tree, list) else tree


def cbor(tree: object) -> bytes:
    """Return CBOR (RFC 8949) with the shortest heads."""
    if isinstance(tree, bool):
        return b"\xf5" if tree else b"\xf4"
    if isinstance(tree, int):
        return _head(0, tree) if tree >= 0 else _head(1, -1 - tree)
    if isinstance(tree, str):
        data = tree.encode()
        return _head(3, len(data)) + data
    if isinstance(tree, Mapping):
        items = b"".join(cbor(name) + cbor(value) for name, value in tree.items())
        return _head(5, len(tree)) + items
    assert isinstance(tree, Sequence), tree
    return _head(4, len(tree)) + b"".join(map(cbor, tree))


def _head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    for info, layout in ((24, ">B"), (25, ">H"), (26, ">I"), (27, ">Q")):
        if value < 1 << 8 * struct.calcsize(layout):
            return bytes([major << 5 | info]) + struct.pack(layout, value)
    raise OverflowError(value)
