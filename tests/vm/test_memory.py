"""What is kept of a VM's memory, in VMs of several sizes, and what the host gets back of it.

What is kept of 256 MiB is in test_start.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from gcs.host.bootports import start_words
from gcs.host.bridge import open_bridge
from gcs.host.footprint import footprint
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

#: Of the agent in a VM with a root image, resident, by running containers. Source: issue 8.
AIMS = {0: 14_000_000, 10: 18_000_000}
#: What a container takes, and holds until it is killed.
TAKEN = 100 * MIB
HOLD = f"head -c {TAKEN} /dev/zero | tail -c {TAKEN} | sleep 6000"
#: The kernel tells of at most a sixteenth of its free memory each two seconds.
GIVEN_BACK_S = 100

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


async def test_the_agent_takes_little(
    folder: Path,
    image: Path,
    memory_mib: int,
    vcpus: int,
    accel: str,
    record_property: Callable[[str, object], None],
) -> None:
    """Idle and with ten containers; its files are the host's, by DAX, and not in it."""
    config = configuration(memory_mib, vcpus, accel, WORDS, "pmem")
    async with (
        booted(folder, image, config) as (vm, opened, layers, stream),
        open_bridge(stream) as client,
    ):
        here = Started(vm, client, Ports(), folder, opened, layers)
        await mount_layers(LayerMounts(vm, client), whole(layers))
        found = {}
        for count in AIMS:
            for _ in range(count):
                await here.container("sleep", "6000")
            status = await here.in_vm("sh", "-c", "cat /proc/$PPID/status")
            (kib,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
            found[count] = int(kib) * 1024
        record_property("resident bytes of the agent by containers", found)
        await here.close()
    assert all(found[count] <= aim for count, aim in AIMS.items()), found


@pytest.mark.parametrize("form", ["initrd", "pmem"])
async def test_memory_that_a_container_frees_goes_back_to_the_host(
    folder: Path,
    image: Path,
    memory_mib: int,
    vcpus: int,
    accel: str,
    form: str,
    record_property: Callable[[str, object], None],
) -> None:
    """While it runs the VM has that much more of the host's memory, and soon after not."""
    config = configuration(memory_mib, vcpus, accel, WORDS, form)
    async with (
        booted(folder, image, config) as (vm, opened, layers, stream),
        open_bridge(stream) as client,
    ):
        here = Started(vm, client, Ports(), folder, opened, layers)
        await mount_layers(LayerMounts(vm, client), whole(layers))
        before = await resident(here, bool, 0.1)
        greedy = await here.container("sh", "-c", HOLD)
        # Some of it the guest may have touched before, at boot, and freed.
        held = await resident(here, lambda size: size > before + TAKEN // 2, 60)
        await greedy.init.signal(9)
        await greedy.init.wait()
        await greedy.wait_notification()
        await greedy.remove()
        most = before + TAKEN // 10
        left = await resident(here, lambda size: size < most, GIVEN_BACK_S)
        mib = [size // MIB for size in (before, held, left)]
        record_property("MiB of the host before, held and afterwards", mib)
        await here.close()


async def resident(here: Started, is_enough: Callable[[int], bool], timeout_s: float) -> int:
    """Wait until the host's memory that the guest has touched is enough, or little enough."""
    size = 0
    with trio.move_on_after(timeout_s):
        # The kernel does not tell when it changes.
        while not is_enough(size := footprint([here.vm.qemu.pid], []).guest_bytes):  # noqa: ASYNC110
            await trio.sleep(0.5)
    assert is_enough(size), f"{size // MIB} MiB after {timeout_s} s"
    return size
