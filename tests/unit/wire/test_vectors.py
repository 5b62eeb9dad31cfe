"""Golden frames: what each message is in bytes, for the side that sends it and the other."""

import struct
from dataclasses import dataclass

import msgspec
import pytest

from gcs.errors import ContainerNotFoundError
from gcs.wire import control, messages
from gcs.wire.codec import Encoding
from gcs.wire.connection import (
    GuestConnection,
    HostConnection,
    NotificationReceived,
    ReplyReceived,
    RequestReceived,
)
from gcs.wire.control import CONTROL
from gcs.wire.messages import BRIDGE
from gcs.wire.schema import Catalogue, Reply, Request
from tests.vectors import make
from tests.vectors.records import ACTIVITY, NO_CONTAINER, NOTIFICATIONS, REPLIES, REQUESTS

#: What a host in use sends first, byte for byte; it leaves nothing out, so it is read only.
FIRST = (
    "010b1010 7d000000 0000000000000000"
    "7b22436f6e7461696e65724964223a22222c224163746976697479496422"
    "3a2230303030303030302d303030302d303030302d303030302d30303030"
    "3030303030303030222c224d696e696d756d56657273696f6e223a342c22"
    "4d6178696d756d56657273696f6e223a347d0a"
)


class Vector(msgspec.Struct, forbid_unknown_fields=True):
    """One object of a vector file."""

    name: str
    meaning: str
    encoding: Encoding
    hex: str
    answers: str = ""

    @property
    def data(self) -> bytes:
        return bytes.fromhex(self.hex)

    @property
    def message_id(self) -> int:
        (number,) = struct.unpack_from("<Q", self.data, 8)
        assert isinstance(number, int)
        return number


# -- the files ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """A vector and the connections that it is held against."""

    vector: Vector
    catalogue: Catalogue
    request: Vector | None

    def __str__(self) -> str:
        return f"{self.vector.name}-{self.vector.encoding}"

    def asked_host(self, before: int) -> HostConnection:
        """Return a host whose next request has the id `before`."""
        host = HostConnection(self.catalogue, self.vector.encoding)
        simplest = messages.Start() if self.catalogue is BRIDGE else control.Stop()
        for _ in range(before):
            host.request(simplest)
        return host


def read(file: str, catalogue: Catalogue) -> list[Side]:
    text = (make.FOLDER / file).read_bytes()
    vectors = msgspec.json.decode(text, type=list[Vector])
    requests = {(vector.name, vector.encoding): vector for vector in vectors}
    return [Side(v, catalogue, requests.get((v.answers, v.encoding))) for v in vectors]


SIDES = [*read("bridge.json", BRIDGE), *read("service.json", CONTROL)]
SENT_AS = {
    "request": [side for side in SIDES if side.vector.name in REQUESTS],
    "reply": [side for side in SIDES if side.request is not None],
    "notification": [side for side in SIDES if side.vector.name in NOTIFICATIONS],
}


def reply_of(side: Side) -> Reply:
    bare = Reply(activity_id=ACTIVITY if side.catalogue is BRIDGE else "")
    return REPLIES.get(side.vector.name, bare)


def test_the_files_are_what_their_script_writes() -> None:
    """Nobody has edited a frame by hand."""
    for file, vectors in (("bridge.json", make.BRIDGE), ("service.json", make.SERVICE)):
        assert (make.FOLDER / file).read_text() == make.text_of(vectors)


def test_every_message_is_there_in_both_encodings() -> None:
    """No request, reply or notification of a catalogue is without its frames."""
    assert sum(map(len, SENT_AS.values())) == len(SIDES)
    for encoding in Encoding:
        names = {side.vector.name for side in SIDES if side.vector.encoding is encoding}
        assert names >= REQUESTS.keys() | REPLIES.keys() | NOTIFICATIONS.keys()
        requests = {type(request) for request in REQUESTS.values()}
        notifications = {type(record) for record in NOTIFICATIONS.values()}
        for catalogue in (BRIDGE, CONTROL, *BRIDGE.extensions):
            assert {row.request for row in catalogue.rows} <= requests
            assert {f"{name}.reply" for name in REQUESTS} <= names
            assert set(catalogue.notifications.values()) <= notifications


def test_the_first_frame_of_a_host_in_use() -> None:
    """The worked example of the protocol, as bytes."""
    guest = GuestConnection(BRIDGE)
    guest.receive_data(bytes.fromhex(FIRST))
    expected = messages.NegotiateProtocol(
        container_id="",
        activity_id="00000000-0000-0000-0000-000000000000",
        minimum_version=4,
        maximum_version=4,
    )
    assert list(guest.events()) == [RequestReceived(0, expected)]


@pytest.mark.parametrize("side", SENT_AS["request"], ids=str)
def test_a_request(side: Side) -> None:
    """A host writes these bytes, and a guest reads them."""
    expected = REQUESTS[side.vector.name]
    guest = GuestConnection(side.catalogue)
    guest.receive_data(side.vector.data)
    assert list(guest.events()) == [RequestReceived(side.vector.message_id, expected)]
    host = side.asked_host(side.vector.message_id)
    assert host.request(expected) == (side.vector.message_id, side.vector.data)


@pytest.mark.parametrize("side", SENT_AS["reply"], ids=str)
def test_a_reply(side: Side) -> None:
    """A guest that was asked writes these bytes, and the host that asked reads them."""
    expected, message_id = reply_of(side), side.vector.message_id
    assert side.request is not None
    guest = GuestConnection(side.catalogue)
    guest.receive_data(side.request.data)
    list(guest.events())
    assert guest.reply(message_id, expected) == side.vector.data
    host = side.asked_host(message_id)
    host.request(REQUESTS[side.request.name])
    host.receive_data(side.vector.data)
    assert list(host.events()) == [ReplyReceived(message_id, expected)]


@pytest.mark.parametrize("side", SENT_AS["notification"], ids=str)
def test_a_notification(side: Side) -> None:
    """A guest writes these bytes in the encoding that it was first spoken to in."""
    expected = NOTIFICATIONS[side.vector.name]
    guest = GuestConnection(side.catalogue)
    guest.receive_data(side.asked_host(0).request(first_of(side.catalogue))[1])
    list(guest.events())
    assert guest.notify(expected) == side.vector.data
    host = side.asked_host(0)
    host.receive_data(side.vector.data)
    assert list(host.events()) == [NotificationReceived(expected)]


def first_of(catalogue: Catalogue) -> Request[Reply]:
    return messages.NegotiateProtocol() if catalogue is BRIDGE else control.Describe()


@pytest.mark.parametrize("encoding", Encoding)
def test_an_error(encoding: Encoding) -> None:
    """An error that is raised becomes the error reply of the vectors, byte for byte."""
    (side,) = (
        side
        for side in SIDES
        if side.vector.name == "error.reply" and side.vector.encoding is encoding
    )
    assert side.request is not None
    guest = GuestConnection(BRIDGE)
    guest.receive_data(side.request.data)
    list(guest.events())
    error = ContainerNotFoundError(NO_CONTAINER)
    assert guest.refuse(side.vector.message_id, error) == side.vector.data
