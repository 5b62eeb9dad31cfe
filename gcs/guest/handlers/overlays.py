"""ModifySettings of CombinedLayers: a container's root from its layers and its scratch."""

import logging
import posixpath

from gcs.errors import InvalidArgumentError, WrongStateError
from gcs.guest import bundles, mounting
from gcs.guest.agent import Agent, MountRecord, State
from gcs.guest.log import fields
from gcs.guest.mounting import absolute
from gcs.linux import overlay
from gcs.wire.resource import CombinedLayers

__all__ = ["add_combined_layers", "remove_combined_layers"]

_log = logging.getLogger("gcs.storage")

_IN_USE = (State.STARTING, State.RUNNING)


async def add_combined_layers(agent: Agent, settings: CombinedLayers) -> None:
    """Stack layers, topmost first, into a container's root."""
    target = absolute(settings.container_root_path, "ContainerRootPath")
    lowerdirs = [absolute(layer.path, "Layers.Path") for layer in settings.layers]
    scratch = absolute(settings.scratch_path, "ScratchPath") if settings.scratch_path else ""
    if not lowerdirs:
        raise InvalidArgumentError(f"{target}: there are no layers to combine")
    upperdir, workdir = (f"{scratch}/upper", f"{scratch}/work") if scratch else ("", "")
    uses = frozenset(
        mount
        for path in (*lowerdirs, scratch)
        if path and (mount := mounting.mount_of(agent, path))
    )
    record = MountRecord(target, kind="CombinedLayers", source="overlay", uses=uses)
    with agent.reserve_mount(record):
        async with bundles.on_scratch(agent, posixpath.dirname(target), scratch):
            await mounting.make(
                agent,
                record,
                lambda undo: overlay.mount(lowerdirs, target, upperdir, workdir, undo),
            )
    _log.info("layers combined", extra=fields(target=target, layers=len(lowerdirs)))


async def remove_combined_layers(agent: Agent, settings: CombinedLayers) -> None:
    """Take a container's root apart. Raises WrongStateError while the container runs."""
    target = absolute(settings.container_root_path, "ContainerRootPath")
    bundle = posixpath.dirname(target)
    for container in agent.containers.values():
        if container.bundle == bundle and container.state in _IN_USE:
            raise WrongStateError(f"{target} is in use by container {container.container_id}")
    await mounting.take_off(agent, target)
    await bundles.leave_scratch(agent, bundle)
