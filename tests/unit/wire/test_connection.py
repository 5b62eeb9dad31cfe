"""Both halves of a connection: who may say what, and when."""

import struct

import msgspec
import pytest

from gcs.errors import (
    Hresult,
    InvalidRequestError,
    LocalProtocolError,
    RemoteProtocolError,
    UnsupportedError,
)
from gcs.wire.connection import (
    GuestConnection,
    HostConnection,
    NotificationReceived,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
    error_reply,
)
from gcs.wire.frame import MAX_GUEST_FRAME, MAX_HOST_FRAME
from gcs.wire.messages import (
    BRIDGE,
    ContainerNotification,
    DumpStacks,
    DumpStacksReply,
    ExitType,
    NegotiateProtocol,
    Start,
)
from gcs.wire.schema import NULL_CONTAINER_ID, Reply

#: The first frame of a host in use, byte for byte.
NEGOTIATE = (
    bytes.fromhex("01 0b 10 10 7d 00 00 00 00 00 00 00 00 00 00 00")
    + b'{"ContainerId":"","ActivityId":"00000000-0000-0000-0000-000000000000",'
    + b'"MinimumVersion":4,"MaximumVersion":4}\n'
)

EXITED = (
    b'{"ContainerId":"c","ActivityId":"","Type":"UnexpectedExit","Operation":"None","Result":0}'
)


def frame(word: int, payload: bytes, message_id: int = 5, size: int | None = None) -> bytes:
    """Return a frame as bytes, with any header."""
    return struct.pack("<IIQ", word, size or len(payload) + 16, message_id) + payload


def test_the_first_frame_of_a_host_in_use_is_read() -> None:
    """The worked example of the protocol is a NegotiateProtocol with id 0."""
    guest = GuestConnection(BRIDGE)
    guest.receive_data(NEGOTIATE)
    (event,) = guest.events()
    assert isinstance(event, RequestReceived)
    assert event.message_id == 0
    assert event.request == NegotiateProtocol(
        activity_id=NULL_CONTAINER_ID, minimum_version=4, maximum_version=4
    )
    reply = guest.reply(0, Reply())
    assert reply[:4] == bytes.fromhex("010b1020")
    assert msgspec.json.decode(reply[16:]) == {"Result": 0, "ActivityId": NULL_CONTAINER_ID}


@pytest.mark.parametrize(
    "word",
    [0x10101001, 0x10100E01, 0x10100F01, 0x10100102, 0x10200101, 0x1FFFFFFF],
    ids=["number 16", "UpdateContainer", "Lifecycle", "version 2", "category 2", "all ones"],
)
def test_an_unknown_request_is_refused_with_its_own_type(word: int) -> None:
    """It gets NotImpl, in the reply type that mirrors it, and the connection goes on."""
    guest = GuestConnection(BRIDGE)
    guest.receive_data(frame(word, b'{"ActivityId":"' + b"0" * 8 + b'"}') + NEGOTIATE)
    refused, received = guest.events()
    assert isinstance(refused, RequestRefused)
    assert isinstance(refused.error, UnsupportedError)
    assert isinstance(received, RequestReceived)
    answer = guest.refuse(5, refused.error)
    assert struct.unpack_from("<IIQ", answer) == (
        0x20000000 | word & 0x0FFFFFFF,
        len(answer),
        5,
    )
    body = msgspec.json.decode(answer[16:])
    assert isinstance(body, dict)
    assert body["Result"] == Hresult.NOT_IMPL
    assert len(body["ErrorRecords"]) == 1


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"ContainerId":7}'])
def test_an_unreadable_request_is_refused_and_the_connection_goes_on(payload: bytes) -> None:
    """A known type with a body that can't be read gets InvalidJSON."""
    guest = GuestConnection(BRIDGE)
    guest.receive_data(frame(0x10100101, payload) + NEGOTIATE)
    refused, received = guest.events()
    assert isinstance(refused, RequestRefused)
    assert isinstance(refused.error, InvalidRequestError)
    assert isinstance(received, RequestReceived)


@pytest.mark.parametrize("size", [1, 4, 15, MAX_HOST_FRAME + 1, 2**31, 2**32 - 1])
def test_an_impossible_size_ends_the_connection_at_once(size: int) -> None:
    """The header is enough; nothing is allocated for what it promises."""
    guest = GuestConnection(BRIDGE)
    guest.receive_data(frame(0x10100101, b"", size=size))
    with pytest.raises(RemoteProtocolError, match=f"frame header says {size} bytes"):
        list(guest.events())


@pytest.mark.parametrize("word", [0x20100101, 0x30100101, 0x00100101, 0x40100101])
def test_a_host_sends_requests_only(word: int) -> None:
    """A reply or a notification from the host ends the connection."""
    guest = GuestConnection(BRIDGE)
    guest.receive_data(frame(word, b"{}"))
    with pytest.raises(RemoteProtocolError, match="expected a request"):
        list(guest.events())


def test_an_id_in_use_ends_the_connection() -> None:
    """Two unanswered requests can't share an id; an answered one frees it."""
    guest = GuestConnection(BRIDGE)
    guest.receive_data(frame(0x10100201, b"{}"))
    list(guest.events())
    guest.reply(5, Reply())
    guest.receive_data(frame(0x10100201, b"{}"))
    assert len(list(guest.events())) == 1
    guest.receive_data(frame(0x10100201, b"{}"))
    with pytest.raises(RemoteProtocolError, match="already in use"):
        list(guest.events())


