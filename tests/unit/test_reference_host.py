"""The reference host is a judge: it is independent, it lets pass what hosts bear, no more."""

import ast
import json
import struct
from pathlib import Path

import pytest
import trio.testing

from tests.support import reference_host
from tests.support.reference_host.bridge import Bridge
from tests.support.reference_host.frames import BridgeKilledError, Rpc, encode_request, go_json
from tests.support.reference_host.logs import decode_log
from tests.support.reference_host.shapes import GuestError

_GUID = "01234567-89ab-cdef-0123-456789ABCDEF"
_REPLY, _EXIT = 0x20100C01, 0x30100101
_GONE = {"ContainerId": "c", "Type": "ForcedExit", "Operation": "None", "Result": 0}
_RECORD = {"Result": -1, "Message": "no", "ModuleName": "gcs", "FileName": "", "Line": 0}
_FAILED = {"Result": -1, "ErrorMessage": "no", "ErrorRecords": [_RECORD]}


def frame(word: int, document: object, message_id: int = 0, size: int | None = None) -> bytes:
    """Return what a guest might send."""
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<IIQ", word, size or 16 + len(payload), message_id) + payload


async def hear(data: bytes, rpc: Rpc = Rpc.DUMP_STACKS) -> Bridge:
    """Make request 0, expect the end of container c, and hear that, cut in every place."""
    ours, theirs = trio.testing.memory_stream_pair()
    bridge = Bridge()
    bridge.attach(ours)
    await bridge.send(rpc, "c")
    bridge.register("c")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.serve)
        for byte in data:
            await theirs.send_all(bytes([byte]))
        await trio.testing.wait_all_tasks_blocked()
        await bridge.leave()
    return bridge


@pytest.mark.parametrize(
    "data",
    [
        frame(_REPLY, {"Result": 0}) + frame(_EXIT, _GONE),
        frame(_REPLY, {"Result": 0, "ActivityId": _GUID, "GuestStacks": "x", "New": [None]}),
        frame(_REPLY, {"Result": 0, "ErrorMessage": None}),
        frame(_REPLY, _FAILED),
        frame(_EXIT, {**_GONE, "ActivityId": _GUID}),
    ],
)
async def test_what_hosts_bear_is_borne(data: bytes) -> None:
    """Unknown members, null and any spelling of a GUID are no reason to drop the bridge."""
    bridge = await hear(data)
    assert bridge.ended or bridge.calls == {}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frame(_REPLY, {"Result": 0}, size=15), "15 bytes"),
        (frame(_REPLY, {"Result": 0}, size=65537), "65537 bytes"),
        (frame(_REPLY, {"Result": 0}, message_id=1), "nobody asked"),
        (frame(_REPLY, {"Result": 0}) * 2, "nobody asked"),
        (frame(0x20100501, {"Result": 0}), "no reply to DUMP_STACKS"),
        (frame(_REPLY, b""), "DUMP_STACKS"),
        (frame(_REPLY, b"\xff"), "utf-8"),
        (frame(_REPLY, b'{"Result":NaN}'), "no JSON"),
        (frame(_REPLY, []), "an object"),
        (frame(_REPLY, {}), "no Result"),
        (frame(_REPLY, {"Result": 2**31}), "Result"),
        (frame(_REPLY, {"Result": -(2**31) - 1}), "Result"),
        (frame(_REPLY, {"Result": 0.0}), "Result"),
        (frame(_REPLY, {"Result": True}), "Result"),
        (frame(_REPLY, {"result": 0}), "hosts spell it"),
        (frame(_REPLY, {"Result": 0, "ActivityId": ""}), "GUID"),
        (frame(_REPLY, {"Result": 0, "ActivityId": "{" + _GUID[1:-1] + "}"}), "GUID"),
        (frame(_REPLY, {"Result": 0, "GuestStacks": 1}), "a string"),
        (frame(_REPLY, {**_FAILED, "GuestStacks": ""}), "failed, and says"),
        (frame(_REPLY, {**_FAILED, "ErrorMessage": "other"}), "in none of"),
        (frame(_REPLY, {**_FAILED, "ErrorRecords": [{**_RECORD, "Line": -1}]}), "Line"),
        (frame(0x10100C01, {}), "kind 0x1"),
        (frame(0x30100102, _GONE), "hosts don't know"),
        (frame(_EXIT, _GONE, message_id=1), "hosts don't know"),
        (frame(_EXIT, {**_GONE, "ContainerId": "d"}), "no such container"),
        (frame(_EXIT, _GONE) * 2, "its end was told"),
        (frame(_EXIT, {**_GONE, "ResultInfo": ""}), "ResultInfo"),
        (frame(_EXIT, {**_GONE, "ActivityId": ""}), "GUID"),
        (frame(_EXIT, {**_GONE, "Type": "Exit"}), "no exit"),
    ],
)
async def test_what_drops_the_bridge_is_found(data: bytes, reason: str) -> None:
    """Each fault by itself ends the bridge, and says why."""
    with pytest.RaisesGroup(pytest.RaisesExc(BridgeKilledError, match=reason)):
        await hear(data)


