"""Network adapters of pods on a real kernel: virtual cables stand for hot-plugged NICs."""

import operator
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from gcs.errors import Hresult
from gcs.guest.spec import annotations
from gcs.host.client import Client
from gcs.wire.messages import DeleteContainerState, GetProperties
from gcs.wire.properties import PropertyQuery
from gcs.wire.resource import IPConfig, NetworkAdapter, NetworkRoute, RequestType
from tests.support.agent import AgentHost, Streams, wait
from tests.support.networks import GUID, Pod, adapter, change, in_vm, make_pod, own_links, plug
from tests.support.scenario import play, refused
from tests.support.wires import Wires, open_wires
from tests.support.wrong_adapters import WRONG

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

#: lowers the time for a NIC that does not come
IMPATIENT = "from gcs.guest.handlers import network; network._TIMEOUT_S = 0.5"
REMOVE, UPDATE = RequestType.REMOVE, RequestType.UPDATE


@pytest.fixture
def wires() -> Iterator[Wires]:
    with open_wires() as opened:
        yield opened


# -- before and after the container ------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_nics_that_are_there_before_a_pod_are_its_own(
    tmp_path: Path, wires: Wires, runtime: str
) -> None:
    """eth0 and eth1 work over both kinds of IP, and the VM has nothing but loopback."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1, 2)
        for number in (1, 2):
            await client.call(change(adapter(number)))
        assert own_links(host) == []
        pod = await make_pod(host, client)
        assert await pod.links() == ["eth0", "eth1"]
        for number in (1, 2):
            assert await pod.reaches(f"10.0.{number}.1")
            assert await pod.reaches(f"fd00:{number}::1")
        assert await pod.reaches("127.0.0.1")
        assert own_links(host) == []

    await play(tmp_path, scenario, "-runtime", runtime)


async def test_a_nic_joins_a_running_pod(tmp_path: Path, wires: Wires) -> None:
    """The first as well as the second one, which leaves the first alone."""

    async def scenario(host: AgentHost, client: Client) -> None:
        pod = await make_pod(host, client)
        plug(host, wires, 1, 2)
        await client.call(change(adapter(1)))
        assert await pod.reaches("10.0.1.1")
        await client.call(change(adapter(2)))
        assert await pod.links() == ["eth0", "eth1"]
        assert await pod.reaches("10.0.1.1")
        assert await pod.reaches("fd00:2::1")
        assert own_links(host) == []

    await play(tmp_path, scenario)


async def test_containers_of_a_pod_share_its_namespace(tmp_path: Path, wires: Wires) -> None:
    """They talk over 127.0.0.1, and a NIC that comes later is there for both."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        sandbox = await make_pod(host, client)
        (host.rootfs / "hi").write_text("from the other one")
        spec = host.spec("busybox", "httpd", "-f", "-p", "127.0.0.1:8000")
        spec["annotations"] = {
            annotations.CONTAINER_TYPE: "container",
            annotations.SANDBOX_ID: "p",
        }
        path = f"/proc/{sandbox.pid}/ns/net"
        spec["linux"] = {"namespaces": [{"type": "mount"}, {"type": "network", "path": path}]}
        await client.call(host.create_request("w", spec))
        await host.execute(client, "w", Streams())
        ask = "until busybox wget -q -O - http://127.0.0.1:8000/hi; do :; done"
        with trio.fail_after(60):
            assert "from the other one" in await sandbox.output("sh", "-c", ask)
        await client.call(change(adapter(1)))
        assert await sandbox.links() == ["eth0"]

    await play(tmp_path, scenario)


