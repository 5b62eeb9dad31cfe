"""/proc of a process in a network namespace of its own."""

import subprocess
from collections.abc import Iterator

import pytest

from gcs.linux import procfs

pytestmark = pytest.mark.root

_SCRIPT = "ip link add left type veth peer name right && ip link set left up && echo up && cat"


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process that has two interfaces that nobody else sees."""
    argv = ["unshare", "--net", "sh", "-c", _SCRIPT]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        yield running
        assert running.stdin is not None
        running.stdin.close()


def test_interfaces_are_those_of_the_process(process: "subprocess.Popen[bytes]") -> None:
    """Not those of the reader, and without loopback; their counters begin at 0."""
    found = {one.name: one for one in procfs.interfaces(process.pid)}
    assert {"left", "right"} <= found.keys()
    assert "lo" not in found
    assert found["right"].sent == (0, 0, 0, 0)
    assert {"left", "right"}.isdisjoint(one.name for one in procfs.interfaces(1))
