"""What a host can ask of a guest, all of it, and a client that notes what it has asked.

A *place* is the name of something that can be asked for: a kind of request, one of the VM or of
a container, a change of a resource, a property, a member of a record.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from itertools import chain
from typing import TypeVar

import msgspec
import trio
from msgspec import inspect

from gcs.guest.handlers.settings import CONTAINER_HANDLERS, HANDLERS
from gcs.host.background import open_background
from gcs.host.bridge import call
from gcs.host.client import Client
from gcs.wire.codec import Encoding
from gcs.wire.messages import (
    BRIDGE,
    ExecuteProcess,
    GetProperties,
    ModifySettings,
    NegotiateProtocol,
    ResizeConsole,
    ShutdownForced,
    ShutdownGraceful,
    SignalProcess,
    WaitForProcess,
)
from gcs.wire.properties import PropertyType
from gcs.wire.resource import RESOURCES, RequestType, ResourceType
from gcs.wire.schema import NULL_CONTAINER_ID, Reply, Request

__all__ = [
    "Asking",
    "asked",
    "changes",
    "members",
    "open_asking",
    "properties",
    "requests",
    "unmade_changes",
]

R = TypeVar("R", bound=Reply)

#: Those that mean one thing for the VM and another for a container.
_OF_BOTH = (
    *(ExecuteProcess, GetProperties, ModifySettings, ResizeConsole, ShutdownForced),
    *(ShutdownGraceful, SignalProcess, WaitForProcess),
)
_VM, _CONTAINER = "of the VM", "of a container"


# -- all that there is -------------------------------------------------------------------------


def requests() -> frozenset[str]:
    """Return the places of all requests of the catalogue, its extensions' too."""
    rows = chain(BRIDGE.rows, *(catalogue.rows for catalogue in BRIDGE.extensions))
    return frozenset(
        place
        for row in rows
        for place in (_of_request(row.request, _VM), _of_request(row.request, _CONTAINER))
    )


def changes() -> frozenset[str]:
    """Return the places of all changes that the guest makes."""
    kinds = {record: name for name, record in RESOURCES.items()}
    own = {_of_change(kinds[kind], action, _VM) for kind, action in HANDLERS}
    others = {
        _of_change(kinds[kind], action, _CONTAINER) for kind, action in CONTAINER_HANDLERS
    }
    return frozenset(own | others)


def unmade_changes() -> Iterator[tuple[ResourceType, RequestType, bool]]:
    """Yield the changes that it does not make, and whether they are the VM's."""
    for kind in ResourceType:
        for action in RequestType:
            for target in (_VM, _CONTAINER):
                if _of_change(kind, action, target) not in changes():
                    yield kind, action, target == _VM


def properties() -> frozenset[str]:
    """Return the places of all properties, of the VM and of a container."""
    return frozenset(
        f"{kind} {target}" for kind in PropertyType for target in (_VM, _CONTAINER)
    )


@cache
def members() -> frozenset[str]:
    """Return the members of all records that a request can hold."""
    rows = chain(BRIDGE.rows, *(catalogue.rows for catalogue in BRIDGE.extensions))
    kinds = (*(row.request for row in rows), *RESOURCES.values())
    found = (record for kind in kinds for record in _records(inspect.type_info(kind)))
    return frozenset(
        _of_member(record.cls, field.name) for record in found for field in record.fields
    )


def _records(kind: inspect.Type) -> Iterator[inspect.StructType]:
    match kind:
        case inspect.StructType(fields=fields):
            yield kind
            for each in fields:
                yield from _records(each.type)
        case inspect.Metadata(type=inner) | inspect.VarTupleType(item_type=inner):
            yield from _records(inner)
        case inspect.UnionType(types=types):
            for each_type in types:
                yield from _records(each_type)
        case _:
            pass


# -- names -------------------------------------------------------------------------------------


def _of_request(kind: type[Request[Reply]], target: str) -> str:
    return f"{kind.__name__} {target}" if kind in _OF_BOTH else kind.__name__


def _of_change(kind: str, action: str, target: str) -> str:
    return f"{action} {kind} {target}"


def _of_member(kind: type, name: str) -> str:
    is_common = issubclass(kind, Request) and name in Request.__struct_fields__
    return f"{'Request' if is_common else kind.__name__}.{name}"


# -- what was asked ----------------------------------------------------------------------------


def asked(request: Request[Reply]) -> frozenset[str]:
    """Return the places of a request."""
    target = _VM if request.container_id == NULL_CONTAINER_ID else _CONTAINER
    found = {_of_request(type(request), target), *_set_members(request)}
    if isinstance(request, ModifySettings):
        change = request.request
        found.add(_of_change(change.resource_type, change.request_type, target))
    if isinstance(request, GetProperties):
        found |= {f"{kind} {target}" for kind in request.query.property_types}
    return frozenset(found)


def _set_members(record: object) -> Iterator[str]:
    """Yield the members of a record that differ from their defaults, and those within them."""
    if isinstance(record, tuple):
        for each in record:
            yield from _set_members(each)
    elif isinstance(record, msgspec.Struct):
        blank = type(record)()
        for name in record.__struct_fields__:
            value = getattr(record, name)
            if value != getattr(blank, name):
                yield _of_member(type(record), name)
                yield from _set_members(value)


class Asking(Client):
    """A client that notes the places of its requests."""

    def __init__(self, stream: trio.abc.Stream, encoding: Encoding, places: set[str]) -> None:
        super().__init__(stream, BRIDGE, encoding)
        self._places = places

    async def call(self, request: Request[R]) -> R:
        """Note a request, send it, and return its reply. See Client."""
        self._places |= asked(request)
        return await super().call(request)


@asynccontextmanager
async def open_asking(
    stream: trio.abc.Stream, encoding: Encoding, places: set[str]
) -> AsyncIterator[Client]:
    """Speak the protocol over an agent's connection for the length of the block.

    Args:
        stream: What the agent has dialled.
        encoding: Of the requests; the answers have it, too.
        places: Gets the places of all that is asked.
    """
    client = Asking(stream, encoding, places)
    try:
        async with open_background() as nursery:
            nursery.start_soon(client.read)
            nursery.start_soon(client.write)
            reply = await call(client, NegotiateProtocol(minimum_version=4, maximum_version=4))
            assert reply.version == 4
            yield client
    finally:
        await trio.aclose_forcefully(stream)