async def test_pods_do_not_see_each_other(tmp_path: Path, wires: Wires) -> None:
    """Neither can reach the other's address, although each has a way to its own gateway."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1, 2)
        await client.call(change(adapter(1, "one")))
        await client.call(change(adapter(2, "two")))
        first = await make_pod(host, client, "p1", "one")
        second = await make_pod(host, client, "p2", "TWO")
        assert await first.reaches("10.0.1.1")
        assert await second.reaches("10.0.2.1")
        assert not await first.reaches("10.0.2.2")
        assert "10.0.2." not in await first.output("ip", "address")
        assert not await second.reaches("10.0.1.2")

    await play(tmp_path, scenario)


async def test_a_pod_in_the_vm_s_network_has_its_nics_there(
    tmp_path: Path, wires: Wires
) -> None:
    """Those given before, which nobody could know then, and those that come later."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1, 2)
        await client.call(change(adapter(1)))
        pod = await make_pod(host, client, **{annotations.HOST_NETWORK: "true"})
        await client.call(change(adapter(2)))
        assert own_links(host) == ["nic1", "nic2"]
        assert await pod.reaches("10.0.1.1")
        assert await pod.reaches("fd00:2::1")
        await client.call(change(adapter(2), REMOVE))
        assert not await pod.reaches("10.0.2.1")
        await pod.remove()
        assert "10.0.1.2" not in await in_vm(host, client, "ip", "address")

    await play(tmp_path, scenario)


# -- removal -----------------------------------------------------------------------------------


async def test_a_removed_nic_is_out_of_its_pod(tmp_path: Path, wires: Wires) -> None:
    """Its link is the VM's, its rules are gone; a second removal is harmless, and so is a new
    addition.
    """

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1, 2)
        pod = await make_pod(host, client)
        for number in (1, 2):
            await client.call(change(adapter(number, policy_based_routing=True)))
        before = await pod.output("ip", "rule")
        assert "from 10.0.2.2 lookup 101" in before
        for _ in range(2):
            await client.call(change(adapter(2), REMOVE))
        assert await pod.links() == ["eth0"]
        assert "10.0.2.2" not in await pod.output("ip", "rule")
        assert own_links(host) == ["nic2"]
        for _ in range(2):
            await client.call(change(adapter(2)))
        assert await pod.reaches("10.0.2.1")

    await play(tmp_path, scenario)


async def test_a_nic_is_removed_by_its_id_alone(tmp_path: Path, wires: Wires) -> None:
    """Some hosts leave out the namespace; and what is not known is fine."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        await client.call(change(adapter(1)))
        await client.call(change(NetworkAdapter(adapter_id="other"), REMOVE))
        await client.call(change(NetworkAdapter(adapter_id="other", namespace_id="x"), REMOVE))
        await client.call(change(NetworkAdapter(adapter_id="a1"), REMOVE))
        assert own_links(host) == ["nic1"]

    await play(tmp_path, scenario)


async def test_a_deleted_pod_gives_its_nics_and_its_namespace_back(
    tmp_path: Path, wires: Wires
) -> None:
    """The host may take both for another pod, and the NIC may be removed once more."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        for container_id in ("p", "q"):
            await client.call(change(adapter(1)))
            pod = await make_pod(host, client, container_id)
            assert await pod.reaches("10.0.1.1")
            await pod.remove()
            assert own_links(host) == ["nic1"]
            await client.call(change(adapter(1), REMOVE))

    await play(tmp_path, scenario)


