"""gcsctl's networks, from a container to servers outside and back, in one of the test's own."""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.busybox_image import busybox_image
from tests.support.lan import PAGE, Lan, open_lan
from tests.support.oci import member
from tests.support.stage import Stage

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

_BOOT_S = 300
_APPLETS = ("sh", "cat", "httpd", "ip", "nslookup", "sleep", "wget")


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    """A network with names, a tap device and DHCP."""
    with (
        tempfile.TemporaryDirectory(prefix="l", dir="/tmp") as folder,
        open_lan(Path(folder)) as lan,
    ):
        yield lan


@pytest.fixture
def inside(gcsctl: Stage, lan: Lan) -> Stage:
    """gcsctl in that network."""
    return replace(gcsctl, prefix=lan.prefix)


@pytest.fixture
def busybox(tmp_path: Path) -> str:
    """An image with the programs of a network, and a page to serve."""
    page = member("www/index.html", b"hello\n")
    return str(busybox_image(tmp_path / "image", *_APPLETS, more=[page]))


#: Each line is one thing that must work; what it prints is looked at.
_LOOK_OUT = """
nslookup host.test && nslookup none.test
wget -q -O - http://host.test/
wget -q -O - http://[fec0::2]/
wget -q -O - http://[2001:db8::1]/
cat /etc/resolv.conf
ip -6 route
"""


def test_names_and_servers_are_those_of_this_machine(inside: Stage, busybox: str) -> None:
    """Through QEMU's name server, and by the default route of IPv6 that this machine has."""
    words = ("run", "--network", "user", busybox, "sh", "-c", _LOOK_OUT)
    done = inside.run(*words, timeout_s=_BOOT_S)
    said = done.stdout.decode() + done.stderr.decode()
    assert "Address: 10.0.2.2" in said, said
    assert "NXDOMAIN" in said, said
    assert said.count(PAGE.decode()) == 3, said
    assert "nameserver 10.0.2.3\n" in said
    assert re.search(r"^default via fec0::2 dev eth0", said, re.MULTILINE), said
    assert inside.leftovers() == []


def test_a_server_answers_on_published_ports(inside: Stage, busybox: str, lan: Lan) -> None:
    """Of both protocols, as long as its container runs."""
    publish = ("-p", "8080:80", "-p", "[::1]:8080:80", "-p", "[2001:db8::1]:8081:80")
    serve = (busybox, "httpd", "-f", "-p", "80", "-h", "/www")
    done = inside.run("run", "-d", "--name", "web", *publish, *serve, timeout_s=_BOOT_S)
    assert done.returncode == 0, done.stderr
    for host in ("127.0.0.1:8080", "[::1]:8080", "[2001:db8::1]:8081"):
        assert lan.fetch(f"http://{host}/") == b"hello\n", host
    assert inside.run("rm", "-f", "web").returncode == 0
    assert lan.fetch("http://[::1]:8080/", patience_s=0) == b""
    assert inside.leftovers() == []


def test_a_tap_device_gives_an_address_by_dhcp(inside: Stage, busybox: str) -> None:
    """With its gateway, its name server and its domain; names are found there."""
    script = (
        "ip address show eth0; cat /etc/resolv.conf; ip route; wget -q -O - http://lan.test/"
    )
    words = ("run", "--network", "tap:tap0", busybox, "sh", "-c", script)
    done = inside.run(*words, timeout_s=_BOOT_S)
    said = done.stdout.decode()
    assert done.returncode == 0, (said, done.stderr)
    assert re.search(r"inet 10\.9\.0\.(5\d|60)/24 ", said), said
    assert "search lan.example\nnameserver 10.9.0.1\n" in said
    assert "default via 10.9.0.1 dev eth0" in said
    assert said.endswith(PAGE.decode())
    assert inside.leftovers() == []


def test_a_tap_device_is_at_addresses_that_are_given(
    inside: Stage, busybox: str, lan: Lan
) -> None:
    """Of both kinds; what listens there is reached without being published."""
    given = (
        "address=10.9.0.7/24,address=fd09::7/64,gateway=10.9.0.1,gateway=fd09::1,dns=10.9.0.1"
    )
    serve = (busybox, "httpd", "-f", "-p", "80", "-h", "/www")
    words = ("run", "-d", "--name", "web", "--network", f"tap:tap0,{given}", *serve)
    done = inside.run(*words, timeout_s=_BOOT_S)
    assert done.returncode == 0, done.stderr
    assert lan.fetch("http://10.9.0.7/") == b"hello\n"
    assert lan.fetch("http://[fd09::7]/") == b"hello\n"
    script = "wget -q -O - http://lan.test/ && wget -q -O - http://[2001:db8::1]/"
    done = inside.run("exec", "web", "sh", "-c", script)
    assert done.stdout == 2 * PAGE, done.stderr
    # The device is in use: another VM is refused, in words.
    done = inside.run("run", "--network", "tap:tap0", busybox, "sh", timeout_s=_BOOT_S)
    assert done.returncode == 125
    assert b"gcsctl: tap tap0: " in done.stderr, done.stderr
    assert inside.run("rm", "-f", "web").returncode == 0
    assert inside.leftovers() == []


def test_passt_gives_the_addresses_of_this_machine(
    inside: Stage, busybox: str, lan: Lan
) -> None:
    """Of both protocols, and publishes ports of both."""
    publish = ("-p", "8080:80", "-p", "[::1]:8081:80")
    serve = (busybox, "httpd", "-f", "-p", "80", "-h", "/www")
    words = ("run", "-d", "--name", "web", "--network", "passt", *publish)
    done = inside.run(*words, *serve, timeout_s=_BOOT_S)
    assert done.returncode == 0, done.stderr
    for host in ("127.0.0.1:8080", "[::1]:8081"):
        assert lan.fetch(f"http://{host}/") == b"hello\n", host
    # passt takes the gateway's address for this machine's loopback.
    script = "ip -o address show eth0; wget -q -O - http://10.9.0.99/"
    done = inside.run("exec", "web", "sh", "-c", script)
    said = done.stdout.decode()
    assert "inet 10.9.0.1/24" in said, (said, done.stderr)
    assert said.endswith(PAGE.decode()), (said, done.stderr)
    assert inside.run("rm", "-f", "web").returncode == 0
    assert inside.leftovers() == []
