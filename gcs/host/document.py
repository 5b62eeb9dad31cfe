"""Take members out of a JSON document that nobody has checked, each by its type.

Every failure names the document and the member. This is for documents of the host's file
system; messages of the bridge are decoded by `gcs.wire`.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gcs.errors import GcsError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Document", "DocumentError", "parse", "parse_each"]


class DocumentError(GcsError):
    """A document is no JSON, or a member is missing or of the wrong type."""


def parse(content: bytes, name: str) -> "Document":
    """Return a JSON object, named for its errors."""
    return _document(_decoded(content, name), name)


def parse_each(content: bytes, name: str) -> "Iterator[Document]":
    """Yield the objects of a JSON array."""
    # As a member, for the errors of one.
    return Document(name, {"": _decoded(content, name)}).each("")


def _decoded(content: bytes, name: str) -> object:
    try:
        value: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{name}: not JSON: {error}") from error
    return value


def _document(value: object, where: str) -> "Document":
    if not isinstance(value, dict):
        raise DocumentError(f"{where}: expected an object")
    return Document(where, value)


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON object and where it stands; null counts as absent, as it does for Go."""

    where: str
    members: dict[object, object]

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string member; without a default it must be there."""
        value = self.members.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self._error(key, "a string")
        return value

    def number(self, key: str) -> int:
        """Return a whole number that is not negative."""
        value = self.members.get(key)
        if type(value) is not int or value < 0:
            raise self._error(key, "a whole number")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return an array of strings; empty if absent."""
        values = self._array(key)
        found = tuple(value for value in values if isinstance(value, str))
        if len(found) != len(values):
            raise self._error(key, "an array of strings")
        return found

    def table(self, key: str) -> dict[str, str]:
        """Return an object of strings; empty if absent."""
        inner = self.inner(key)
        return {name: inner.text(name) for name in map(str, inner.members)}

    def inner(self, key: str) -> "Document":
        """Return an object; an empty one if absent."""
        value = self.members.get(key)
        return _document({} if value is None else value, f"{self.where}: {key}")

    def each(self, key: str) -> "Iterator[Document]":
        """Yield the objects of an array; nothing if absent."""
        for number, value in enumerate(self._array(key)):
            yield _document(value, f"{self.where}: {key}[{number}]")

    def _array(self, key: str) -> list[object]:
        value = self.members.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._error(key, "an array")
        return value

    def _error(self, key: str, wanted: str) -> DocumentError:
        state = "expected" if key in self.members else "is missing, expected"
        return DocumentError(f"{self.where}: {key} {state} {wanted}")