async def test_properties_are_a_document_in_a_string() -> None:
    """An object instead is no string, and what is in the string must be JSON."""
    good = frame(0x20100901, {"Result": 0, "Properties": '{"ProcessList":[]}'})
    assert (await hear(good, Rpc.GET_PROPERTIES)).calls == {}
    faults: tuple[object, ...] = ({}, "{", "[]")
    for bad in faults:
        data = frame(0x20100901, {"Result": 0, "Properties": bad})
        with pytest.RaisesGroup(BridgeKilledError):
            await hear(data, Rpc.GET_PROPERTIES)


async def test_a_guest_that_closes_or_cuts_a_frame_is_found() -> None:
    """The end of the stream is an error wherever it comes."""
    for data in (b"", b"\x01", frame(_REPLY, {"Result": 0})[:-1]):
        ours, theirs = trio.testing.memory_stream_pair()
        bridge = Bridge()
        bridge.attach(ours)
        await bridge.send(Rpc.DUMP_STACKS, "c")
        await theirs.send_all(data)
        await theirs.aclose()
        with pytest.raises(BridgeKilledError):
            await bridge.serve()


async def test_no_answer_within_five_minutes_is_found(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A request that is no wait has an answer in time, or the bridge falls."""
    ours, _theirs = trio.testing.memory_stream_pair()
    bridge = Bridge()
    bridge.attach(ours)
    with pytest.raises(BridgeKilledError, match="message timeout"):
        await bridge.call(Rpc.DUMP_STACKS, "c")
    assert trio.current_time() == pytest.approx(300, abs=1)


async def test_a_refusal_has_its_result_and_its_words() -> None:
    """What the guest refuses is the caller's to handle, and no reason to drop the bridge."""
    bridge = Bridge()
    call = bridge.preregister(0, Rpc.DUMP_STACKS)
    ours, theirs = trio.testing.memory_stream_pair()
    bridge.attach(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.serve)
        await theirs.send_all(frame(_REPLY, _FAILED))
        with pytest.raises(GuestError, match="0xffffffff: no"):
            await call.result()
        await bridge.leave()


def test_the_first_frame_is_that_of_hosts_in_use() -> None:
    """Byte by byte, with the line feed that Go's encoder ends with."""
    members: dict[str, object] = {"MinimumVersion": 4, "MaximumVersion": 4}
    data = encode_request(Rpc.NEGOTIATE_PROTOCOL, 0, "", members)
    assert data[:16].hex(" ", 4) == "010b1010 7d000000 00000000 00000000"
    assert data[16:] == (
        b'{"ContainerId":"","ActivityId":"00000000-0000-0000-0000-000000000000",'
        b'"MinimumVersion":4,"MaximumVersion":4}\n'
    )


def test_json_is_escaped_as_go_does() -> None:
    """What could end a script in HTML is escaped, and nothing else beyond JSON's own."""
    assert go_json({"a": "<b>&é\u2028"}) == '{"a":"\\u003cb\\u003e\\u0026é\\u2028"}'


@pytest.mark.parametrize("line", [b"Traceback", b"{}", b'{"time":"now","msg":"x"}', b"[1]"])
def test_what_ends_the_structured_log_is_found(line: bytes) -> None:
    """Each line is a record with a time that can be read."""
    good = b'{"time":"2026-01-02T03:04:05.678901Z","level":"info","msg":"x","n":1}'
    assert len(decode_log(good + b"\n" + good + b"\n" + line)) == 2
    with pytest.raises(BridgeKilledError):
        decode_log(good + b"\n" + line + b"\n")


def test_it_is_independent_of_this_project() -> None:
    """No module of it imports gcs, or a part of the tests that does."""
    folder = Path(reference_host.__file__).parent
    modules = sorted(folder.glob("*.py"))
    assert len(modules) > 5
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "."]
            for name in names:
                top = name.partition(".")[0]
                assert top not in ("gcs", ""), f"{path.name} imports {name}"
                if top == "tests":
                    assert name.startswith("tests.support.reference_host."), (path.name, name)
