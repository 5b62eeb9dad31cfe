"""Two connected protocol cores under any order of events, judged by a strict host."""

import struct

import hypothesis.strategies as st
from hypothesis import assume
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from msgspec.structs import replace

from gcs.errors import GcsError, LocalProtocolError, RemoteProtocolError
from gcs.wire.codec import Encoding
from gcs.wire.connection import (
    GuestConnection,
    HostConnection,
    NotificationReceived,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
)
from gcs.wire.frame import MessageType
from gcs.wire.messages import (
    BRIDGE,
    ContainerNotification,
    DumpStacks,
    DumpStacksReply,
    ExitType,
)
from gcs.wire.schema import NULL_CONTAINER_ID, Reply, Request
from tests.support.strict_host import StrictHost
from tests.vectors.records import REPLIES, REQUESTS

#: An unknown number, another version, another category; and a known one without a body.
_ODD_WORDS = (0x10101001, 0x10100102, 0x10200101, 0x10100101)

#: Any record arrives as it was sent (test_wire.py); here it is the order that varies, so the
#: messages are those of the golden frames.
_REQUESTS = [request for request in REQUESTS.values() if type(request) in BRIDGE.by_request]
_SUCCESSES: dict[type[Request[Reply]], Reply] = {
    type(request): REPLIES.get(f"{name}.reply", Reply()) for name, request in REQUESTS.items()
}


#: Fits into a frame in CBOR, and with its line feeds escaped not in JSON.
_FITS = 60_000


def _is_for_stacks(event: RequestReceived | RequestRefused) -> bool:
    return isinstance(event, RequestReceived) and isinstance(event.request, DumpStacks)


