"""The codec: what hosts send and what they expect, member by member."""

import tracemalloc

import cbor2
import msgspec
import pytest

from gcs.errors import InvalidRequestError
from gcs.wire import bounds, codec
from gcs.wire.codec import Encoding
from gcs.wire.messages import (
    ContainerConfig,
    Create,
    ExecuteProcess,
    ExecuteProcessReply,
    GetProperties,
    ModifySettings,
    ProcessParameters,
    SignalProcess,
)
from gcs.wire.resource import (
    ContainerConstraints,
    MappedVirtualDisk,
    ModificationRequest,
    PodCgroupMemoryLimit,
    VPMemDevice,
)
from gcs.wire.schema import Message, Reply


def decode(text: str, message: type[Message]) -> Message:
    """Decode JSON as a host writes it."""
    return codec.decode(codec.decode_tree(text.encode()), message)


def test_member_names_are_matched_without_case() -> None:
    """A name that differs in case is taken, at every message level and in documents."""
    text = '{"settings":{"processparameters":"{\\"createstdinpipe\\":true}"}}'
    request = decode(text, ExecuteProcess)
    assert isinstance(request, ExecuteProcess)
    assert request.settings.process_parameters.create_std_in_pipe


def test_an_exact_spelling_wins() -> None:
    """Of two spellings of one member the exact one counts, wherever it stands."""
    text = '{"processid":1,"ProcessId":2,"PROCESSID":3}'
    request = decode(text, SignalProcess)
    assert isinstance(request, SignalProcess)
    assert request.process_id == 2


def test_data_keeps_its_names() -> None:
    """Environment and OCI documents are not folded."""
    environment = {"path": "1", "Path": "2", "PATH": "3"}
    parameters = ProcessParameters(environment=environment, oci_process={"ARGS": [], "args": 1})
    payload = codec.encode(parameters, Encoding.JSON)
    assert codec.decode(codec.decode_tree(payload), ProcessParameters) == parameters


def test_null_is_absent() -> None:
    """A null member has its default; a null inside data stays."""
    text = '{"ContainerId":null,"ContainerConfig":"{\\"OciSpecification\\":{\\"a\\":null}}"}'
    request = decode(text, Create)
    assert isinstance(request, Create)
    assert request.container_id == ""
    assert request.container_config.oci_specification == {"a": None}


def test_unknown_members_are_ignored() -> None:
    """Hosts send more than one guest knows."""
    assert decode('{"ocsc":{"TraceID":"00"},"New":[1]}', Reply) == Reply()


def test_limits_of_a_container_come_in_hosts_own_spelling() -> None:
    """Beside those of Windows; what is in them is data."""
    text = (
        '{"Request":{"ResourceType":"ContainerConstraints","RequestType":"Update",'
        '"Settings":{"Windows":{},"linux":{"memory":{"limit":1,"Odd":null}}}}}'
    )
    request = decode(text, ModifySettings)
    assert isinstance(request, ModifySettings)
    linux: dict[str, object] = {"memory": {"limit": 1, "Odd": None}}
    assert request.request.settings == ContainerConstraints(linux=linux)


@pytest.mark.parametrize("settings", ["", ',"Settings":null', ',"Settings":{}'])
def test_a_resource_without_settings_needs_none(settings: str) -> None:
    """Hosts leave them out."""
    start = '{"Request":{"ResourceType":"PodCgroupMemoryLimit","RequestType":"Update"'
    text = f"{start}{settings}}}}}"
    request = decode(text, ModifySettings)
    assert isinstance(request, ModifySettings)
    assert request.request.settings == PodCgroupMemoryLimit()


def test_an_empty_document_is_an_empty_document() -> None:
    """An empty Query asks for nothing."""
    assert decode('{"Query":""}', GetProperties) == GetProperties()


