"""What every message is made of: the base classes, and the catalogue that names them all.

A message is a frozen record. Its members are spelled in PascalCase on the wire, absent when
they have their default ("omitempty"), and matched without regard to case when they come in.
The type of the reply is a parameter of the request, so that `await client.call(Create(...))`
is a
`CreateReply` for the type checker and at run time.

Source: PROTOCOL.md, "Members".
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Generic, TypeVar

from msgspec import Meta, Struct, field

__all__ = [
    "NESTED",
    "NULL_CONTAINER_ID",
    "Catalogue",
    "ErrorRecord",
    "Int32",
    "Message",
    "Notification",
    "Reply",
    "Request",
    "Row",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
]

#: The container id that means the utility VM itself.
NULL_CONTAINER_ID = "00000000-0000-0000-0000-000000000000"

UInt8 = Annotated[int, Meta(ge=0, le=0xFF)]
UInt16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
UInt32 = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
# msgspec compares bounds as signed 64-bit numbers, so the upper one can't be stated; a kernel
# call that takes such a number checks it again.
UInt64 = Annotated[int, Meta(ge=0)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]

#: Marks a member that JSON carries as a string with a JSON document in it. CBOR carries the
#: document itself.
NESTED = Meta(extra={"nested": True})


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """A record on the wire, or a part of one."""


class ErrorRecord(Message, frozen=True, kw_only=True, omit_defaults=False):
    """One error of a reply; hosts print `message` and ignore the rest."""

    result: Int32
    message: str
    module_name: str = "gcs"
    file_name: str = ""
    #: 0xFFFFFFFF: unknown
    line: UInt32 = 0xFFFFFFFF


class Reply(Message, frozen=True, kw_only=True):
    """The members that every reply has; most replies have no others."""

    result: Int32 = 0
    activity_id: str = ""
    error_message: str = ""
    error_records: tuple[ErrorRecord, ...] = ()


R_co = TypeVar("R_co", bound=Reply, covariant=True)


class Request(Message, Generic[R_co], frozen=True, kw_only=True):
    """The members that every request has; `R_co` is the type of its reply."""

    #: the container, or NULL_CONTAINER_ID
    container_id: str = ""
    #: to be echoed; a GUID, or empty when the host sent none
    activity_id: str = ""
    #: Trace context of the host (W3C), carried as it is.
    otsc: dict[str, object] = field(default_factory=dict)


class Notification(Message, frozen=True, kw_only=True):
    """A message of the guest that answers nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a catalogue."""

    number: int
    request: type[Request[Reply]]
    reply: type[Reply]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that can be asked over one kind of connection, in one message category."""

    category: int
    rows: tuple[Row, ...]
    notifications: Mapping[int, type[Notification]]
    #: other categories whose requests go over the same connection
    extensions: tuple["Catalogue", ...] = ()
    by_number: Mapping[int, Row] = dataclasses.field(init=False)
    by_request: Mapping[type[Request[Reply]], Row] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Index the rows both ways."""
        by_number = MappingProxyType({row.number: row for row in self.rows})
        by_request = MappingProxyType({row.request: row for row in self.rows})
        object.__setattr__(self, "by_number", by_number)
        object.__setattr__(self, "by_request", by_request)

    def row(self, category: int, number: int) -> Row | None:
        """Return the request of a category and a number, None if there is none."""
        for catalogue in (self, *self.extensions):
            if catalogue.category == category:
                return catalogue.by_number.get(number)
        return None

    def find(self, request: type[Request[Reply]]) -> tuple[int, Row]:
        """Return the category and the row of a request that is in the catalogue."""
        for catalogue in (self, *self.extensions):
            if request in catalogue.by_request:
                return catalogue.category, catalogue.by_request[request]
        raise KeyError(request)
