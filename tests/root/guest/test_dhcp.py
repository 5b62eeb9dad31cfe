"""Addresses by DHCP on a real kernel: busybox's client and its server, over a virtual cable."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from gcs.errors import DisconnectedError, Hresult
from gcs.host.client import Client
from gcs.wire.messages import ExecuteProcess, ExecuteProcessSettings
from gcs.wire.resource import RequestType
from tests.support.agent import VM, AgentHost, open_agent, vm_process
from tests.support.dhcp import dhcp_server
from tests.support.namespace import private_network
from tests.support.networks import Pod, adapter, change, in_vm, make_pod, own_links, plug
from tests.support.scenario import play, refused
from tests.support.wires import Wires, links_of, open_wires

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

#: what the host asks for when the network is to say the rest
ASKS = adapter(1, ip_configs=(), routes=())
REMOVE, UPDATE = RequestType.REMOVE, RequestType.UPDATE
#: a client asks for less long, and is started again sooner
IMPATIENT = (
    "from gcs.guest import dhcp; dhcp._QUESTIONS, dhcp._INTERVAL_S, dhcp._PAUSE_S = 6, 1, 1"
)
#: A client that is told to renew, and hears nothing, gives its lease up after 25 s; it asks
#: again for 12 s, and once more 20 s later. The rest is for a machine at other work.
PATIENCE_S = 120


@pytest.fixture
def wires() -> Iterator[Wires]:
    with open_wires() as opened:
        yield opened


async def clients(host: AgentHost, client: Client) -> list[str]:
    """Return the pids of the DHCP clients that run."""
    shown = await in_vm(host, client, "ps", "-A", "-o", "pid=,args=")
    lines = [line.split() for line in shown.splitlines()]
    return [words[0] for words in lines if words[1:3] == ["busybox", "udhcpc"]]


async def signalled(host: AgentHost, client: Client, name: str) -> None:
    """Send a signal to the only client."""
    (pid,) = await clients(host, client)
    await in_vm(host, client, "kill", f"-{name}", pid)


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so; another program's doing can only be looked at."""
    with trio.fail_after(PATIENCE_S):
        while not await look():  # noqa: ASYNC110
            await trio.sleep(0.2)


async def has(pod: Pod, address: str) -> bool:
    """Return whether a pod has an address."""
    return f" {address}/24 " in await pod.output("ip", "-4", "address", "show", "dev", "eth0")


async def names(host: AgentHost, client: Client) -> str:
    """Return the resolv.conf of the pod."""
    return await in_vm(host, client, "cat", "/run/gcs/c/p/resolv.conf")


async def test_dhcp_gives_what_the_host_does_not(tmp_path: Path, wires: Wires) -> None:
    """Address, gateway, name server and domain are the DHCP server's."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        async with dhcp_server(wires, tmp_path, "10.0.1.77"):
            await client.call(change(ASKS))
        pod = await make_pod(host, client)
        assert await has(pod, "10.0.1.77")
        assert "default via 10.0.1.1" in await pod.output("ip", "route")
        accepts = await pod.output("cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra")
        assert accepts == "1\n"
        assert await names(host, client) == "search dhcp.example\nnameserver 10.0.1.1\n"
        assert "dhcp" not in await in_vm(host, client, "ls", "/run")

    await play(tmp_path, scenario)


async def test_a_lease_is_renewed_given_up_and_replaced(tmp_path: Path, wires: Wires) -> None:
    """What a renewal says is set; without a server the address goes, with a new one it is
    another; and the client ends with its NIC.
    """

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        async with dhcp_server(wires, tmp_path, "10.0.1.77"):
            await client.call(change(ASKS))
            pod = await make_pod(host, client)
        async with dhcp_server(wires, tmp_path, "10.0.1.77", dns="10.0.1.53"):
            await signalled(host, client, "USR1")
            await until(lambda: _is_in("nameserver 10.0.1.53\n", names(host, client)))
            assert await has(pod, "10.0.1.77")
            assert await pod.reaches("10.0.1.1")
        await signalled(host, client, "USR1")
        await until(lambda: _is_not(has(pod, "10.0.1.77")))
        assert await pod.output("ip", "-4", "route") == ""
        assert await names(host, client) == ""
        assert await pod.links() == ["eth0"]
        async with dhcp_server(wires, tmp_path, "10.0.1.88"):
            await until(lambda: has(pod, "10.0.1.88"))
            assert await pod.reaches("10.0.1.1")
        await client.call(change(ASKS, REMOVE))
        assert await clients(host, client) == []

    await play(tmp_path, scenario)


async def _is_in(text: str, found: Awaitable[str]) -> bool:
    return text in await found


async def _is_not(claim: Awaitable[bool]) -> bool:
    return not await claim


async def test_a_client_that_ends_is_started_again(tmp_path: Path, wires: Wires) -> None:
    """Its address stays meanwhile; when no server answers the next one, it goes."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        async with dhcp_server(wires, tmp_path, "10.0.1.77"):
            await client.call(change(ASKS))
            pod = await make_pod(host, client)
            (first,) = await clients(host, client)
            await signalled(host, client, "KILL")
            await until(lambda: _is_another(first, clients(host, client)))
            assert await has(pod, "10.0.1.77")
        await signalled(host, client, "KILL")
        await until(lambda: _is_not(has(pod, "10.0.1.77")))
        async with dhcp_server(wires, tmp_path, "10.0.1.88"):
            await until(lambda: has(pod, "10.0.1.88"))
        await pod.remove()
        assert await clients(host, client) == []
        assert own_links(host) == ["nic1"]

    await play(tmp_path, scenario, before=IMPATIENT)


