"""ModifySettings: from resource type and request type to the function that does it."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from gcs.errors import GcsError, UnsupportedError
from gcs.guest.agent import Agent, Container
from gcs.guest.handlers import network, overlays, resources, shares, storage, temporary
from gcs.wire.messages import ModifySettings
from gcs.wire.resource import (
    CombinedLayers,
    ContainerConstraints,
    MappedDirectory,
    MappedVirtualDisk,
    NetworkAdapter,
    PodCgroupMemoryLimit,
    RequestType,
    ResourceSettings,
    ScsiDevice,
    TemporaryFilesystem,
    VpciDevice,
    VPMemDevice,
)
from gcs.wire.schema import NULL_CONTAINER_ID, Reply

__all__ = ["CONTAINER_HANDLERS", "HANDLERS", "modify"]

S = TypeVar("S", bound=ResourceSettings)
Modify = Callable[[Agent, ResourceSettings], Awaitable[None]]
ModifyContainer = Callable[[Agent, Container, ResourceSettings], Awaitable[None]]
Key = tuple[type[ResourceSettings], str]


def _row(
    settings: type[S], kind: RequestType, handler: Callable[[Agent, S], Awaitable[None]]
) -> tuple[Key, Modify]:
    """Pair a handler with the settings that it takes; the one place where they are matched."""

    async def modify_resource(agent: Agent, given: ResourceSettings) -> None:
        assert isinstance(given, settings), "the table is looked up by this type"
        await handler(agent, given)

    return (settings, kind), modify_resource


#: Every change that this guest can make to itself.
HANDLERS: Final[Mapping[Key, Modify]] = MappingProxyType(
    dict(
        [
            _row(VPMemDevice, RequestType.ADD, storage.add_pmem),
            _row(VPMemDevice, RequestType.REMOVE, storage.remove_pmem),
            _row(MappedVirtualDisk, RequestType.ADD, storage.add_disk),
            _row(MappedVirtualDisk, RequestType.REMOVE, storage.remove_disk),
            _row(MappedDirectory, RequestType.ADD, shares.add_share),
            _row(MappedDirectory, RequestType.REMOVE, shares.remove_share),
            _row(ScsiDevice, RequestType.REMOVE, storage.remove_scsi_device),
            _row(TemporaryFilesystem, RequestType.ADD, temporary.add),
            _row(TemporaryFilesystem, RequestType.REMOVE, temporary.remove),
            _row(NetworkAdapter, RequestType.ADD, network.add),
            _row(NetworkAdapter, RequestType.REMOVE, network.remove),
            _row(NetworkAdapter, RequestType.UPDATE, network.update),
            _row(CombinedLayers, RequestType.ADD, overlays.add_combined_layers),
            _row(CombinedLayers, RequestType.REMOVE, overlays.remove_combined_layers),
            _row(PodCgroupMemoryLimit, RequestType.UPDATE, resources.refresh_limit),
            _row(VpciDevice, RequestType.ADD, resources.wait_for_vpci),
        ]
    )
)


#: Every change that this guest can make to a container. Hosts in use name no request type.
CONTAINER_HANDLERS: Final[Mapping[Key, ModifyContainer]] = MappingProxyType(
    {
        (ContainerConstraints, RequestType.ADD): resources.constrain,
        (ContainerConstraints, RequestType.UPDATE): resources.constrain,
    }
)


async def modify(agent: Agent, request: ModifySettings) -> Reply:
    """Make one change to the VM or to a container."""
    change = request.request
    settings = change.settings
    if not isinstance(settings, ResourceSettings):
        raise GcsError(f"ModifySettings: resource type {change.resource_type!r} is not known")
    key = type(settings), change.request_type
    if request.container_id != NULL_CONTAINER_ID:
        container = agent.container(request.container_id)
        if key not in CONTAINER_HANDLERS:
            raise UnsupportedError(f"{change.resource_type} of a container")
        await CONTAINER_HANDLERS[key](agent, container, settings)
    elif key in HANDLERS:
        await HANDLERS[key](agent, settings)
    else:
        asked = str(change.request_type)  # one that was not named is a member of its enum
        raise GcsError(f"{change.resource_type}: {asked!r} is not possible")
    return Reply()
