"""Payload bytes ↔ records, in JSON or CBOR, the same messages in both.

In: bytes → plain tree → member names folded to their spelling → `msgspec.convert`. Out: the
same way back. Folding follows the record types and stops at every plain map (Environment, the
OCI spec), which is data and passes unchanged. JSON carries a few members as a string with a
document in it (`schema.NESTED`); CBOR carries the document itself.

The encoding is told by the first byte: 0xa0–0xbb opens a CBOR map of definite length, anything
else is JSON.

Source: PROTOCOL.md, "Encodings"; RFC 8949.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from types import UnionType
from typing import Annotated, TypeVar, Union, get_args, get_origin

import cbor2
import msgspec

from gcs.errors import InvalidRequestError
from gcs.wire.bounds import check_json, check_tree, measure_cbor
from gcs.wire.resource import RESOURCES, ModificationRequest, RequestType
from gcs.wire.schema import NESTED, Message, Reply

__all__ = ["Encoding", "decode", "decode_tree", "encode", "encode_tree", "encoding_of"]

M = TypeVar("M", bound=Message)
Tree = dict[str, object]

#: Levels of maps and arrays. The deepest member of an OCI spec in a Create, an argument of a
#: seccomp rule, is at 9; JSON gets 64 because hosts put documents of their own into
#: annotations.
_MAX_CBOR_DEPTH = 16
_MAX_JSON_DEPTH = 64


class Encoding(StrEnum):
    """How a payload is written."""

    JSON = "json"
    CBOR = "cbor"


def encoding_of(payload: bytes) -> Encoding:
    """Tell the encoding by the first byte; an empty payload counts as JSON."""
    return Encoding.CBOR if payload and 0xA0 <= payload[0] <= 0xBB else Encoding.JSON


def decode_tree(payload: bytes) -> Tree:
    """Read a payload as a plain map.

    Raises InvalidRequestError when it is not one whole map of its encoding.
    """
    tree = (
        _decode_cbor(payload)
        if encoding_of(payload) is Encoding.CBOR
        else _decode_json(payload)
    )
    if not isinstance(tree, dict):
        raise InvalidRequestError(f"$: expected a map, got {type(tree).__name__}")
    return tree


def decode(tree: Tree, message: type[M]) -> M:
    """Make a record of a plain map; unknown members are ignored, missing ones have defaults.

    Raises InvalidRequestError that names the member by its path, as in `$.Settings.Lun`.
    """
    record = _convert(_fold(tree, message, "$"), message, "$")
    request = getattr(record, "request", None)
    if isinstance(request, ModificationRequest):
        resolved = msgspec.structs.replace(
            request,
            request_type=request.request_type or RequestType.ADD,
            settings=_resource(request),
        )
        return msgspec.structs.replace(record, request=resolved)
    return record


def encode(message: Message, encoding: Encoding) -> bytes:
    """Write a record; a reply's `Result` is written even when it is 0, as hosts expect."""
    tree = _unfold(message, encoding)
    if isinstance(message, Reply):
        tree.setdefault("Result", message.result)
    return encode_tree(tree, encoding)


def encode_tree(tree: Tree, encoding: Encoding) -> bytes:
    """Write a plain map."""
    return cbor2.dumps(tree) if encoding is Encoding.CBOR else msgspec.json.encode(tree)


# -- bytes to trees ----------------------------------------------------------------------


def _decode_json(payload: bytes) -> object:
    check_json(payload)
    try:
        tree: object = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"$: not JSON: {error}") from error
    check_tree(tree, _MAX_JSON_DEPTH)
    return tree


def _decode_cbor(payload: bytes) -> object:
    """Decode one CBOR item that fills the payload.

    By default cbor2 takes duplicate keys and leaves what follows the item unread; a message has
    neither.
    """
    length = measure_cbor(payload)
    if length != len(payload):
        raise InvalidRequestError(f"$: {len(payload) - length} bytes after the CBOR item")
    try:
        tree: object = cbor2.loads(
            payload,
            max_depth=_MAX_CBOR_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORError, RecursionError) as error:
        raise InvalidRequestError(f"$: not CBOR: {error}") from error
    check_tree(tree, _MAX_CBOR_DEPTH)
    return tree