def test_a_request_is_answered_once() -> None:
    """The second answer to one request is a bug of ours, and raised as one."""
    guest = GuestConnection(BRIDGE)
    guest.receive_data(NEGOTIATE)
    list(guest.events())
    guest.reply(0, Reply())
    with pytest.raises(LocalProtocolError, match="no request 0"):
        guest.reply(0, Reply())


def test_a_malformed_activity_id_is_not_echoed() -> None:
    """Hosts parse the echo as a GUID and drop the bridge over anything else."""
    guest = GuestConnection(BRIDGE)
    guest.receive_data(
        frame(0x10100201, b'{"ActivityId":""}') + frame(0x10100201, b'{"ActivityId":7}', 6)
    )
    assert len(list(guest.events())) == 2
    for message_id in (5, 6):
        assert b"ActivityId" not in guest.reply(message_id, Reply())


def test_a_reply_too_long_for_a_frame_becomes_an_error() -> None:
    """The host gets an answer that it can read, never a frame that makes it drop the bridge."""
    host, guest = HostConnection(BRIDGE), GuestConnection(BRIDGE)
    message_id, data = host.request(DumpStacks())
    guest.receive_data(data)
    list(guest.events())
    answer = guest.reply(message_id, DumpStacksReply(guest_stacks="x" * 70_000))
    assert len(answer) <= MAX_GUEST_FRAME
    host.receive_data(answer)
    (event,) = host.events()
    assert isinstance(event, ReplyReceived)
    assert event.reply.result == Hresult.FAIL
    assert "over the limit" in event.reply.error_message


def test_an_answer_to_nothing_ends_the_host_s_connection() -> None:
    """A guest that answers what was not asked, or twice, is cut off."""
    host = HostConnection(BRIDGE)
    host.receive_data(frame(0x20100201, b'{"Result":0}'))
    with pytest.raises(RemoteProtocolError, match="no request 5"):
        list(host.events())


@pytest.mark.parametrize(
    ("word", "payload"),
    [
        (0x20100201, b"{"),
        (0x20100201, b'{"Result":2147483648}'),
        (0x30100201, b"{}"),
        (0x30200101, b"{}"),
        (0x10100201, b"{}"),
        (0x30100101, b'{"ContainerId":"c"}'),
        (0x20100301, b"{}"),
        (0x20100202, b"{}"),
        (0x20F10201, b"{}"),
        (0x30100102, EXITED),
        (0x20100201, b'{"ErrorRecords":{}}'),
        (0x20100201, b"[" * 60_000),
        (0x20100201, b'{"a":' * 10_000),
        (0x20100201, b"[" + b"[]," * 20_000 + b"[]]"),
        (0x20100201, b""),
        (0x20100201, b"\xff\xfe"),
        (0x20100201, b'{"Result":1e999}'),
        (0x20100201, b'{"Result":' + b"9" * 60_000 + b"}"),
        (0x20100201, b"\xbf"),
        (0x20100201, b"\xa1\x66Result\x1a\x80\x00\x00\x00"),
        (0x20100201, b"\xa1\x61a" + b"\x81" * 60_000),
        (0x20100201, b"\xbb" + b"\xff" * 8),
    ],
)
def test_a_malformed_message_ends_the_host_s_connection(word: int, payload: bytes) -> None:
    """What the guest sends is held to the types as strictly as what the host sends."""
    host = HostConnection(BRIDGE)
    message_id, _ = host.request(Start())
    host.receive_data(frame(word, payload, message_id))
    with pytest.raises(RemoteProtocolError):
        list(host.events())


def test_a_reply_of_another_type_than_its_request_is_told_from_it() -> None:
    """The error names the request, what came, and what should have."""
    host = HostConnection(BRIDGE)
    message_id, _ = host.request(Start())
    host.receive_data(frame(0x20100301, b"{}", message_id))
    text = "request 0 has a reply of type 0x20100301 instead of 0x20100201"
    with pytest.raises(RemoteProtocolError, match=text):
        list(host.events())


def test_a_notification_says_what_hosts_need() -> None:
    """Every member is there, and ResultInfo is not."""
    notification = ContainerNotification(
        container_id="c",
        activity_id=NULL_CONTAINER_ID,
        type=ExitType.GRACEFUL,
        operation="None",
        result=0,
    )
    data = GuestConnection(BRIDGE).notify(notification)
    assert struct.unpack_from("<IIQ", data) == (0x30100101, len(data), 0)
    assert msgspec.json.decode(data[16:]) == {
        "ContainerId": "c",
        "ActivityId": NULL_CONTAINER_ID,
        "Type": "GracefulExit",
        "Operation": "None",
        "Result": 0,
    }
    host = HostConnection(BRIDGE)
    host.receive_data(data)
    assert list(host.events()) == [NotificationReceived(notification)]


def test_an_error_without_words_is_named_by_its_type() -> None:
    """Neither the text nor the record of an error is empty: a host would show nothing."""
    reply = error_reply(TimeoutError(), Hresult.TIMEOUT)
    assert reply.error_message == "TimeoutError"
    assert [record.message for record in reply.error_records] == ["TimeoutError"]