async def test_a_namespace_outlives_its_sandbox_s_process(tmp_path: Path, wires: Wires) -> None:
    """A pod whose sandbox has crashed can still be changed, until it is deleted."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1, 2)
        await client.call(change(adapter(1)))
        pod = await make_pod(host, client)
        await in_vm(host, client, "kill", "-9", str(pod.pid))
        await wait(client, "p", pod.pid)
        await client.call(change(adapter(2)))
        assert own_links(host) == []
        await client.call(DeleteContainerState(container_id="p"))
        assert own_links(host) == ["nic1", "nic2"]

    await play(tmp_path, scenario)


async def held(host: AgentHost, client: Client) -> tuple[int, int, int]:
    """Return how many descriptors, namespaces among them, and threads the agent has."""
    look = "readlink /proc/1/fd/*; ls /proc/1/task | sed s/^/thread:/"
    found = (await in_vm(host, client, "sh", "-c", look)).split()
    threads = sum(word.startswith("thread:") for word in found)
    return len(found) - threads, sum(word.startswith("net:") for word in found), threads


async def add_and_remove_ten(
    host: AgentHost, client: Client, wires: Wires, pod: Pod, time: int
) -> None:
    """Ten at a time, five into the pod and the others into new namespaces of nobody."""
    numbers = range(1, 11)
    plug(host, wires, *numbers)
    async with trio.open_nursery() as nursery:
        for number in numbers:
            namespace = GUID if number % 2 else f"other {time} {number}"
            settings = adapter(number, namespace, enable_low_metric=True)
            nursery.start_soon(client.call, change(settings))
    assert len(await pod.links()) == 5
    async with trio.open_nursery() as nursery:
        for number in numbers:
            removal = NetworkAdapter(adapter_id=f"A{number}")
            nursery.start_soon(client.call, change(removal, REMOVE))
    for number in numbers:
        wires.unplug(number)


async def test_fifty_nics_leave_nothing(tmp_path: Path, wires: Wires) -> None:
    """No link, namespace, rule, thread or descriptor is left of them."""

    async def scenario(host: AgentHost, client: Client) -> None:
        pod = await make_pod(host, client)
        await add_and_remove_ten(host, client, wires, pod, 0)
        before = await held(host, client)
        for time in range(1, 6):
            await add_and_remove_ten(host, client, wires, pod, time)
        assert (await pod.links(), own_links(host)) == ([], [])
        assert "lookup 1" not in await pod.output("ip", "rule")
        # Idle threads are kept for ten seconds, the streams of the last program for a moment.
        with trio.fail_after(60):
            while any(map(operator.gt, await held(host, client), before)):  # noqa: ASYNC110
                await trio.sleep(0.5)

    await play(tmp_path, scenario)


# -- settings ----------------------------------------------------------------------------------


async def test_each_further_nic_has_a_routing_table_of_its_own(
    tmp_path: Path, wires: Wires
) -> None:
    """The same default route goes over every NIC, each for packets from its own address."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1, 2, 3)
        for number in (1, 2, 3):
            default = NetworkRoute(next_hop=f"10.0.{number}.1", destination_prefix="0.0.0.0/0")
            settings = adapter(number, policy_based_routing=True, routes=(default,))
            await client.call(change(settings))
        pod = await make_pod(host, client)
        assert "default via 10.0.1.1 dev eth0" in await pod.output("ip", "route")
        for number, table in ((2, "101"), (3, "102")):
            wanted = f"default via 10.0.{number}.1 dev eth{number - 1}  metric 500"
            assert wanted in await pod.output("ip", "route", "show", "table", table)
            wires.run("ip", "address", "add", f"10.99.{number}.1/32", "dev", f"w{number}")
        status, text = await pod.run("ping", "-c", "1", "-I", "10.0.3.2", "10.99.3.1")
        assert status == 0, text

    await play(tmp_path, scenario)