# -- names -------------------------------------------------------------------------------


@cache
def _members(message: type[Message]) -> Mapping[str, tuple[type[Message] | None, bool]]:
    """Map each spelling to (record type of the member or its items, is it a document)."""
    return {
        field.encode_name: (_record_type(field.type), _is_nested(field.type))
        for field in msgspec.structs.fields(message)
    }


def _is_nested(annotation: object) -> bool:
    return get_origin(annotation) is Annotated and NESTED in get_args(annotation)[1:]


def _record_type(annotation: object) -> type[Message] | None:
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return annotation
    if get_origin(annotation) in (Annotated, Union, UnionType, tuple):
        found = (_record_type(argument) for argument in get_args(annotation))
        return next((record for record in found if record is not None), None)
    return None


@cache
def _spellings(message: type[Message]) -> Mapping[str, str]:
    return {name.lower(): name for name in _members(message)}


def _fold(tree: Tree, message: type[Message], path: str) -> Tree:
    """Return the map with the members' own spelling, nulls left out, documents opened.

    An exact spelling wins over one that differs in case, as in the Go peers. Raises
    InvalidRequestError for an unknown member of a closed record (`forbid_unknown_fields`).
    """
    members, spellings = _members(message), _spellings(message)
    is_closed = message.__struct_config__.forbid_unknown_fields
    folded: Tree = {}
    for key, value in tree.items():
        name = key if key in members else spellings.get(str(key).lower())
        if name is None and is_closed:
            raise InvalidRequestError(f"{path}.{str(key)[:80]}: not a known member")
        if name is None or value is None or (key != name and name in tree):
            continue
        record, nested = members[name]
        if nested and isinstance(value, str):
            value = _open_document(value, f"{path}.{name}")
        folded[name] = value if record is None else _fold_value(value, record, f"{path}.{name}")
    return folded


def _fold_value(value: object, record: type[Message], path: str) -> object:
    if isinstance(value, dict):
        return _fold(value, record, path)
    if isinstance(value, list):
        return [_fold_value(item, record, f"{path}[{i}]") for i, item in enumerate(value)]
    return value


def _open_document(text: str, path: str) -> object:
    """Read a document in a string; an empty one is an empty document."""
    try:
        return _decode_json(text.encode()) if text else {}
    except (InvalidRequestError, UnicodeEncodeError) as error:
        raise InvalidRequestError(f"{path}: {str(error).removeprefix('$: ')}") from error


# -- trees to records and back -----------------------------------------------------------


def _convert(tree: Tree, message: type[M], path: str) -> M:
    try:
        return msgspec.convert(tree, message)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise InvalidRequestError(f"{path}{where.rstrip('`')}: {what}") from error


def _resource(request: ModificationRequest) -> object:
    """Return the settings as the record of their resource type.

    Raises InvalidRequestError when a known resource type comes without the settings it has.
    """
    record = RESOURCES.get(request.resource_type)
    if record is None:
        return request.settings
    if not record.__struct_fields__:
        return record()
    path = "$.Request.Settings"
    if not isinstance(request.settings, dict):
        raise InvalidRequestError(f"{path}: {request.resource_type} needs a map here")
    return _convert(_fold(request.settings, record, path), record, path)


def _unfold(message: Message, encoding: Encoding) -> Tree:
    tree = _plain(msgspec.to_builtins(message, str_keys=True))
    if encoding is Encoding.JSON:
        _close_documents(tree, type(message))
    return tree


def _plain(tree: object) -> Tree:
    assert isinstance(tree, dict), "a record is a map"
    return tree


@cache
def _documents(message: type[Message]) -> tuple[tuple[str, type[Message], bool], ...]:
    """Return (spelling, record type, is it a document) of what is one, or has one in it."""
    return tuple(
        (name, record, nested)
        for name, (record, nested) in _members(message).items()
        if record is not None and (nested or _documents(record))
    )


def _close_documents(tree: Tree, message: type[Message]) -> None:
    for name, record, nested in _documents(message):
        value = tree.get(name)
        if not isinstance(value, dict):
            continue
        _close_documents(value, record)
        if nested:
            tree[name] = msgspec.json.encode(value).decode()
