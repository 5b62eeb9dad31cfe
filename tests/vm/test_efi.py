"""A VM with UEFI firmware, as generation 2 VMs of Hyper-V have it and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from gcs.host.artifacts import BootForm
from gcs.host.bridge import open_bridge
from gcs.host.layer_mounts import LayerMounts
from gcs.host.place import whole
from gcs.host.vsock import Ports
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.support.mounting import mount_layers
from tests.support.stage import ROOT
from tests.vm.test_start import (
    MIB,
    WORDS,
    Started,
    booted,
    configuration,
)
from tests.vm.test_start import folder as folder  # a fixture

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

_OVMF = Path("/usr/share/ovmf/OVMF.fd")
#: The firmware starts programs of its own format; of both kernels this is one.
_KERNEL = ROOT / "build" / "kernel"
_MEMORY_MIB = 1024
_RESERVE = 75 * MIB


async def test_uefi_firmware_starts_the_kernel_itself(
    folder: Path, image: Path, vcpus: int, accel: str
) -> None:
    """By its EFI stub, with the words that hosts in use give it, to a container that runs.

    The VM is a large one: of its memory 75 MiB are kept.
    """
    config = configuration(_MEMORY_MIB, vcpus, accel, WORDS, BootForm.INITRD)
    config = replace(config, kernel=_KERNEL, firmware=_OVMF)
    async with booted(folder, image, config) as (vm, opened, layers, stream):
        async with open_bridge(stream) as client:
            here = Started(vm, client, Ports(), folder, opened, layers)
            assert "efi: EFI v" in await here.in_vm("dmesg")
            assert "systab" in (await here.in_vm("ls", "/sys/firmware/efi")).split()
            memory = (await here.properties(NULL_CONTAINER_ID, "Memory")).memory
            assert memory is not None
            assert 0 < _MEMORY_MIB * MIB - memory.total_bytes < 128 * MIB
            limit = int(await here.in_vm("cat", "/sys/fs/cgroup/pods/memory.max"))
            assert limit == memory.containers_limit_bytes == memory.total_bytes - _RESERVE
            await mount_layers(LayerMounts(vm, client), whole(layers))
            container = await here.container("true")
            assert await container.init.wait() == 0
            await container.wait_notification()
            await container.remove()
            await here.close()
        assert here.log()