async def test_name_servers_and_domains_follow_the_nics(tmp_path: Path, wires: Wires) -> None:
    """resolv.conf is the same file in every container, and changes with the NICs."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1, 2)
        first = adapter(1, dns_suffix="A.example, b.example", dns_server_list="10.0.1.1")
        second = adapter(2, dns_suffix="b.example,c.example", dns_server_list="fd00:2::1")
        await client.call(change(first))
        await make_pod(host, client)
        spec = host.spec("sleep", "1000")
        (host.rootfs / "etc").mkdir()
        spec["annotations"] = {
            annotations.CONTAINER_TYPE: "container",
            annotations.SANDBOX_ID: "p",
        }
        await client.call(host.create_request("w", spec))
        workload = Pod(host, client, "w", await host.execute(client, "w", Streams()))

        async def found() -> str:
            return await workload.output("cat", "/etc/resolv.conf")

        one = "search a.example b.example\nnameserver 10.0.1.1\n"
        assert await found() == one
        await client.call(change(second))
        assert await found() == (
            "search a.example b.example c.example\nnameserver 10.0.1.1\nnameserver fd00:2::1\n"
        )
        await client.call(change(adapter(2, dns_server_list="10.9.9.9"), UPDATE))
        assert await found() == one + "nameserver 10.9.9.9\n"
        await client.call(change(second, REMOVE))
        assert await found() == one

    await play(tmp_path, scenario)


async def test_settings_can_be_changed(tmp_path: Path, wires: Wires) -> None:
    """Addresses, routes and MTU are the new ones; a change that fails changes nothing."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        await client.call(change(adapter(1, encap_overhead=50)))
        pod = await make_pod(host, client)
        assert "mtu 1450" in await pod.output("ip", "link", "show", "eth0")
        wires.run("ip", "address", "add", "10.7.0.1/24", "dev", "w1")
        new = adapter(
            *(1,),
            ip_configs=(IPConfig(ip_address="10.7.0.2", prefix_length=24),),
            routes=(NetworkRoute(next_hop="10.7.0.1", destination_prefix="10.8.0.0/16"),),
            mtu=1300,
        )
        await client.call(change(new, UPDATE))
        shown = await pod.output("ip", "-4", "address", "show", "eth0")
        assert "mtu 1300" in shown
        assert "10.7.0.2/24" in shown
        assert "10.0.1.2" not in shown
        assert await pod.reaches("10.7.0.1")
        double = (
            *new.routes,
            NetworkRoute(next_hop="10.7.0.9", destination_prefix="10.8.0.0/16"),
        )
        error = await refused(client, change(adapter(1, routes=double), UPDATE))
        assert "10.7.0.9" in error.message
        assert await pod.output("ip", "-4", "address", "show", "eth0") == shown
        assert "10.8.0.0/16 via 10.7.0.1" in await pod.output("ip", "route")

    await play(tmp_path, scenario)


async def test_statistics_are_those_of_the_pod(tmp_path: Path, wires: Wires) -> None:
    """Each NIC is there by its name in the pod, with what went over it."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1, 2)
        pod = await make_pod(host, client)
        for number in (1, 2):
            await client.call(change(adapter(number)))
        assert await pod.reaches("10.0.2.1")
        query = PropertyQuery(property_types=("Statistics",))
        reply = await client.call(GetProperties(container_id="p", query=query))
        assert reply.properties is not None
        assert reply.properties.lcow_metrics is not None
        found = {one.name: one for one in reply.properties.lcow_metrics.network}
        assert sorted(found) == ["eth0", "eth1"]
        assert found["eth1"].tx_packets >= 1
        assert found["eth1"].rx_bytes >= 84

    await play(tmp_path, scenario)


# -- what goes wrong ---------------------------------------------------------------------------


async def test_a_nic_may_come_late(tmp_path: Path, wires: Wires) -> None:
    """A second after the request, while others are served."""

    async def scenario(host: AgentHost, client: Client) -> None:
        pod = await make_pod(host, client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, change(adapter(1)))
            await trio.sleep(1)
            assert await pod.links() == []
            plug(host, wires, 1)
        assert await pod.reaches("10.0.1.1")

    await play(tmp_path, scenario)


@pytest.mark.parametrize(("given", "result", "words"), WRONG.values(), ids=list(WRONG))
async def test_what_can_t_be_is_said_and_leaves_nothing(
    tmp_path: Path, wires: Wires, given: dict[str, object], result: Hresult, words: str
) -> None:
    """The pod is as usable as before, and so is the NIC."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1, 2)
        pod = await make_pod(host, client)
        await client.call(change(adapter(1, dns_suffix="a.x,b.x")))
        error = await refused(client, change(replace(adapter(2), **given)))
        assert words in error.message
        assert error.result == result
        assert await pod.links() == ["eth0"]
        assert own_links(host) == ["nic2"]
        assert await pod.reaches("10.0.1.1")
        await client.call(change(adapter(2)))
        assert await pod.reaches("10.0.2.1")

    await play(tmp_path, scenario, before=IMPATIENT)