async def _is_another(first: str, found: Awaitable[list[str]]) -> bool:
    return await found not in ([], [first])


async def test_an_adapter_changes_between_dhcp_and_addresses(
    tmp_path: Path, wires: Wires
) -> None:
    """There is a client as long as one is needed; a change that fails leaves it alone."""
    twice = adapter(1, routes=(*adapter(1).routes, *adapter(1).routes))

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        await client.call(change(adapter(1)))
        pod = await make_pod(host, client)
        async with dhcp_server(wires, tmp_path, "10.0.1.77"):
            await client.call(change(ASKS, UPDATE))
        assert await has(pod, "10.0.1.77")
        assert not await has(pod, "10.0.1.2")
        found = await clients(host, client)
        assert len(found) == 1
        await refused(client, change(twice, UPDATE))
        assert await clients(host, client) == found
        assert await has(pod, "10.0.1.77")
        # Without a server: what it has is kept.
        await client.call(change(adapter(1, ip_configs=(), routes=(), mtu=1400), UPDATE))
        assert await clients(host, client) == found
        assert await has(pod, "10.0.1.77")
        await client.call(change(adapter(1), UPDATE))
        assert await clients(host, client) == []
        assert await has(pod, "10.0.1.2")
        error = await refused(client, change(ASKS, UPDATE))
        assert error.result == Hresult.TIMEOUT
        assert await clients(host, client) == []
        assert await has(pod, "10.0.1.2")

    await play(tmp_path, scenario, before=IMPATIENT)


async def test_dhcp_without_a_server_ends(tmp_path: Path, wires: Wires) -> None:
    """The Add fails in time, says why, and leaves no client behind."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        error = await refused(client, change(ASKS))
        assert error.result == Hresult.TIMEOUT
        assert "DHCP on eth0: no server has given an address within 6 s" in error.message
        assert own_links(host) == ["nic1"]
        assert await clients(host, client) == []
        await client.call(change(adapter(1)))

    await play(tmp_path, scenario, before=IMPATIENT)


async def test_a_dhcp_client_that_hangs_is_ended(tmp_path: Path, wires: Wires) -> None:
    """The limit is the agent's own, whatever the client thinks."""

    async def scenario(host: AgentHost, client: Client) -> None:
        plug(host, wires, 1)
        error = await refused(client, change(ASKS))
        assert error.result == Hresult.TIMEOUT
        assert "within 0.5 s" in error.message
        assert own_links(host) == ["nic1"]
        assert await clients(host, client) == []

    await play(tmp_path, scenario, before="from gcs.guest import dhcp; dhcp._TIMEOUT_S = 0.5")


_AGENT = """
import os, trio
from gcs.guest import dhcp
from gcs.guest.reaper import Children

async def main():
    children = Children()
    await dhcp.start(children, "nic1", None)
    print(*children._owned, flush=True)
    await trio.sleep_forever()

trio.run(main)
"""


def _plug_here(wires: Wires) -> None:
    wires.plug(os.getpid(), 1, "10.0.1.1/24")
    subprocess.run(("ip", "link", "set", "nic1", "up"), check=True)


async def test_a_client_ends_with_its_agent(tmp_path: Path, wires: Wires) -> None:
    """Even if that is killed: it has nobody to tell of the next renewal."""
    with private_network():
        _plug_here(wires)
        command = (sys.executable, "-c", _AGENT)
        async with dhcp_server(wires, tmp_path, "10.0.1.77"):
            with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:  # noqa: ASYNC220
                assert agent.stdout is not None
                pidfd = os.pidfd_open(int(agent.stdout.readline()))
                agent.kill()
            signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
            ended, _, _ = select.select([pidfd], [], [], PATIENCE_S)
            os.close(pidfd)
    assert ended


async def test_a_namespace_of_nobody_ends_with_the_agent(tmp_path: Path, wires: Wires) -> None:
    """A client keeps it until the next agent comes; with it go its NICs, which are cables."""
    init = ("sh", "-c", 'while :; do "$@"; done', "sh")
    async with open_agent(tmp_path, init=init) as host:
        async with host.connected() as client:
            plug(host, wires, 1, 2)
            async with dhcp_server(wires, tmp_path, "10.0.1.77"):
                await client.call(change(ASKS))
            await client.call(change(adapter(2, "static")))
            assert {"w1", "w2"} <= set(links_of(wires.path))
            kill = vm_process("sh", "-c", "kill -9 $PPID")
            settings = ExecuteProcessSettings(process_parameters=kill)
            with suppress(DisconnectedError):  # it dies before it can answer
                await client.call(ExecuteProcess(container_id=VM, settings=settings))
        async with host.connected() as client:
            await until(lambda: _is_not(_has_any(wires, "w1", "w2")))
            assert await clients(host, client) == []
            plug(host, wires, 1)
            await client.call(change(adapter(1)))


async def _has_any(wires: Wires, *names: str) -> bool:
    return not set(names).isdisjoint(links_of(wires.path))
