"""What is kept of a VM's memory, in VMs of several sizes; that of 256 MiB is in test_start."""

from pathlib import Path

import pytest

from gcs.host.bootports import start_words
from gcs.host.bridge import open_bridge
from gcs.host.layer_mounts import LayerMounts
from gcs.host.place import whole
from gcs.host.vsock import Ports
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.support.mounting import mount_layers
from tests.vm.test_start import (
    MIB,
    TAKE,
    WORDS,
    Started,
    booted,
    check_limits,
    configuration,
    folder,
)

__all__ = ["folder"]

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("form", "memory_mib", "asked"),
    [("initrd", 1024, None), ("initrd", 128, 128 * MIB), ("pmem", 64, 75 * MIB)],
)
async def test_what_is_kept_is_75_mib_or_half(
    folder: Path,
    image: Path,
    vcpus: int,
    accel: str,
    form: str,
    memory_mib: int,
    asked: int | None,
) -> None:
    """Also when the host asks for no less than there is, which is said."""
    flags = () if asked is None else ("-root-mem-reserve-bytes", str(asked))
    words = start_words("debug", *flags)
    config = configuration(memory_mib, vcpus, accel, words, form)
    async with (
        booted(folder, image, config) as (vm, opened, layers, stream),
        open_bridge(stream) as client,
    ):
        here = Started(vm, client, Ports(), folder, opened, layers)
        (told,) = await here.logged("limit of all containers")
        total = told["memory"]
        assert isinstance(total, int)
        kept = min(75 * MIB, total // 2)
        await check_limits(here, kept)
        odd = [r for r in here.log() if r["msg"] == "reserve not below memory"]
        said = [(record["asked"], record["kept"]) for record in odd]
        assert said == ([] if asked is None else [(asked, kept)])


@pytest.mark.parametrize(("form", "memory_mib"), [("initrd", 128), ("pmem", 64)])
async def test_a_small_vm_outlives_a_container_that_takes_all_it_can_get(
    folder: Path, image: Path, form: str, memory_mib: int, vcpus: int, accel: str
) -> None:
    """Half of its memory is kept for the agent, which is the same one afterwards."""
    config = configuration(memory_mib, vcpus, accel, WORDS, form)
    async with booted(folder, image, config) as (vm, opened, layers, stream):
        async with open_bridge(stream) as client:
            here = Started(vm, client, Ports(), folder, opened, layers)
            memory = (await here.properties(NULL_CONTAINER_ID, "Memory")).memory
            assert memory is not None
            await check_limits(here, memory.total_bytes // 2)
            await mount_layers(LayerMounts(vm, client), whole(layers))
            # More than all containers may have, and less than the kernel refuses out of hand.
            greedy = await here.container(*TAKE, f"bs={memory.containers_limit_bytes * 5 // 4}")
            assert await greedy.init.wait() == 128 + 9
            await greedy.wait_notification()
            await greedy.remove()
            modest = await here.container("true")
            assert await modest.init.wait() == 0
            await modest.wait_notification()
            await modest.remove()
            await here.close()
        assert len([r for r in here.log() if r["msg"] == "command line"]) == 1
