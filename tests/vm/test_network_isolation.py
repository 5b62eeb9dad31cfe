"""Two pods of one VM are two machines, whatever root in a container sends.

Each pod's NIC is on a wire of its own, but has an address of the same subnet: what is sent to
another pod's address, over whatever is there, goes to the sender's own wire, or nowhere.
"""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gcs.wire.resource import IPConfig, NetworkAdapter
from tests.support.guest_pods import GuestPod, adapted, in_vm, open_pod
from tests.support.shared_vm import SharedVm
from tests.support.stage import ROOT

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

_INSTALL = "cat >/probe && chmod 755 /probe"
#: In the background; its stdin stays open.
_LISTEN = "(sleep 6000 | /probe listen >/heard 2>&1) >/dev/null 2>&1 &"
#: With the neighbour's address known, so that nothing has to be asked first.
_SEND = "/busybox arp -s {ip} {mac}; for _ in 1 2 3; do /probe send {letter} {mac} {ip}; done"
_AWAIT = "until /busybox grep -q '{line}' /heard; do /busybox sleep 0.1; done"
#: Over a wire, and inside a namespace.
_WIRE_WAYS, _ALL_WAYS = (
    ("packet", "icmp", "raw-udp", "udp"),
    (*("packet", "icmp", "raw-udp", "udp", "unix"),),
)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A static program that hears and sends over every kind of socket."""
    source = ROOT / "tests" / "support" / "raw_probe.c"
    out = tmp_path_factory.mktemp("probe") / "probe"
    words = ["gcc", "-static", "-s", "-O1", "-D_GNU_SOURCE", "-o", str(out), str(source)]
    subprocess.run(words, check=True)
    return out.read_bytes()


def _ip(number: int) -> str:
    return f"10.5.0.{number + 1}"


def _mac(number: int) -> str:
    return f"52:54:00:05:00:{number:02x}"


@pytest.fixture
def pods(vm_connected: SharedVm, probe: bytes) -> Iterator[list[GuestPod]]:
    """Three pods with the probe in them: one alone on its wire, two on another."""
    with ExitStack() as stack:
        found = []
        for number, wire in enumerate((0, 1, 1)):
            name = f"isolated-{number}"
            pod = stack.enter_context(open_pod(vm_connected, name))
            pod.output("sh", "-c", _INSTALL, stdin=probe)
            settings = NetworkAdapter(
                namespace_id=name,
                adapter_id=f"{name}-nic",
                mac_address=_mac(number),
                ip_configs=(IPConfig(ip_address=_ip(number), prefix_length=24),),
            )
            backend = {"type": "hubport", "hubid": wire}
            stack.enter_context(adapted(vm_connected, number, settings, backend))
            found.append(pod)
        yield found


def _send(sender: GuestPod, letter: str, to: int) -> str:
    script = _SEND.format(letter=letter, mac=_mac(to), ip=_ip(to))
    return sender.output("sh", "-c", script)


def _hears(pod: GuestPod, line: str) -> None:
    """Wait until the listener of a pod has heard something; the call has a limit."""
    pod.output("sh", "-c", _AWAIT.format(line=line))


def test_nothing_gets_from_one_pod_to_another(
    vm_connected: SharedVm, pods: list[GuestPod]
) -> None:
    """Not by frames, raw IP, UDP, loopback or abstract sockets; a pod on the same wire is heard
    by the first ways, and a process of the same pod by all.
    """
    alone, target, neighbour = pods
    target.output("sh", "-c", _LISTEN)
    _hears(target, "^ready")
    said = _send(alone, "a", to=1)
    for way in ("frame eth0", "broadcast eth0", f"raw {_ip(1)}", f"icmp {_ip(1)}", "frame lo"):
        assert f"\nsent {way}\n" in f"\n{said}", said
    _send(neighbour, "n", to=1)
    _send(target, "t", to=1)
    for letter, ways in (("n", _WIRE_WAYS), ("t", _ALL_WAYS)):
        for way in ways:
            _hears(target, f"^heard {letter} {way}$")
    heard = target.output("cat", "/heard")
    assert "heard n unix" not in heard
    assert "heard a" not in heard
    assert "lo" in in_vm(vm_connected, "ip", "-o", "link")


def test_a_pod_can_t_take_what_is_another_s(pods: list[GuestPod]) -> None:
    """With the other one's addresses as its own it hears nothing that is sent to that one."""
    alone, target, neighbour = pods
    alone.busybox("ip", "link", "set", "eth0", "down")
    alone.busybox("ip", "link", "set", "eth0", "address", _mac(1))
    alone.busybox("ip", "link", "set", "eth0", "up")
    alone.busybox("ip", "address", "add", f"{_ip(1)}/24", "dev", "eth0")
    for pod in (alone, target):
        pod.output("sh", "-c", _LISTEN)
        _hears(pod, "^ready")
    _send(neighbour, "n", to=1)
    _hears(target, "^heard n udp$")
    _send(alone, "a", to=1)
    _hears(alone, "^heard a udp$")
    assert "heard n" not in alone.output("cat", "/heard")
    assert "heard a" not in target.output("cat", "/heard")