@pytest.mark.parametrize(
    ("text", "message", "error"),
    [
        ('{"ProcessId":"1"}', SignalProcess, r"\$\.ProcessId: Expected `int`"),
        ('{"ProcessId":true}', SignalProcess, r"\$\.ProcessId: Expected `int`"),
        ('{"ProcessId":-1}', SignalProcess, r"\$\.ProcessId: Expected `int` >= 0"),
        ('{"ContainerConfig":"{"}', Create, r"\$\.ContainerConfig: not JSON"),
        ('{"ContainerConfig":"[]"}', Create, r"\$\.ContainerConfig: Expected `object`"),
        (
            '{"Request":{"ResourceType":"MappedVirtualDisk","Settings":{"Lun":300}}}',
            ModifySettings,
            r"\$\.Request\.Settings\.Lun: Expected `int` <= 255",
        ),
        (
            '{"Request":{"ResourceType":"VPMemDevice"}}',
            ModifySettings,
            r"\$\.Request\.Settings: VPMemDevice needs a map",
        ),
        (
            '{"Request":{"ResourceType":"CombinedLayers","Settings":{"Layers":[{"Path":1}]}}}',
            ModifySettings,
            r"\$\.Request\.Settings\.Layers\[0\]\.Path: Expected `str`",
        ),
    ],
)
def test_an_error_names_the_member_by_its_path(
    text: str, message: type[Message], error: str
) -> None:
    """What can't be read is refused, and the text says where."""
    with pytest.raises(InvalidRequestError, match=error):
        decode(text, message)


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b"{", b"\xff", b'{"a":1} x', b"\x80"])
def test_what_is_no_map_is_refused(payload: bytes) -> None:
    """Every payload is one map of its encoding."""
    with pytest.raises(InvalidRequestError):
        codec.decode_tree(payload)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (cbor2.dumps({"a": 1}) + b"\x00", "1 bytes after"),
        (b"\xa1\x61a\xc1\x00", "CBOR tag is not allowed"),
        (b"\xa1\x61a\xd9\xff\xff\x00", "CBOR tag is not allowed"),
        (b"\xa1\x61a\x41a", "CBOR byte string is not allowed"),
        (b"\xa1\x61a\xf7", "CBOR simple value is not allowed"),
        (b"\xa1\x61a\xf8\x20", "CBOR simple value is not allowed"),
        (b"\xa2\x61a\x01\x61a\x02", "not CBOR"),
        (b"\xa1\x01\x02", "not CBOR"),
        (b"\xa1\x61\xff\x02", "not CBOR"),
        (b"\xa1\x61a\x9f\xff", "indefinite length"),
        (b"\xa1\x61a" + b"\x81" * 16 + b"\x00", "not CBOR"),
        (b"\xa1\x61a\xf9\x7e\x00", "not finite"),
        (b"\xa1\x61a\x3b" + b"\xff" * 8, "does not fit into 64 bits"),
    ],
)
def test_cbor_is_decoded_strictly(payload: bytes, why: str) -> None:
    """Nothing that JSON can't say, no duplicate keys, nothing left over, bounded depth."""
    with pytest.raises(InvalidRequestError, match=why):
        codec.decode_tree(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xa1",
        b"\xa1\x62a",
        b"\xa1\x61a\x19\x01",
        b"\xa1\x61a\x9b" + b"\xff" * 8,
        b"\xa1\x61a\x7b" + b"\xff" * 8,
        b"\xbb" + b"\xff" * 8,
    ],
)
def test_a_length_that_can_not_be_true_is_refused(payload: bytes) -> None:
    """CBOR that promises more than there is makes nothing before it is refused."""
    with pytest.raises(InvalidRequestError, match="ends too early"):
        codec.decode_tree(payload)


def test_json_depth_is_bounded() -> None:
    """A tree of 64 levels is read, one of 65 is refused in words."""
    assert codec.decode_tree(b'{"a":' * 63 + b"{}" + b"}" * 63)
    with pytest.raises(InvalidRequestError, match="deeper than 64"):
        codec.decode_tree(b'{"a":' * 64 + b"{}" + b"}" * 64)
    with pytest.raises(InvalidRequestError, match="not JSON"):
        codec.decode_tree(b'{"a":' + b"[" * 200_000)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400])
