"""What goes wrong with NICs that are plugged into a running VM is said, and its pod goes on.

One pod has a NIC in QEMU's user network all the while; after each fault a request over that one
still passes.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest
import trio
from msgspec.structs import replace

from gcs.errors import CallError, Hresult
from gcs.host.bridge import modify
from gcs.wire.messages import GetProperties
from gcs.wire.properties import PropertyQuery
from gcs.wire.resource import (
    IPConfig,
    NetworkAdapter,
    NetworkRoute,
    RequestType,
    ResourceType,
)
from tests.support.guest_pods import GuestPod, adapt, adapted, in_vm, open_pod, plugged
from tests.support.shared_vm import SharedVm
from tests.support.web import ANSWER
from tests.support.wrong_adapters import WRONG

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

#: QEMU answers DHCP and ARP, and nothing else.
_BARE = {"type": "user", "restrict": True}
#: A wire that nobody else is at.
_ALONE = {"type": "hubport", "hubid": 7}
_FIRST = NetworkAdapter(
    namespace_id="faults",
    adapter_id="A1",
    mac_address="02:00:00:00:00:01",
    dns_suffix="a.x,b.x",
    ip_configs=(IPConfig(ip_address="10.0.2.15", prefix_length=24),),
)
_SECOND = NetworkAdapter(
    namespace_id="faults",
    adapter_id="A2",
    mac_address="02:00:00:00:00:02",
    ip_configs=(
        IPConfig(ip_address="10.7.0.2", prefix_length=24),
        IPConfig(ip_address="fd00:7::2", prefix_length=64),
    ),
)


@pytest.fixture(scope="module")
def pod(vm_connected: SharedVm) -> Iterator[GuestPod]:
    """The pod, with its first NIC."""
    with (
        open_pod(vm_connected, "faults") as opened,
        adapted(vm_connected, 0, _FIRST, {"type": "user"}),
    ):
        yield opened


@pytest.fixture(scope="module")
def second(vm_connected: SharedVm) -> Iterator[str]:
    """A second NIC that is plugged in; its name in the VM's own namespace."""
    with plugged(vm_connected, 1, _SECOND.mac_address, _BARE):
        adapt(vm_connected, _SECOND)
        adapt(vm_connected, _SECOND, RequestType.REMOVE)
        (name,) = _spare(vm_connected)
        yield name


def _spare(vm: SharedVm) -> list[str]:
    """Return the links in the VM's own namespace but loopback."""
    lines = in_vm(vm, "ip", "-o", "link").splitlines()
    names = [line.split(":")[1].strip() for line in lines]
    return [name for name in names if name != "lo"]


def _is_usable(pod: GuestPod, urls: Sequence[str]) -> bool:
    return pod.busybox("wget", "-q", "-O", "-", urls[0]) == ANSWER


def _refused(vm: SharedVm, settings: NetworkAdapter, kind: RequestType) -> CallError:
    with pytest.raises(CallError) as caught:
        adapt(vm, settings, kind)
    return caught.value


def test_a_nic_that_comes_late_is_waited_for(
    vm_connected: SharedVm, pod: GuestPod, urls: Sequence[str]
) -> None:
    """A second after the request, while the pod is used."""
    vm = vm_connected

    async def add_and_plug() -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                modify, vm.client, RequestType.ADD, ResourceType.NETWORK, _SECOND
            )
            began = trio.current_time()
            await trio.sleep(1)
            await vm.vm.add_nic(1, _SECOND.mac_address, _BARE)
        return trio.current_time() - began

    try:
        assert vm.call(add_and_plug) >= 1
        assert pod.links() == ["eth0", "eth1"]
        assert _is_usable(pod, urls)
        adapt(vm, _SECOND, RequestType.REMOVE)
        assert pod.links() == ["eth0"]
    finally:
        vm.call(vm.vm.remove_nic, 1)


