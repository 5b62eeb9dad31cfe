"""What the guest says, decoded into the types that a host expects, or refused.

A host's decoder takes names without regard to case and leaves out what is missing or null. This
one is stricter where a guest has no reason to differ: names are spelt as hosts spell them, a
reply has its Result, a reply that failed has nothing but the error, and the error is recorded.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.support.reference_host.frames import BridgeKilledError, Rpc

__all__ = ["GuestError", "Notification", "Reply", "decode_notification", "decode_reply"]

Decode = Callable[[object, str], object]

_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_EXIT_TYPES = ("GracefulExit", "ForcedExit", "UnexpectedExit")


class GuestError(Exception):
    """A request that the guest refused."""

    def __init__(self, rpc: Rpc, reply: "Reply") -> None:
        self.result = reply.number("Result")
        self.message = reply.text("ErrorMessage")
        super().__init__(f"{rpc.name}: {self.result & 0xFFFFFFFF:#x}: {self.message}")


@dataclass(frozen=True)
class Reply:
    """The members of a reply; what is missing is zero."""

    members: Mapping[str, object]

    def number(self, name: str) -> int:
        """Return a number."""
        value = self.members.get(name, 0)
        assert type(value) is int
        return value

    def text(self, name: str) -> str:
        """Return a string."""
        value = self.members.get(name, "")
        assert isinstance(value, str)
        return value

    def document(self, name: str) -> Mapping[str, object]:
        """Return an object, be it one or in a string."""
        value = self.members.get(name, {})
        assert isinstance(value, Mapping)
        return value


@dataclass(frozen=True)
class Notification:
    """A container has ended."""

    container_id: str
    activity_id: str
    exit_type: str


# -- the types ---------------------------------------------------------------------------------


def _fail(path: str, expected: str, value: object) -> BridgeKilledError:
    return BridgeKilledError(f"{path}: expected {expected}, got {value!r}")


def _number(low: int, high: int) -> Decode:
    def decode(value: object, path: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _fail(path, f"a number of {low} to {high}", value)
        return value

    return decode


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _fail(path, "a string", value)
    return value


def _flag(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise _fail(path, "true or false", value)
    return value


def _guid(value: object, path: str) -> str:
    if not isinstance(value, str) or not _GUID.fullmatch(value):
        raise _fail(path, "a GUID of 36 characters", value)
    return value


def _array(item: Decode) -> Decode:
    def decode(value: object, path: str) -> list[object]:
        if not isinstance(value, list):
            raise _fail(path, "an array", value)
        return [item(one, f"{path}[{i}]") for i, one in enumerate(value)]

    return decode


def _struct(**members: Decode) -> Decode:
    spelling = {name.lower(): name for name in members}

    def decode(value: object, path: str) -> dict[str, object]:
        if not isinstance(value, dict):
            raise _fail(path, "an object", value)
        found: dict[str, object] = {}
        for name, one in value.items():
            known = spelling.get(name.lower())
            if known is None or one is None:
                continue
            if known != name:
                raise BridgeKilledError(f"{path}.{name}: hosts spell it {known}")
            found[name] = members[name](one, f"{path}.{name}")
        return found

    return decode


def _free_form(value: object, path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _fail(path, "an object", value)
    return value


def _document(value: object, path: str) -> dict[str, object]:
    """Decode an object that is in a string."""
    return _free_form(_parse(_text(value, path).encode(), path), path)


def _parse(payload: bytes, path: str) -> object:
    """Parse JSON as Go does: UTF-8, and no number that JSON doesn't know."""

    def refuse(constant: str) -> object:
        raise BridgeKilledError(f"{path}: {constant} is no JSON")

    try:
        document: object = json.loads(payload.decode(), parse_constant=refuse)
    except ValueError as error:
        raise BridgeKilledError(f"{path}: {error}: {payload[:200]!r}") from error
    return document


# -- the messages ------------------------------------------------------------------------------

_INT32 = _number(-(2**31), 2**31 - 1)
_UINT32 = _number(0, 2**32 - 1)
_RECORD = _struct(
    Result=_INT32,
    Message=_text,
    StackTrace=_text,
    ModuleName=_text,
    FileName=_text,
    Line=_UINT32,
    FunctionName=_text,
)
_BASE: Mapping[str, Decode] = {
    "Result": _INT32,
    "ActivityId": _guid,
    "ErrorMessage": _text,
    "ErrorRecords": _array(_RECORD),
}
_CAPABILITIES = _struct(
    SendHostCreateMessage=_flag,
    SendHostStartMessage=_flag,
    HvSocketConfigOnStartup=_flag,
    SupportedSchemaVersions=_array(_struct(Major=_UINT32, Minor=_UINT32)),
    RuntimeOsType=_text,
    GuestDefinedCapabilities=_struct(
        NamespaceAddRequestSupported=_flag,
        SignalProcessSupported=_flag,
        DumpStacksSupported=_flag,
        DeleteContainerStateSupported=_flag,
    ),
)
_OWN: Mapping[Rpc, Mapping[str, Decode]] = {
    Rpc.CREATE: {"SelectedVersion": _text, "SelectedProtocolVersion": _UINT32},
    Rpc.EXECUTE_PROCESS: {"ProcessId": _UINT32},
    Rpc.WAIT_FOR_PROCESS: {"ExitCode": _UINT32},
    Rpc.GET_PROPERTIES: {"Properties": _document},
    Rpc.NEGOTIATE_PROTOCOL: {"Version": _UINT32, "Capabilities": _CAPABILITIES},
    Rpc.DUMP_STACKS: {"GuestStacks": _text},
}
_NOTIFICATION = _struct(
    ContainerId=_text,
    ActivityId=_guid,
    Type=_text,
    Operation=_text,
    Result=_INT32,
    ResultInfo=_document,
)


def decode_reply(rpc: Rpc, payload: bytes) -> Reply:
    """Decode the reply to a request."""
    own = _OWN.get(rpc, {})
    tree = _struct(**_BASE, **own)(_parse(payload, rpc.name), rpc.name)
    assert isinstance(tree, dict)
    reply = Reply(tree)
    if "Result" not in tree:
        raise BridgeKilledError(f"{rpc.name}: no Result in {payload[:200]!r}")
    if reply.number("Result") and own.keys() & tree.keys():
        raise BridgeKilledError(f"{rpc.name}: failed, and says {own.keys() & tree.keys()}")
    if reply.number("Result"):
        _check_records(rpc, reply)
    return reply


def _check_records(rpc: Rpc, reply: Reply) -> None:
    """The error is told once more, by a module called gcs."""
    records = reply.members.get("ErrorRecords")
    assert isinstance(records, list)
    told = {
        "Result": reply.number("Result"),
        "Message": reply.text("ErrorMessage"),
        "ModuleName": "gcs",
    }
    if not told["Message"] or not any(told.items() <= record.items() for record in records):
        raise BridgeKilledError(f"{rpc.name}: {told} is in none of {records}")


def decode_notification(payload: bytes) -> Notification:
    """Decode the only notification that hosts take."""
    tree = _NOTIFICATION(_parse(payload, "notification"), "notification")
    assert isinstance(tree, dict)
    notification = Notification(
        str(tree.get("ContainerId", "")), str(tree.get("ActivityId", "")), str(tree["Type"])
    )
    if notification.exit_type not in _EXIT_TYPES or tree.get("Operation") != "None":
        raise BridgeKilledError(f"no exit of a container: {tree}")
    return notification
