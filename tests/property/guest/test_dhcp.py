"""What a DHCP client prints is leases or nothing, whatever it is and however it comes."""

from itertools import pairwise

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gcs.errors import GcsError
from gcs.guest import dhcp
from gcs.guest.netplan import Lease

LINES = st.one_of(
    st.sampled_from([b"lost", b"lease\t10.0.0.2\t24\t10.0.0.1\t\ta", b"udhcpc: renew", b""]),
    st.binary(max_size=40),
    st.integers(0, 9000).map(lambda size: b"x" * size),
)


@given(st.lists(LINES).map(b"\n".join), st.sets(st.integers(0, 400)))
def test_any_output_gives_leases_and_losses_by_turns(text: bytes, cuts: set[int]) -> None:
    """However it is cut; a loss comes after a lease only, and nothing piles up."""
    whole = trio.run(_events, [text])
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert trio.run(_events, [piece for piece in pieces if piece]) == whole
    assert all(
        event is not None or before is not None for before, event in pairwise([None, *whole])
    )


async def _events(pieces: list[bytes]) -> list[Lease | None]:
    send, receive = trio.testing.memory_stream_one_way_pair()
    output = dhcp._Output(receive, "eth0")
    for piece in pieces:
        await send.send_all(piece)
    await send.aclose()
    found = []
    try:
        while True:
            found.append(await output.next())
            assert len(output._buffer) <= dhcp._MAX_LINE
    except GcsError:
        return found