def test_a_nic_that_never_comes_is_named(
    vm_connected: SharedVm, pod: GuestPod, urls: Sequence[str]
) -> None:
    """Within the guest's own limit, below the host's."""
    began = time.monotonic()
    error = _refused(vm_connected, _SECOND, RequestType.ADD)
    assert error.result == Hresult.TIMEOUT
    assert "NIC with MAC address 02:00:00:00:00:02 did not appear within 10 s" in error.message
    assert time.monotonic() - began >= 10
    assert _is_usable(pod, urls)


@pytest.mark.parametrize(
    ("given", "result", "words"),
    [values for name, values in WRONG.items() if name != "never"],
    ids=[name for name in WRONG if name != "never"],
)
def test_what_can_t_be_is_said_and_leaves_the_pod_alone(
    vm_connected: SharedVm,
    pod: GuestPod,
    second: str,
    urls: Sequence[str],
    given: dict[str, object],
    result: Hresult,
    words: str,
) -> None:
    """The NIC is where it was, and can be added by the next test."""
    error = _refused(vm_connected, replace(_SECOND, **given), RequestType.ADD)
    assert words in error.message
    assert error.result == result
    look = f"/busybox ip -o link; /busybox wget -q -O - {urls[0]}"
    said = pod.output("sh", "-c", look)
    assert ANSWER in said
    assert "eth1" not in said
    assert _spare(vm_connected) == [second]


def test_a_nic_that_is_added_twice_is_there_once(
    vm_connected: SharedVm, pod: GuestPod, second: str, urls: Sequence[str]
) -> None:
    """And removed twice it is gone."""
    for _ in range(2):
        adapt(vm_connected, _SECOND)
    assert pod.links() == ["eth0", "eth1"]
    assert _spare(vm_connected) == []
    for _ in range(2):
        adapt(vm_connected, _SECOND, RequestType.REMOVE)
    assert pod.links() == ["eth0"]
    assert _spare(vm_connected) == [second]
    assert _is_usable(pod, urls)


def test_a_name_that_the_pod_has_taken_is_passed_over(
    vm_connected: SharedVm, pod: GuestPod, second: str, urls: Sequence[str]
) -> None:
    """Root in the container has made an eth1 of its own, which stays its own."""
    pod.busybox("ip", "link", "add", "eth1", "type", "veth")
    try:
        adapt(vm_connected, _SECOND)
        assert "10.7.0.2/24" in pod.busybox("ip", "address", "show", "dev", "eth2")
        adapt(vm_connected, _SECOND, RequestType.REMOVE)
        assert "eth1" in pod.links()
        assert "eth2" not in pod.links()
        assert _spare(vm_connected) == [second]
    finally:
        pod.busybox("ip", "link", "delete", "eth1")
    assert _is_usable(pod, urls)


def test_an_adapter_is_changed_while_its_pod_runs(
    vm_connected: SharedVm, pod: GuestPod, second: str, urls: Sequence[str]
) -> None:
    """Addresses, routes, MTU and name servers; a change that fails changes nothing."""
    adapt(vm_connected, _SECOND)
    after = replace(
        _SECOND,
        ip_configs=(IPConfig(ip_address="10.8.0.2", prefix_length=24),),
        routes=(NetworkRoute(next_hop="10.8.0.1", destination_prefix="10.9.0.0/16"),),
        mtu=1300,
        dns_server_list="10.8.0.53",
    )
    adapt(vm_connected, after, RequestType.UPDATE)
    shown = pod.busybox("ip", "-4", "address", "show", "dev", "eth1")
    assert "mtu 1300" in shown
    assert "10.8.0.2/24" in shown
    assert "10.7.0.2" not in shown
    assert "10.9.0.0/16 via 10.8.0.1 dev eth1" in pod.busybox("ip", "route")
    names = pod.output("cat", "/etc/resolv.conf")
    assert names == "search a.x b.x\nnameserver 10.8.0.53\n"
    error = _refused(vm_connected, replace(after, mtu=70_000), RequestType.UPDATE)
    assert "MTU 70000 of eth1" in error.message
    assert pod.busybox("ip", "-4", "address", "show", "dev", "eth1") == shown
    adapt(vm_connected, after, RequestType.REMOVE)
    assert _spare(vm_connected) == [second]
    assert pod.output("cat", "/etc/resolv.conf") == "search a.x b.x\n"
    assert _is_usable(pod, urls)


