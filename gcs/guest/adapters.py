"""One network adapter: into its namespace, set up in another way, and out again.

Whoever calls holds the lock of the namespace, and the adapter's place in the table.
"""

import logging
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from gcs.errors import GcsError, WrongStateError
from gcs.guest import dhcp, netplan
from gcs.guest.agent import Agent
from gcs.guest.log import fields
from gcs.guest.netplan import Lease, Plan
from gcs.guest.networks import Adapter, Namespace
from gcs.linux import netns, nic
from gcs.linux.nic import Attached

__all__ = ["attach", "change", "detach", "withdraw", "write_resolv_conf"]

_log = logging.getLogger("gcs.network")


async def attach(agent: Agent, namespace: Namespace, adapter: Adapter, name: str) -> None:
    """Give a namespace a NIC of the VM. When this fails the NIC is back, and down."""
    if not agent.networks.is_current(namespace):
        raise WrongStateError(f"network namespace {namespace.namespace_id!r} has been removed")
    await _make_namespace(agent, namespace)
    adapter.is_first = not any(one.attached for one in namespace.adapters)
    adapter.table = _table(agent, namespace, adapter, adapter.asked)
    config = adapter.asked.config(nic.mtu_of(name), adapter.table)
    attached = await trio.to_thread.run_sync(nic.attach, name, namespace.netns, config)
    try:
        if adapter.asked.wants_dhcp:
            await _ask_dhcp(agent, namespace, adapter, attached.name)
            adapter.plan = _plan(adapter.asked, adapter.lease)
            config = adapter.plan.config(attached.mtu, adapter.table)
            work = partial(nic.change, attached, namespace.netns, config)
            attached = await trio.to_thread.run_sync(work)
        write_resolv_conf(namespace)
    except BaseException as error:
        with trio.CancelScope(shield=True):  # system calls, and the end of a killed client
            await _take_back(attached, namespace, adapter, error)
        raise
    adapter.attached = attached
    members = fields(
        namespace=namespace.namespace_id, adapter=adapter.key, name=attached.name, was=name
    )
    _log.info("network adapter added", extra=members)


async def _make_namespace(agent: Agent, namespace: Namespace) -> None:
    """Make the kernel's namespace, or take that of the container that is there already."""
    if namespace.netns is not None or namespace.is_vm:
        return
    owner = agent.containers.get(namespace.owner)
    if owner is None:
        namespace.netns = await trio.to_thread.run_sync(nic.create_namespace)
    elif owner.init is None or owner.init.exited.is_set():
        raise WrongStateError(f"container {namespace.owner} has exited")
    else:
        namespace.netns = netns.of_process(owner.init.pid)


def _table(agent: Agent, namespace: Namespace, adapter: Adapter, asked: Plan) -> int | None:
    """Return the routing table that an adapter is to have of its own, if any."""
    if not asked.has_own_table(is_first=adapter.is_first):
        return None
    return adapter.table or netplan.free_table(agent.networks.tables(namespace))


async def _ask_dhcp(agent: Agent, namespace: Namespace, adapter: Adapter, ifname: str) -> None:
    """Get an adapter's address from the network, and keep up with what that says later."""
    adapter.client, adapter.lease = await dhcp.start(agent.children, ifname, namespace.netns)
    agent.start_soon(adapter.client.follow, partial(_take_lease, agent, namespace, adapter))


async def _take_lease(
    agent: Agent, namespace: Namespace, adapter: Adapter, lease: Lease | None
) -> None:
    """Set an adapter up as its DHCP server says now, or without an address if none does.

    What can't be used is logged, and the adapter stays as it is.
    """
    try:
        async with namespace.lock:
            if _plan(adapter.asked, lease) != adapter.plan:
                await _set(agent, namespace, adapter, adapter.asked, lease)
            adapter.lease = lease
    except (GcsError, OSError) as error:
        members = fields(adapter=adapter.key, lease=str(lease), error=error)
        _log.warning("DHCP lease not used", extra=members)