async def test_a_name_that_the_pod_has_taken_is_passed_over(
    tmp_path: Path, wires: Wires
) -> None:
    """Root in a container made an eth0 of its own; the NIC is eth1."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        pod = await make_pod(host, client)
        path = f"/proc/{host.process.pid}/root/proc/{pod.pid}/ns/net"
        wires.run("nsenter", f"--net={path}", "ip", "link", "add", "eth0", "type", "veth")
        await client.call(change(adapter(1)))
        assert "eth1" in await pod.links()
        assert await pod.reaches("10.0.1.1")

    await play(tmp_path, scenario)


async def test_a_nic_that_was_unplugged_first_can_be_removed(
    tmp_path: Path, wires: Wires
) -> None:
    """And a change of it says that it is gone."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        pod = await make_pod(host, client)
        await client.call(change(adapter(1)))
        wires.unplug(1)
        error = await refused(client, change(adapter(1, mtu=1400), UPDATE))
        assert "NIC eth0 is no longer there" in error.message
        await client.call(change(adapter(1), REMOVE))
        assert await pod.links() == []
        error = await refused(client, change(adapter(1), UPDATE))
        assert error.result == Hresult.ERR_NOT_FOUND

    await play(tmp_path, scenario)


async def test_a_pod_can_t_take_the_namespace_of_another(tmp_path: Path, wires: Wires) -> None:
    """Its Create is refused, and leaves neither a container nor a pod."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        await client.call(change(adapter(1)))
        pod = await make_pod(host, client)
        spec = host.spec("true")
        spec["annotations"] = {annotations.CONTAINER_TYPE: "sandbox"}
        spec["windows"] = {"network": {"networkNamespace": GUID.lower()}}
        error = await refused(client, host.create_request("q", spec))
        assert error.result == Hresult.INVALID_STATE
        assert "is that of container p" in error.message
        await make_pod(host, client, "q", "another")
        assert await pod.reaches("10.0.1.1")

    await play(tmp_path, scenario)


async def test_containers_that_name_no_namespace_do_not_share_one(
    tmp_path: Path, wires: Wires
) -> None:
    """A NIC that names none is the first one's; the second one is made all the same."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        await client.call(change(adapter(1, "")))
        first = await make_pod(host, client, "p", "")
        second = await make_pod(host, client, "q", "")
        assert (await first.links(), await second.links()) == (["eth0"], [])

    await play(tmp_path, scenario)


async def test_an_adapter_is_not_another_namespace_s_as_well(
    tmp_path: Path, wires: Wires
) -> None:
    """Not even that of the id "", which a removal may leave out."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        await client.call(change(adapter(1)))
        for namespace in ("", "other"):
            error = await refused(client, change(adapter(1, namespace)))
            assert error.result == Hresult.INVALID_STATE
            assert f"network adapter a1 is in namespace {GUID.lower()!r}" in error.message
        await client.call(change(adapter(1, GUID.lower())))

    await play(tmp_path, scenario)


async def test_an_add_that_is_in_flight_when_its_pod_goes_fails(
    tmp_path: Path, wires: Wires
) -> None:
    """The NIC stays with the VM."""

    async def scenario(host: AgentHost, client: Client) -> None:
        pod = await make_pod(host, client)
        async with trio.open_nursery() as nursery:

            async def add() -> None:
                error = await refused(client, change(adapter(1)))
                assert "has been removed" in error.message

            nursery.start_soon(add)
            await trio.testing.wait_all_tasks_blocked(0.1)
            await pod.remove()
            plug(host, wires, 1)
        assert own_links(host) == ["nic1"]

    await play(tmp_path, scenario)