def _third(namespace: str) -> NetworkAdapter:
    """Return the settings of a NIC for another pod."""
    return replace(
        _SECOND, namespace_id=namespace, adapter_id="A3", mac_address="02:00:00:00:00:03"
    )


def test_two_nics_of_one_mac_address_are_not_mixed_up(
    vm_connected: SharedVm, pod: GuestPod, urls: Sequence[str]
) -> None:
    """The host hears of it, whether or not one of them is in use."""
    one = _third("faults")
    both_are_there = f"[ $(cat /sys/class/net/*/address | grep -c {one.mac_address}) = 2 ]"
    with plugged(vm_connected, 2, one.mac_address, _BARE):
        adapt(vm_connected, one)
        with plugged(vm_connected, 3, one.mac_address, _BARE):
            error = _refused(vm_connected, replace(one, adapter_id="A4"), RequestType.ADD)
            assert error.result == Hresult.INVALID_STATE
            assert f"MAC address {one.mac_address} is that of adapter a3" in error.message
            adapt(vm_connected, one, RequestType.REMOVE)
            in_vm(vm_connected, "sh", "-c", f"until {both_are_there}; do sleep 0.1; done")
            error = _refused(vm_connected, one, RequestType.ADD)
            assert f"NICs with MAC address {one.mac_address}: eth" in error.message
        adapt(vm_connected, one)
        adapt(vm_connected, one, RequestType.REMOVE)
    assert pod.links() == ["eth0"]
    assert _is_usable(pod, urls)


def _statistics(vm: SharedVm, pod: GuestPod) -> dict[str, tuple[int, int]]:
    """Return received bytes and sent packets by interface, as a host asks for them."""
    query = PropertyQuery(property_types=("Statistics",))
    request = GetProperties(container_id=pod.container.cid, query=query)
    reply = vm.call(vm.client.call, request)
    assert reply.properties is not None
    assert reply.properties.lcow_metrics is not None
    found = reply.properties.lcow_metrics.network
    return {one.name: (one.rx_bytes, one.tx_packets) for one in found}


def test_statistics_are_those_of_the_pod(
    vm_connected: SharedVm, pod: GuestPod, urls: Sequence[str]
) -> None:
    """What one pod receives is counted for its NIC, and not for another pod's."""
    with ExitStack() as stack:
        quiet = stack.enter_context(open_pod(vm_connected, "quiet"))
        stack.enter_context(adapted(vm_connected, 2, _third("quiet"), _ALONE))
        before = _statistics(vm_connected, pod), _statistics(vm_connected, quiet)
        assert [list(one) for one in before] == [["eth0"], ["eth0"]]
        assert _is_usable(pod, urls)
        after = _statistics(vm_connected, pod), _statistics(vm_connected, quiet)
    grown = [
        (new["eth0"][0] - old["eth0"][0], new["eth0"][1] - old["eth0"][1])
        for old, new in zip(before, after, strict=True)
    ]
    assert grown[0][0] >= len(ANSWER)
    assert grown[0][1] >= 3
    assert grown[1][0] == 0


def test_containers_of_a_pod_talk_over_loopback(vm_connected: SharedVm) -> None:
    """They have one namespace: what one serves on 127.0.0.1 the other one gets."""
    serve = "echo mine >/tmp/index.html; exec /busybox httpd -f -p 127.0.0.1:80 -h /tmp"
    ask = "until /busybox wget -q -O - http://127.0.0.1/; do sleep 0.2; done"
    with (
        open_pod(vm_connected, "shared", is_sandbox=True) as sandbox,
        open_pod(vm_connected, "shared", "sh", "-c", serve, joins=sandbox) as workload,
    ):
        assert sandbox.output("sh", "-c", ask).endswith("mine\n")
        with adapted(vm_connected, 2, _third("shared"), _ALONE):
            assert sandbox.links() == workload.links() == ["eth0"]
