"""One VM, driven by a host that is not ours from its first dial to its power-off."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from gcs.host.images import open_image
from gcs.host.layers import default_cache_dir, ensure_layers
from gcs.host.vm import Vm, VmError, open_vm
from tests.support.reference_host.container import Container
from tests.support.reference_host.frames import Hresult, Rpc
from tests.support.reference_host.guest import Guest, SavedGuest, open_guest
from tests.support.reference_host.layers import (
    Layout,
    add_disk,
    change_pmem,
    pmem_path,
    remove_disk,
    v1_layout,
    v2_layout,
)
from tests.support.reference_host.process import Process
from tests.support.reference_host.shapes import GuestError
from tests.support.reference_host.specs import oci_process, oci_spec, pod_annotations
from tests.support.reference_host.streams import Listen, Listener
from tests.support.shared_vm import SharedVm

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

#: The disk of the pods; the first shim's container has one of its own.
_POD_DISK, _POD_LUN, _OWN_LUN = "/run/mounts/scsi/0_1_0", 1, 0
_DISK_SIZE = 256 * 1024**2
#: It takes two minutes under emulation on a machine that does nothing else.
_SCENARIO_S = 480.0
_SIGKILL, _SIGUSR1 = 9, 10
#: The first process of a pid namespace gets no signal that it doesn't handle.
_LOOP = "trap 'exit 7' TERM; echo up; while read x; do stty size; done; exit 5"
_TRAP = "trap 'echo usr; exit 8' USR1; echo up; while :; do sleep 0.2; done"
_POD = "b" * 64
#: A container by itself, a pod's sandbox, and a workload in that pod.
LAYOUTS = (
    v1_layout("a" * 64),
    v2_layout(_POD, _POD, _POD_DISK),
    v2_layout(_POD, "c" * 64, _POD_DISK),
)
_ANNOTATIONS: Sequence[dict[str, str]] = ({}, pod_annotations(), pod_annotations(_POD))
_RESOURCES = {
    "cpu": {"shares": 512, "quota": -1, "period": 100000},
    "memory": {"limit": 64 * 1024**2},
}


@dataclass
class Host:
    """A host and its VM; containers and inits are those of LAYOUTS, in their order."""

    vm: Vm
    folder: Path
    images: Sequence[Path]
    guest: Guest
    containers: list[Container] = field(default_factory=list)
    inits: list[Process] = field(default_factory=list)


def listen_at(vm: Vm) -> Listen:
    """Return how to listen for that VM's agent."""

    async def listen(port: int) -> Listener:
        listener = await vm.vsock.listen(port)
        return Listener(listener.accept, listener.close)

    return listen


# -- the steps ---------------------------------------------------------------------------------


async def plug_layers(host: Host) -> None:
    """Plug all layers in and mount them, at once."""

    async def plug(number: int, image: Path) -> None:
        await host.vm.add_layer(number, image)
        await change_pmem(host.guest, "Add", number)

    async with trio.open_nursery() as nursery:
        for number, image in enumerate(host.images):
            nursery.start_soon(plug, number, image)


async def plug_disk(host: Host, lun: int, path: str) -> None:
    """Plug an empty disk in and mount it."""
    image = host.folder / f"disk{lun}"
    with image.open("wb") as file:
        file.truncate(_DISK_SIZE)
    await host.vm.add_disk(lun, str(image))
    await add_disk(host.guest, lun, path)


async def create(host: Host, layout: Layout) -> Container:
    """Mount a container's files, topmost layer first, and create it."""
    layers = [pmem_path(number) for number in reversed(range(len(host.images)))]
    await layout.combine(host.guest, layers)
    spec = oci_spec(
        layout.rootfs,
        *("sh", "-c", _LOOP),
        terminal=True,
        annotations=_ANNOTATIONS[LAYOUTS.index(layout)],
        resources=_RESOURCES,
    )
    return await host.guest.create(layout.container_id, layout.bundle, spec, layout.scratch)


async def use(container: Container, init: Process, number: int) -> None:
    """See that a container's terminal, its execs and its signals work."""
    await init.stdout.has(b"up")
    await init.resize(20 + number, 80)
    await init.stdin.send(b"\n")
    await init.stdout.has(b"%d 80" % (20 + number))
    write = oci_process("sh", "-c", f"cat > /mine; echo {number} >&2; exit {number}")
    exec_ = await container.execute(write)
    await exec_.stdin.send(b"of %d" % number)
    await exec_.stdin.end()
    assert await exec_.exit_code() == number
    assert exec_.stderr.data == b"%d\n" % number
    read = await container.execute(oci_process("cat", "/mine"))
    assert await read.exit_code() == 0
    assert read.stdout.data == b"of %d" % number
    trap = await container.execute(oci_process("sh", "-c", _TRAP))
    await trap.stdout.has(b"up")
    assert {init.pid, trap.pid} <= await container.processes()
    assert await trap.signal(_SIGUSR1)
    assert await trap.exit_code() == 8
    assert trap.stdout.data == b"up\nusr\n"


