"""Hypothesis strategies for messages: any record of any type, and trees of plain data."""

from functools import cache
from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from gcs.wire.messages import BRIDGE, ExitType
from gcs.wire.resource import RESOURCES, ModificationRequest
from gcs.wire.schema import Message, Reply, Request

__all__ = ["json_trees", "records", "replies", "requests", "text"]

#: Text that both encodings can carry: no lone surrogates.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)

_scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text
json_trees = st.recursive(
    _scalars,
    lambda leaf: st.lists(leaf, max_size=3) | st.dictionaries(text, leaf, max_size=3),
    max_leaves=8,
)
_documents = st.dictionaries(text, json_trees, max_size=3)


def _bounded_int(constraints: tuple[object, ...]) -> st.SearchStrategy[int]:
    meta = next(item for item in constraints if isinstance(item, msgspec.Meta))
    low = int(meta.ge) if meta.ge is not None else None
    high = int(meta.le) if meta.le is not None else 2**63 - 1
    return st.integers(low, high)


def _values(annotation: object) -> st.SearchStrategy[object]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    plain: dict[object, st.SearchStrategy[object]] = {
        str: text,
        int: st.integers(0, 2**31),
        bool: st.booleans(),
        object: _scalars,
        ExitType: st.sampled_from(ExitType),
        type(None): st.none(),
    }
    if annotation in plain:
        return plain[annotation]
    if origin is Annotated:
        inner = arguments[0]
        return _bounded_int(arguments) if inner is int else _values(inner)
    if origin in (Union, UnionType):
        return st.one_of(*map(_values, arguments))
    if origin is tuple:
        return st.lists(_values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(text, text, max_size=3) if arguments[1] is str else _documents
    assert isinstance(annotation, type), annotation
    assert issubclass(annotation, Message), annotation
    return records(annotation)


@cache
def _settings() -> st.SearchStrategy[ModificationRequest]:
    def of(resource: str) -> st.SearchStrategy[ModificationRequest]:
        return st.builds(
            ModificationRequest,
            request_type=st.sampled_from(["Add", "Remove", "Update"]),
            resource_type=st.just(resource),
            settings=records(RESOURCES[resource]),
        )

    return st.sampled_from(sorted(RESOURCES)).flatmap(of)


def records(message: type[Message]) -> st.SearchStrategy[Message]:
    """Return a strategy for well-formed records of a type."""
    if message is ModificationRequest:
        return _settings()
    members = {
        field.name: _values(field.type)
        for field in msgspec.structs.fields(message)
        if field.name != "activity_id"
    }
    if any(field.name == "activity_id" for field in msgspec.structs.fields(message)):
        members["activity_id"] = st.uuids().map(str)
    return st.builds(message, **members)


def requests() -> st.SearchStrategy[Request[Reply]]:
    """Return a strategy for requests of the bridge, of every type."""
    kinds = [row.request for row in BRIDGE.rows]
    return st.sampled_from(kinds).flatmap(records)  # type: ignore[arg-type] # of a request


def replies() -> st.SearchStrategy[tuple[type[Request[Reply]], Reply]]:
    """Return a strategy for (request type, a reply to it)."""
    return st.sampled_from(BRIDGE.rows).flatmap(
        lambda row: st.tuples(st.just(row.request), records(row.reply))
    )