class Bridge(RuleBasedStateMachine):
    """A host, a guest, and the bytes that are on their way in each direction."""

    known = Bundle("containers")

    @initialize(encoding=st.sampled_from(Encoding))
    def connect(self, encoding: Encoding) -> None:
        self.host = HostConnection(BRIDGE, encoding)
        self.guest = GuestConnection(BRIDGE)
        self.judge = StrictHost()
        self.to_guest = b""
        self.to_host = b""
        self.asked: dict[int, Request[Reply]] = {}
        #: odd requests go beside the host's own half, under ids that it never reaches
        self.odd: dict[int, MessageType] = {}
        self.open: list[RequestReceived | RequestRefused] = []
        self.answered: list[int] = []
        self.heard: list[int] = []
        self.told: list[str] = []
        self.heard_of: list[str] = []

    # -- the host ------------------------------------------------------------------------

    @rule(request=st.sampled_from(_REQUESTS), activity_id=st.just("") | st.uuids().map(str))
    def ask(self, request: Request[Reply], activity_id: str) -> None:
        request = replace(request, activity_id=activity_id)
        message_id, data = self.host.request(request)
        assert message_id not in self.asked
        self.asked[message_id] = request
        self.judge.asked(data, request.activity_id)
        self.to_guest += data

    @rule(word=st.sampled_from(_ODD_WORDS), payload=st.sampled_from([b"", b"{", b"[]"]))
    def ask_oddly(self, word: int, payload: bytes) -> None:
        message_id = 2**63 + len(self.odd)
        data = struct.pack("<IIQ", word, 16 + len(payload), message_id) + payload
        self.judge.asked(data)
        self.to_guest += data
        self.odd[message_id] = MessageType.from_word(word)

    @rule(cut=st.integers(1, 200))
    def carry_to_guest(self, cut: int) -> None:
        piece, self.to_guest = self.to_guest[:cut], self.to_guest[cut:]
        self.guest.receive_data(piece)
        for event in self.guest.events():
            if isinstance(event, RequestReceived):
                assert event.request == self.asked[event.message_id]
            else:
                assert event.message_id >= 2**63
            self.open.append(event)

    # -- the guest -----------------------------------------------------------------------

    def _close(self, index: int) -> RequestReceived | RequestRefused:
        assume(self.open)
        event = self.open.pop(index % len(self.open))
        self.answered.append(event.message_id)
        return event

    @rule(index=st.integers(0, 50))
    def reply(self, index: int) -> None:
        event = self._close(index)
        if isinstance(event, RequestRefused):
            self.to_host += self.guest.refuse(event.message_id, event.error)
        else:
            self.to_host += self.guest.reply(event.message_id, _SUCCESSES[type(event.request)])

    @rule(index=st.integers(0, 50), text=st.text(max_size=30), times=st.integers(1, 10_000))
    def refuse(self, index: int, text: str, times: int) -> None:
        event = self._close(index)
        self.to_host += self.guest.refuse(event.message_id, GcsError(text * times))

    @rule(index=st.integers(0, 50), size=st.sampled_from([_FITS, 65_500, 70_000, 1_000_000]))
    def reply_at_length(self, index: int, size: int) -> None:
        assume(self.open)
        event = self.open[index % len(self.open)]
        # Whatever was asked, a reply that fits into no frame becomes an error.
        assume(size > _FITS or _is_for_stacks(event))
        self._close(index)
        self.to_host += self.guest.reply(
            event.message_id, DumpStacksReply(guest_stacks="\n" * size)
        )

    @rule(index=st.integers(0, 50))
    def answer_twice(self, index: int) -> None:
        assume(self.answered)
        message_id = self.answered[index % len(self.answered)]
        assume(all(event.message_id != message_id for event in self.open))
        try:
            self.guest.reply(message_id, Reply())
        except LocalProtocolError:
            return
        raise AssertionError("a second answer was written")

    @rule(target=known, number=st.integers(0, 10**6))
    def create(self, number: int) -> str:
        name = f"c{number}"
        self.judge.containers.add(name)
        return name

    @rule(name=known)
    def notify(self, name: str) -> None:
        assume(name not in self.told)
        self.told.append(name)
        self.to_host += self.guest.notify(
            ContainerNotification(
                container_id=name,
                activity_id=NULL_CONTAINER_ID,
                type=ExitType.UNEXPECTED,
                operation="None",
                result=0,
            )
        )

    # -- back at the host ----------------------------------------------------------------

    @rule(cut=st.integers(1, 70_000))
    def carry_to_host(self, cut: int) -> None:
        piece, self.to_host = self.to_host[:cut], self.to_host[cut:]
        seen = len(self.judge.answers)
        self.judge.receive(piece)
        odd = {each for each, _ in self.judge.answers[seen:] if each >= 2**63}
        for message_id in odd:  # our host's half has not asked for these itself
            self.host._pending[message_id] = self.odd[message_id].reply, Reply
        self.host.receive_data(piece)
        for event in self.host.events():
            if isinstance(event, ReplyReceived):
                self.heard.append(event.message_id)
            else:
                assert isinstance(event, NotificationReceived)
                assert isinstance(event.notification, ContainerNotification)
                self.heard_of.append(event.notification.container_id)

    @rule(word=st.sampled_from([0x20100201, 0x30100101, 0x40100101]))
    def break_the_rules(self, word: int) -> None:
        """A host that sends anything but requests ends the connection of its guest alone."""
        guest = GuestConnection(BRIDGE)
        guest.receive_data(struct.pack("<IIQ", word, 16, 0))
        try:
            list(guest.events())
        except RemoteProtocolError:
            return
        raise AssertionError("it was taken")

    # -- always --------------------------------------------------------------------------

    @invariant()
    def each_request_is_answered_once(self) -> None:
        if hasattr(self, "heard"):
            assert len(set(self.heard)) == len(self.heard)
            assert set(self.heard) <= set(self.answered)

    def teardown(self) -> None:
        """Whatever was answered arrives, and nothing that was not."""
        if hasattr(self, "heard"):
            self.carry_to_guest(len(self.to_guest) + 1)
            self.carry_to_host(len(self.to_host) + 1)
            assert sorted(self.heard) == sorted(self.answered)
            assert self.heard_of == self.told
            waiting = {event.message_id for event in self.open}
            assert set(self.judge.waiting) == waiting
            assert set(self.host._pending) == {each for each in waiting if each < 2**63}
            assert self.judge.is_between_frames()


TestBridge = Bridge.TestCase