async def start_all(host: Host) -> None:
    """Create, start and use all containers at the same time."""
    host.containers = [await create(host, layout) for layout in LAYOUTS]
    host.inits = [await container.start(terminal=True) for container in host.containers]
    async with trio.open_nursery() as nursery:
        for number, (container, init) in enumerate(
            zip(host.containers, host.inits, strict=True)
        ):
            nursery.start_soon(use, container, init, number)


async def come_back(host: Host) -> None:
    """Lose the bridge while one container ends; its wait is answered on the next one."""
    container, init = host.containers[0], host.inits[0]
    await host.guest.leave()
    await init.stdin.send(b"\x04")  # the end of a terminal's input
    await init.stdout.ended.wait()
    await host.guest.connect()
    assert await init.exit_code() == 5
    assert await container.end() == "UnexpectedExit"
    for rpc in (Rpc.SHUTDOWN_GRACEFUL, Rpc.SHUTDOWN_FORCED):
        with pytest.raises(GuestError) as caught:
            await container.call(rpc)
        assert caught.value.result == Hresult.SYSTEM_ALREADY_STOPPED


async def reuse(host: Host) -> None:
    """Delete the first container before its files are unmounted, and make it once more."""
    layout = LAYOUTS[0]
    await host.containers[0].delete()
    await layout.separate(host.guest)
    await remove_disk(host.guest, _OWN_LUN, layout.disk)
    await host.vm.remove_disk(_OWN_LUN)
    await plug_disk(host, _OWN_LUN, layout.disk)
    host.containers[0] = await create(host, layout)
    host.inits[0] = await host.containers[0].start(terminal=True)
    await use(host.containers[0], host.inits[0], 0)
    assert "File" in await host.guest.stacks()


async def hand_over(host: Host) -> SavedGuest:
    """Lose the bridge for good, with three inits and a wait that no other host knows."""
    of_vm = await host.guest.run("cat")
    saved = host.guest.save(host.inits)
    await host.guest.leave()
    await of_vm.stdin.end()
    await host.inits[1].stdin.send(b"\x04")
    for process in (of_vm, host.inits[1]):
        await process.stdout.ended.wait()
    return saved


async def go_on(host: Host, saved: SavedGuest) -> None:
    """Take the containers over and end them, each in its way."""
    taken = await host.guest.take_over(saved)
    host.containers = [container for container, _ in taken]
    host.inits = [init for _, init in taken]
    assert await host.inits[1].exit_code() == 5
    await host.containers[0].shut_down()
    assert await host.inits[0].exit_code() == 7
    await host.containers[2].shut_down(Rpc.SHUTDOWN_FORCED)
    assert await host.inits[2].exit_code() == 128 + _SIGKILL
    ends = [await container.end() for container in host.containers]
    assert ends == ["GracefulExit", "UnexpectedExit", "ForcedExit"]


async def tear_down(host: Host) -> None:
    """Unmount and delete in both orders; nothing is left in the VM."""
    for number, layout in reversed(list(enumerate(LAYOUTS))):
        if number == 2:
            await layout.separate(host.guest)
        await host.containers[number].delete()
        if number != 2:
            await layout.separate(host.guest)
    for lun, path in ((_OWN_LUN, LAYOUTS[0].disk), (_POD_LUN, _POD_DISK)):
        await remove_disk(host.guest, lun, path)
        await host.vm.remove_disk(lun)
    for number in range(len(host.images)):
        await change_pmem(host.guest, "Remove", number)
    left = await host.guest.run(
        "sh", "-c", "cat /proc/mounts; ls -d /run/gcs/c/* /run/gcs/pods/* /run/layers/*"
    )
    await left.exit_code()
    text = left.stdout.data.decode()
    assert not [line for line in text.splitlines() if "/run/" in line], text


async def power_off(host: Host) -> None:
    """End the VM: nothing is answered."""
    with trio.fail_after(60):
        await host.guest.bridge.power_off()
        await host.vm.qemu.wait()


async def _scenario(shared: SharedVm, image: Path, folder: Path) -> None:
    layers = await ensure_layers(
        await open_image(image), default_cache_dir(), progress=lambda _: None
    )
    opening = open_vm(shared.config, folder, vsock_program=shared.vsock_program)
    async with opening as vm:
        listen = listen_at(vm)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vm.start)
            async with open_guest(listen) as guest:
                host = Host(vm, folder, layers, guest)
                await plug_layers(host)
                await plug_disk(host, _OWN_LUN, LAYOUTS[0].disk)
                await plug_disk(host, _POD_LUN, _POD_DISK)
                await start_all(host)
                await come_back(host)
                await reuse(host)
                saved = await hand_over(host)
                async with open_guest(listen) as other:
                    host.guest = other
                    await go_on(host, saved)
                    await tear_down(host)
                    await power_off(host)


async def _bounded(shared: SharedVm, image: Path, folder: Path) -> None:
    with trio.fail_after(_SCENARIO_S):
        await _scenario(shared, image, folder)


def test_a_host_in_use_drives_the_agent_from_boot_to_power_off(
    vm: SharedVm, image: Path
) -> None:
    """Layers, disks, containers in both layouts, a bridge lost twice, deletion, power-off."""
    with (
        tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as name,
        pytest.raises(VmError, match="QEMU ended"),
    ):
        trio.run(_bounded, vm, image, Path(name))