async def _forget_dhcp(adapter: Adapter) -> None:
    """End the client of an adapter, if it has one."""
    client, adapter.client, adapter.lease = adapter.client, None, None
    if client is not None:
        await client.end()


async def _take_back(
    attached: Attached, namespace: Namespace, adapter: Adapter, error: BaseException
) -> None:
    await _forget_dhcp(adapter)
    try:
        await trio.to_thread.run_sync(nic.detach, attached, namespace.netns)
    except OSError as failure:
        error.add_note(f"and the NIC can't be taken back: {failure}")


async def change(agent: Agent, namespace: Namespace, adapter: Adapter, asked: Plan) -> None:
    """Set an adapter up in another way. When this fails it is as it was before."""
    if adapter.attached is None:
        raise WrongStateError(f"network adapter {adapter.key} is not set up")
    had_client = adapter.client is not None
    if asked.wants_dhcp and not had_client:
        await _ask_dhcp(agent, namespace, adapter, adapter.attached.name)
    try:
        lease = adapter.lease if asked.wants_dhcp else None
        await _set(agent, namespace, adapter, asked, lease)
    except BaseException:
        if not had_client:
            with trio.CancelScope(shield=True):  # of a killed client
                await _forget_dhcp(adapter)
        raise
    if not asked.wants_dhcp:
        await _forget_dhcp(adapter)


async def _set(
    agent: Agent, namespace: Namespace, adapter: Adapter, asked: Plan, lease: Lease | None
) -> None:
    """Set an adapter up for what the host and the network want, or leave it as it is."""
    attached = adapter.attached
    assert attached is not None, "nobody has taken it out: the lock is held"
    plan = _plan(asked, lease)
    before = adapter.asked, adapter.plan, adapter.table
    adapter.table = _table(agent, namespace, adapter, asked)
    adapter.asked, adapter.plan = asked, plan
    try:
        config = plan.config(attached.mtu, adapter.table)
        write_resolv_conf(namespace)
        work = partial(nic.change, attached, namespace.netns, config)
        adapter.attached = await trio.to_thread.run_sync(work)
    except BaseException:
        adapter.asked, adapter.plan, adapter.table = before
        write_resolv_conf(namespace)
        raise
    _log.info("network adapter changed", extra=fields(adapter=adapter.key))


def _plan(asked: Plan, lease: Lease | None) -> Plan:
    return asked if lease is None else netplan.with_lease(asked, lease)


async def detach(namespace: Namespace, adapter: Adapter) -> None:
    """Take a NIC out of its namespace and forget it; one that was unplugged is fine."""
    if adapter.attached is not None:
        await withdraw(namespace, adapter)
    namespace.adapters.remove(adapter)
    write_resolv_conf(namespace)
    members = fields(namespace=namespace.namespace_id, adapter=adapter.key)
    _log.info("network adapter removed", extra=members)


async def withdraw(namespace: Namespace, adapter: Adapter) -> str:
    """Take a NIC out of its namespace; return what it is called now, "" if it is gone."""
    attached = adapter.attached
    assert attached is not None, "the caller has looked"
    await _forget_dhcp(adapter)
    name = await trio.to_thread.run_sync(nic.detach, attached, namespace.netns)
    adapter.attached = None
    return name


def write_resolv_conf(namespace: Namespace) -> None:
    """Write the resolv.conf of a namespace's containers, if they have one from us.

    It is mounted into them, so it must stay the same file.
    """
    text = namespace.resolv_conf()
    # A sandbox may go before its pod, and takes the file along.
    with suppress(FileNotFoundError):
        if namespace.root:
            with Path(namespace.root, "resolv.conf").open("r+b", buffering=0) as file:
                # In this order it is never empty meanwhile.
                file.write(text.encode())
                file.truncate()
