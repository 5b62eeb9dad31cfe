"""Many NICs, plugged in and out of one VM ten at a time, leave nothing in it."""

import os
from collections.abc import Awaitable, Callable

import pytest
import trio

from gcs.host.bridge import modify
from gcs.wire.resource import (
    IPConfig,
    NetworkAdapter,
    NetworkRoute,
    RequestType,
    ResourceType,
)
from tests.support.guest_pods import GuestPod, in_vm, open_pod
from tests.support.patience import nothing_grows
from tests.support.shared_vm import SharedVm

IS_SOAK = bool(os.environ.get("GCS_SOAK"))
#: At a time, and times; a first one before that leaves what stays for good.
_NICS, _ROUNDS = 10, 5 if IS_SOAK else 1

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800 if IS_SOAK else 300)]

Step = Callable[[SharedVm, int, int], Awaitable[None]]

#: Each line is a name and a count; what is counted is what NICs may leave behind.
_COUNT = r"""
agent=$PPID
echo links $(ip -o link | wc -l)
echo rules $(ip rule | wc -l)
echo addresses $(ip -o address | wc -l)
links=$(ls -l /proc/[0-9]*/ns/net /proc/$agent/fd 2>/dev/null)
echo namespaces $(echo "$links" | grep -o 'net:\[[0-9]*' | sort -u | wc -l)
echo descriptors $(ls /proc/$agent/fd | wc -l)
echo threads $(ls /proc/$agent/task | wc -l)
echo programs $(grep -l . /proc/[0-9]*/cmdline 2>/dev/null | wc -l)
echo files $(find /run /tmp 2>/dev/null | grep -v '^/run/layers/\|/lower/' | wc -l)
"""


def _count(vm: SharedVm, pod: GuestPod) -> dict[str, int]:
    lines = in_vm(vm, "sh", "-c", _COUNT).splitlines()
    found = {name: int(number) for name, number in (line.split() for line in lines)}
    assert found["namespaces"] >= 2, "the agent was not found"
    found["links of the pod"] = len(pod.links())
    found["rules of the pod"] = len(pod.busybox("ip", "rule").splitlines())
    return found


def _settings(number: int, turn: int) -> NetworkAdapter:
    """Return every second one for the pod, the others for new namespaces of nobody.

    The last two have their address by DHCP, from QEMU.
    """
    by_hand = IPConfig(ip_address=f"10.6.{number}.2", prefix_length=24)
    route = NetworkRoute(next_hop=f"10.6.{number}.1", destination_prefix="0.0.0.0/0")
    is_told = number < _NICS - 2
    return NetworkAdapter(
        namespace_id=f"churn-{turn}-{number}" if number % 2 else "churn",
        adapter_id=f"churn-{number}",
        mac_address=f"52:54:00:06:00:{number:02x}",
        ip_configs=(by_hand,) if is_told else (),
        routes=(route,) if is_told else (),
        enable_low_metric=True,
        dns_server_list=f"10.6.{number}.1",
    )


async def _come(vm: SharedVm, number: int, turn: int) -> None:
    settings = _settings(number, turn)
    await vm.vm.add_nic(number, settings.mac_address, {"type": "user", "restrict": True})
    await modify(vm.client, RequestType.ADD, ResourceType.NETWORK, settings)


async def _go(vm: SharedVm, number: int, _: int) -> None:
    gone = NetworkAdapter(adapter_id=f"churn-{number}")
    await modify(vm.client, RequestType.REMOVE, ResourceType.NETWORK, gone)
    await vm.vm.remove_nic(number)


async def _together(work: Step, vm: SharedVm, turn: int) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(_NICS):
            nursery.start_soon(work, vm, number, turn)


def _warnings(vm: SharedVm) -> str:
    """Return what the kernel has warned of links so far."""
    return in_vm(vm, "sh", "-c", "dmesg | grep 'link change request' || true")


def _come_and_go(vm: SharedVm, pod: GuestPod, turn: int) -> None:
    warnings = _warnings(vm)
    vm.call(_together, _come, vm, turn)
    assert _warnings(vm) == warnings
    assert pod.links() == ["eth0", "eth1", "eth2", "eth3", "eth4"]
    assert "lookup 10" in pod.busybox("ip", "rule")
    links = [line.split(":")[1].strip() for line in in_vm(vm, "ip", "-o", "link").splitlines()]
    assert links == ["lo"]
    vm.call(_together, _go, vm, turn)


def test_many_nics_leave_nothing(vm_connected: SharedVm) -> None:
    """No link, address, rule, namespace, descriptor, thread, process or file is left."""
    vm = vm_connected
    with open_pod(vm, "churn") as pod:
        _come_and_go(vm, pod, 0)
        before = _count(vm, pod)
        assert before["links"] == 1
        assert before["links of the pod"] == 0
        for turn in range(_ROUNDS):
            _come_and_go(vm, pod, 1 + turn)
        # Idle threads are kept for ten seconds.
        nothing_grows(before, lambda: _count(vm, pod))
