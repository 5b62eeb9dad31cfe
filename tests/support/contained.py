"""Containers of a shared VM on layers, scratch and folders of a test's choice."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gcs.host.bridge import call, modify
from gcs.host.container import Container, rootfs_path
from gcs.host.images import ImageConfig
from gcs.host.spec import Command, User, runtime_spec
from gcs.wire import messages
from gcs.wire.resource import CombinedLayers, Layer, RequestType, ResourceType
from tests.support.shared_vm import SharedVm

__all__ = ["SCRATCH", "Wish", "create"]

_SCHEMA = messages.SchemaVersion(major=2, minor=1)
#: Where the VM's own scratch disk is mounted.
SCRATCH = "/run/mounts/scsi/0_0_0/scratch"


@dataclass(frozen=True)
class Wish:
    """What is run, and on what."""

    command: Sequence[str]
    config: ImageConfig
    #: mounted in the VM, topmost first
    layers: Sequence[str]
    #: folders of the VM by their places in the container; those that end in ":ro" read-only
    binds: Mapping[str, str] = field(default_factory=dict)
    scratch: str = SCRATCH


async def create(vm: SharedVm, wish: Wish) -> Container:
    """Create a container, not started. Raises CallError; its root may be left then."""
    cid = secrets.token_hex(32)
    root = CombinedLayers(
        container_id=cid,
        container_root_path=rootfs_path(cid),
        layers=tuple(Layer(path=path) for path in wish.layers),
        scratch_path=f"{wish.scratch}/{cid}",
    )
    await modify(vm.client, RequestType.ADD, ResourceType.COMBINED_LAYERS, root)
    config = messages.ContainerConfig(
        schema_version=_SCHEMA,
        oci_bundle_path=f"/run/gcs/c/{cid}",
        oci_specification=_spec(wish, cid),
        scratch_dir_path=root.scratch_path,
    )
    await call(vm.client, messages.Create(container_id=cid, container_config=config))
    return vm.container(cid)


def _spec(wish: Wish, cid: str) -> dict[str, object]:
    command = Command(arguments=tuple(wish.command))
    spec = runtime_spec(wish.config, command, User(), cid, rootfs_path(cid))
    binds = [
        {
            "destination": place.removesuffix(":ro"),
            "source": folder,
            "type": "bind",
            "options": ["rbind", "ro" if place.endswith(":ro") else "rw"],
        }
        for place, folder in wish.binds.items()
    ]
    mounts = spec["mounts"]
    assert isinstance(mounts, list)
    return {**spec, "mounts": [*mounts, *binds]}
