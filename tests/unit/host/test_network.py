"""A tap device as it is asked for, and whether this machine reaches anybody over IPv6."""

import pytest

from gcs.errors import InvalidArgumentError
from gcs.host.network import has_ipv6_route, parse_tap
from gcs.wire.control import Tap


@pytest.mark.parametrize(
    ("text", "tap"),
    [
        ("tap0", Tap("tap0")),
        (
            "t,address=10.0.0.2/24,gateway=10.0.0.1,dns=10.0.0.1",
            Tap("t", ("10.0.0.2/24",), ("10.0.0.1",), ("10.0.0.1",)),
        ),
        (
            "t,address=10.0.0.2/24,address=FD00::2/64,gateway=fd00::1",
            Tap("t", ("10.0.0.2/24", "fd00::2/64"), ("fd00::1",)),
        ),
        ("t,dns=::1", Tap("t", (), (), ("::1",))),
    ],
)
def test_a_tap_device_is_read(text: str, tap: Tap) -> None:
    """With addresses of both kinds."""
    assert parse_tap(text) == tap


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "name of a tap device"),
        ("sixteen-letters-", "name of a tap device"),
        ("a/b", "name of a tap device"),
        ("t,address=10.0.0.2", "has no prefix, as in 10.0.0.2/24"),
        ("t,address=10.0.0.2/33", "is no address"),
        ("t,gateway=10.0.0.1", "a gateway takes an address"),
        ("t,dns=example.org", "is no address"),
        ("t,script=/bin/sh", "is none of address=IP/PREFIX"),
        ("t,", "is none of"),
    ],
)
def test_what_is_no_tap_device_is_refused(text: str, words: str) -> None:
    """Nothing else gets into QEMU's options."""
    with pytest.raises(InvalidArgumentError, match=words):
        parse_tap(text)


_NONE, _HOP = "0" * 32, "fe800000000000000000000000000001"


def _route(target: str, prefix: str, flags: str, device: str) -> str:
    return f"{target} {prefix} {_NONE} 00 {_HOP} 00000400 00000001 00000000 {flags} {device}\n"


@pytest.mark.parametrize(
    ("table", "answer"),
    [
        ("", False),
        (_route(_NONE, "00", "00000003", "eth0"), True),
        (_route("fe8" + "0" * 29, "40", "00000001", "eth0"), False),
        (_route(_NONE, "00", "00200200", "lo"), False),
        (_route(_NONE, "00", "00000200", "eth0"), False),
        (_route(_NONE, "01", "00000003", "eth0"), False),
    ],
)
def test_a_default_route_of_ipv6_is_one_that_leads_somewhere(table: str, answer: bool) -> None:
    """The kernel's own, which reject everything, don't count."""
    assert has_ipv6_route(table) is answer
