"""Ports are published, and a NIC is plugged in with what it is to lead to."""

import pytest

from gcs.errors import InvalidArgumentError
from gcs.host import network
from gcs.host.network import Published


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("8080:80", Published("127.0.0.1", 8080, 80)),
        ("8080:80/tcp", Published("127.0.0.1", 8080, 80)),
        ("53:53/udp", Published("127.0.0.1", 53, 53, "udp")),
        ("0.0.0.0:1:65535", Published("0.0.0.0", 1, 65535)),
    ],
)
def test_a_port_is_published_as_docker_spells_it(text: str, published: Published) -> None:
    """Without an address it is this machine's loopback."""
    assert network.parse_published(text) == published
    assert network.parse_published(str(published)) == published


@pytest.mark.parametrize(
    "text",
    [
        *("", "80", "80:", ":80", "0:80", "80:65536", "a:80", "1.2.3:80:80", "80:80/sctp"),
        *("1:2:3:4", "8080:80,hostfwd=tcp::22-:22", "\u0661:80", "80:80\n"),
    ],
)
def test_what_is_no_port_is_refused(text: str) -> None:
    """Nothing of it gets into QEMU's options."""
    with pytest.raises(InvalidArgumentError):
        network.parse_published(text)
