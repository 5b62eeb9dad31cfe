"""ModifySettings of network adapters."""

import logging
from collections.abc import Callable
from functools import partial

from gcs.errors import InvalidArgumentError, NotFoundError
from gcs.guest import adapters, devices, netplan
from gcs.guest.agent import Agent
from gcs.guest.log import fields
from gcs.guest.netplan import Plan
from gcs.linux import nic, vmbus
from gcs.wire.resource import NetworkAdapter

__all__ = ["add", "remove", "update"]

_log = logging.getLogger("gcs.network")

#: How long a NIC may take to appear. It takes a twentieth of a second on an idle machine; the
#: host has plugged it in before it asks, and waits five minutes for an answer.
_TIMEOUT_S = 10.0


async def add(agent: Agent, settings: NetworkAdapter) -> None:
    """Give a pod a NIC. The same again is fine; when it fails nothing is left of it."""
    plan = netplan.plan(settings)
    if agent.networks.has(settings, plan):
        return
    find, what, by_mac = _identity(plan)
    with agent.networks.reserve(settings, plan, by_mac=by_mac) as (namespace, adapter):
        name = await devices.wait_for(find, what, _TIMEOUT_S)
        async with namespace.lock:
            await adapters.attach(agent, namespace, adapter, name)


def _identity(plan: Plan) -> tuple[Callable[[], str | None], str, bool]:
    """Return how to look for a NIC, what it is called, and whether that is by MAC address.

    Raises InvalidArgumentError when the host has not said which one it is.
    """
    if plan.pci_address:
        find, what = partial(nic.on_pci, plan.pci_address), f"PCI address {plan.pci_address}"
    elif plan.guid and vmbus.is_there():
        find, what = partial(vmbus.interface, plan.guid), f"VMBus device {plan.guid}"
    elif plan.mac:
        return partial(nic.with_mac, plan.mac), f"NIC with MAC address {plan.mac}", True
    else:
        raise InvalidArgumentError("Network: neither MacAddress nor PciAddress is given")
    return find, f"NIC at {what}", False


async def update(agent: Agent, settings: NetworkAdapter) -> None:
    """Set an adapter up in another way; what tells the NIC from others does not count."""
    plan = netplan.plan(settings)
    known = agent.networks.find(settings)
    if known is None:
        raise NotFoundError(f"no network adapter {settings.adapter_id!r}")
    namespace, adapter = known
    with agent.networks.changing(adapter):
        async with namespace.lock:
            if adapter not in namespace.adapters:
                raise NotFoundError(f"network adapter {adapter.key} went with its container")
            await adapters.change(agent, namespace, adapter, plan)


async def remove(agent: Agent, settings: NetworkAdapter) -> None:
    """Take a NIC out of its pod, for the host to unplug; one that is not known is fine."""
    known = agent.networks.find(settings)
    if known is None:
        _log.info("network adapter is not known", extra=fields(adapter=settings.adapter_id))
        return
    namespace, adapter = known
    with agent.networks.changing(adapter):
        async with namespace.lock:
            if adapter in namespace.adapters:
                await adapters.detach(namespace, adapter)
    agent.networks.forget_unused(namespace)