def test_a_number_has_64_bits(number: int) -> None:
    """Larger ones could be read into a document, but not be written into it again."""
    with pytest.raises(InvalidRequestError, match="does not fit into 64 bits"):
        codec.decode_tree(f'{{"a":[{number}]}}'.encode())


@pytest.mark.parametrize("item", [b"[]", b"{}", b"1"])
def test_items_are_counted_before_they_take_memory(item: bytes) -> None:
    """A frame full of the smallest things is refused before it becomes 70 MiB and more."""
    in_json = b'{"a":[' + item + (b"," + item) * bounds.MAX_ITEMS + b"]}"
    count = (bounds.MAX_ITEMS + 1).to_bytes(4, "big")
    in_cbor = b"\xa1\x61a\x9a" + count + b"\xa0" * (bounds.MAX_ITEMS + 1)
    for payload in (in_json, in_cbor):
        with pytest.raises(InvalidRequestError, match="more than 262144 items"):
            peak_of(payload)


def peak_of(payload: bytes) -> None:
    """Decode a payload; what it takes meanwhile is less than the payload itself."""
    tracemalloc.start()
    try:
        codec.decode_tree(payload)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < len(payload)


def test_json_carries_documents_as_strings_and_cbor_as_maps() -> None:
    """The four doubly encoded members are strings in JSON only."""
    config = ContainerConfig(oci_bundle_path="/b", oci_specification={"<": "&"})
    request = Create(container_id="c", container_config=config)
    in_json: object = msgspec.json.decode(codec.encode(request, Encoding.JSON))
    in_cbor: object = cbor2.loads(codec.encode(request, Encoding.CBOR))
    document = {"OciBundlePath": "/b", "OciSpecification": {"<": "&"}}
    assert in_cbor == {"ContainerId": "c", "ContainerConfig": document}
    assert isinstance(in_json, dict)
    assert msgspec.json.decode(in_json["ContainerConfig"]) == document


def test_result_is_always_sent() -> None:
    """A success says Result 0, and a mandatory member its zero."""
    payload = codec.encode(ExecuteProcessReply(process_id=0), Encoding.JSON)
    assert msgspec.json.decode(payload) == {"Result": 0, "ProcessId": 0}


def test_an_empty_request_type_means_add() -> None:
    """Hosts leave RequestType out or empty for Add."""
    settings = '"ResourceType":"VPMemDevice","Settings":{"DeviceNumber":3}'
    for text in (
        f'{{"Request":{{{settings}}}}}',
        f'{{"Request":{{"RequestType":"",{settings}}}}}',
    ):
        request = decode(text, ModifySettings)
        assert isinstance(request, ModifySettings)
        assert request.request == ModificationRequest(
            resource_type="VPMemDevice", settings=VPMemDevice(device_number=3)
        )


def test_an_unknown_resource_keeps_its_settings() -> None:
    """The handler refuses it by name; nothing is lost on the way there."""
    request = decode('{"Request":{"ResourceType":"Odd","Settings":{"x":1}}}', ModifySettings)
    assert isinstance(request, ModifySettings)
    assert request.request.settings == {"x": 1}


def test_a_disk_is_read_as_hosts_write_it() -> None:
    """The scratch disk of a host in use, with a member that is deprecated."""
    text = (
        '{"ContainerId":"00000000-0000-0000-0000-000000000000","ActivityId":"x","Request":'
        '{"ResourceType":"MappedVirtualDisk","RequestType":"Add","Settings":{"MountPath":"/run/m",'
        '"Lun":1,"Controller":0,"EnsureFilesystem":true,"Filesystem":"ext4","VerityInfo":null}}}'
    )
    request = decode(text, ModifySettings)
    assert isinstance(request, ModifySettings)
    assert request.request.settings == MappedVirtualDisk(
        mount_path="/run/m", lun=1, ensure_filesystem=True, filesystem="ext4"
    )
