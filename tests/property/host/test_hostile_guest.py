"""Whatever a guest sends, its host hears messages or the end of the connection."""

import tracemalloc
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from gcs.errors import RemoteProtocolError
from gcs.host.terminal import printable
from gcs.wire.codec import Encoding
from gcs.wire.connection import HostConnection, NotificationReceived, ReplyReceived
from gcs.wire.frame import MAX_GUEST_FRAME, Kind, MessageType
from gcs.wire.messages import BRIDGE
from tests.support.hostile_guest import exited, frame
from tests.vectors import make
from tests.vectors.records import REQUESTS

#: A frame's payload becomes 72 bytes of objects for each of its own at most (PROTOCOL.md,
#: "Limits"), of two that are ready: decoded, and as records.
MAX_GROWTH = 2 * 72 * MAX_GUEST_FRAME
ASKED = [request for request in REQUESTS.values() if type(request) in BRIDGE.by_request]

words = st.one_of(
    st.integers(0, 2**32 - 1),
    st.builds(
        lambda kind, number: MessageType(kind, BRIDGE.category, number).word,
        st.sampled_from(Kind),
        st.integers(0, 16),
    ),
)
frames = st.one_of(
    st.builds(frame, words, st.binary(max_size=300), st.integers(0, 20)),
    st.builds(
        frame,
        words,
        st.binary(max_size=40),
        st.integers(0, 2**64 - 1),
        st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    ),
    st.sampled_from(make.BRIDGE).map(lambda vector: vector.frame("json")),
    st.sampled_from(make.BRIDGE).map(lambda vector: vector.frame("cbor")),
    st.builds(
        lambda piece, times: frame(0x20100201, piece * (times // len(piece))),
        st.sampled_from([b"[", b"[],", b'{"a":', b"\xa1\x61a", b"\x81", b"0,", b'"\\u0000']),
        st.integers(10, MAX_GUEST_FRAME - 16),
    ),
    st.text(max_size=30).map(exited),
    st.integers(0, 60_000).map(lambda size: exited("c", "t" * size)),
    st.binary(max_size=100),
)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """Yield the data in pieces of these sizes, and then the rest."""
    for cut in cuts:
        yield data[:cut]
        data = data[cut:]
    yield data


@given(
    encoding=st.sampled_from(Encoding),
    sent=st.lists(frames, max_size=12).map(b"".join),
    cuts=st.lists(st.integers(0, 70_000), max_size=8),
)
def test_any_bytes_are_messages_or_end_the_connection(
    encoding: Encoding, sent: bytes, cuts: list[int]
) -> None:
    """No other exception, and no more in memory than a frame and what came last."""
    host = HostConnection(BRIDGE, encoding)
    for request in ASKED:
        host.request(request)
    was_tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    try:
        for piece in pieces(sent, cuts):
            host.receive_data(piece)
            for event in host.events():
                assert isinstance(event, ReplyReceived | NotificationReceived)
            assert len(host._decoder._buffer) <= MAX_GUEST_FRAME
    except RemoteProtocolError as error:
        told = str(error)
    else:
        told = ""
    assert len(told) <= 4096
    _, peak = tracemalloc.get_traced_memory()
    if not was_tracing:
        tracemalloc.stop()
    assert peak - before <= MAX_GROWTH + 2 * len(sent)


@given(st.text(st.characters(codec=None), max_size=200))
def test_what_is_shown_is_printable_whatever_it_was(text: str) -> None:
    """One line, no control of a terminal, and plain text is left as it is."""
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown
    if text.isprintable():
        assert shown == text
