"""ModifySettings of limits, of one container and of all, and of devices passed through."""

from functools import partial

import trio

from gcs.errors import ContainerStoppedError
from gcs.guest import devices, provision
from gcs.guest.agent import Agent, Container, State
from gcs.guest.spec.limits import without_swap
from gcs.linux import vmbus
from gcs.wire.resource import (
    ContainerConstraints,
    PodCgroupMemoryLimit,
    ResourceSettings,
    VpciDevice,
)

__all__ = ["constrain", "refresh_limit", "wait_for_vpci"]


async def constrain(agent: Agent, container: Container, settings: ResourceSettings) -> None:
    """Give a container new limits, as the OCI runtime does it."""
    assert isinstance(settings, ContainerConstraints), "the table is looked up by this type"
    if container.state is State.STOPPED:
        raise ContainerStoppedError(f"container {container.container_id} has exited")
    cid, turn = container.container_id, container.gate.entered
    has_swap_limits = await trio.to_thread.run_sync(provision.has_swap_limits)
    linux = settings.linux if has_swap_limits else without_swap(settings.linux)
    await agent.runc.update(cid, linux, turn)


async def refresh_limit(agent: Agent, _settings: PodCgroupMemoryLimit) -> None:
    """Let what all containers may have follow the VM's memory."""
    await agent.pod_memory.refresh()


async def wait_for_vpci(_agent: Agent, settings: VpciDevice) -> None:
    """Wait until a device that the host passes through is there."""
    guid = settings.vmbus_guid
    await devices.wait_for(partial(vmbus.pci_device, guid), f"VMBus device {guid}")
