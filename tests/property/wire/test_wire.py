"""Properties of the wire: frames, codec, and two connections that talk to each other."""

from hypothesis import given
from hypothesis import strategies as st

from gcs.errors import GcsError, InvalidRequestError, RemoteProtocolError
from gcs.wire import codec
from gcs.wire.codec import Encoding
from gcs.wire.connection import (
    GuestConnection,
    HostConnection,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
)
from gcs.wire.frame import (
    HEADER_SIZE,
    MAX_GUEST_FRAME,
    Frame,
    FrameDecoder,
    MessageType,
    encode,
)
from gcs.wire.messages import BRIDGE, ContainerNotification, NegotiateProtocol
from gcs.wire.schema import Reply, Request
from tests.support import strategies

encodings = st.sampled_from(Encoding)
words = st.integers(0, 2**32 - 1)
frames = st.builds(
    Frame, words.map(MessageType.from_word), st.integers(0, 2**64 - 1), st.binary(max_size=64)
)


@given(words)
def test_a_type_word_comes_apart_and_together(word: int) -> None:
    """Splitting a type word and joining it again gives the same word."""
    assert MessageType.from_word(word).word == word


@given(st.lists(frames, max_size=5), st.lists(st.integers(1, 40), max_size=20))
def test_any_split_of_the_bytes_yields_the_same_frames(
    sent: list[Frame], cuts: list[int]
) -> None:
    """Frames come out whole and in order, however the stream is cut."""
    stream = b"".join(encode(frame, 1024) for frame in sent)
    decoder, received = FrameDecoder(1024), []
    position = 0
    for cut in [*cuts, len(stream)]:
        decoder.receive_data(stream[position : position + cut])
        position = min(len(stream), position + cut)
        while (frame := decoder.next_frame()) is not None:
            received.append(frame)
    assert received == sent
    assert decoder.is_empty


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_arbitrary_bytes_end_in_frames_or_one_error(chunks: list[bytes]) -> None:
    """Garbage gives frames, nothing yet, or RemoteProtocolError; never anything else."""
    decoder = FrameDecoder(256)
    try:
        for chunk in chunks:
            decoder.receive_data(chunk)
            while (frame := decoder.next_frame()) is not None:
                assert len(frame.payload) <= 256 - HEADER_SIZE
    except RemoteProtocolError as error:
        assert "frame header says" in str(error)  # noqa: PT017 - not raising is fine too


@given(strategies.requests(), encodings)
def test_a_request_arrives_as_it_was_sent(request: Request[Reply], encoding: Encoding) -> None:
    """Every request survives both encodings, from the host's connection to the guest's."""
    host, guest = HostConnection(BRIDGE, encoding), GuestConnection(BRIDGE)
    message_id, data = host.request(request)
    guest.receive_data(data)
    assert list(guest.events()) == [RequestReceived(message_id, request)]


@given(strategies.replies(), encodings)
def test_a_reply_arrives_as_it_was_sent(
    pair: tuple[type[Request[Reply]], Reply], encoding: Encoding
) -> None:
    """Every reply survives both encodings; an error keeps only the members that all have."""
    request, reply = pair
    host, guest = HostConnection(BRIDGE, encoding), GuestConnection(BRIDGE)
    message_id, data = host.request(request(activity_id=reply.activity_id))
    guest.receive_data(data)
    list(guest.events())
    host.receive_data(guest.reply(message_id, reply))
    (event,) = host.events()
    assert isinstance(event, ReplyReceived)
    if reply.result == 0:
        assert event.reply == reply
    else:
        assert (event.reply.result, event.reply.error_message) == (
            reply.result,
            reply.error_message,
        )


@given(strategies.records(ContainerNotification), encodings)
def test_a_notification_uses_the_encoding_of_the_negotiation(
    notification: ContainerNotification, encoding: Encoding
) -> None:
    """A notification is in the encoding that the host spoke first."""
    host, guest = HostConnection(BRIDGE, encoding), GuestConnection(BRIDGE)
    guest.receive_data(host.request(NegotiateProtocol())[1])
    list(guest.events())
    data = guest.notify(notification)
    assert codec.encoding_of(data[HEADER_SIZE:]) is encoding


@given(st.binary(max_size=64) | st.text().map(str.encode))
def test_a_payload_is_a_map_or_refused(payload: bytes) -> None:
    """Whatever the bytes are, the codec returns a map or raises InvalidRequestError."""
    try:
        assert isinstance(codec.decode_tree(payload), dict)
    except InvalidRequestError as error:
        assert str(error).startswith("$")  # noqa: PT017 - not raising is fine too


@given(
    st.sampled_from(BRIDGE.rows),
    st.dictionaries(strategies.text, strategies.json_trees),
    encodings,
)
def test_any_map_is_a_request_or_is_refused_by_path(
    row: object, tree: dict[str, object], encoding: Encoding
) -> None:
    """A payload of arbitrary members is answered, whatever its members are."""
    assert isinstance(row, type(BRIDGE.rows[0]))
    payload = codec.encode_tree(tree, encoding)
    word = MessageType(1, BRIDGE.category, row.number)
    guest = GuestConnection(BRIDGE)
    guest.receive_data(encode(Frame(word, 7, payload), 1 << 20))
    (event,) = guest.events()
    if isinstance(event, RequestRefused):
        assert isinstance(event.error, GcsError)
        answer = guest.refuse(7, event.error)
        assert len(answer) <= MAX_GUEST_FRAME


@given(st.text(max_size=300_000), st.lists(st.text(max_size=5000), max_size=3))
def test_an_error_reply_fits_into_a_frame(message: str, notes: list[str]) -> None:
    """However long and strange an error's text is, its reply is a frame that a host takes."""
    host, guest = HostConnection(BRIDGE), GuestConnection(BRIDGE)
    message_id, data = host.request(NegotiateProtocol())
    guest.receive_data(data)
    list(guest.events())
    error = GcsError(message)
    for note in notes:
        error.add_note(note)
    answer = guest.refuse(message_id, error)
    assert len(answer) <= MAX_GUEST_FRAME
    host.receive_data(answer)
    (event,) = host.events()
    assert isinstance(event, ReplyReceived)
    assert event.reply.result == error.hresult
