"""A container's steps over the bridge, against a guest that keeps state."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import memory_stream_pair

from gcs.errors import CallError, GcsError, NotFoundError, RuncError
from gcs.host.bridge import open_bridge
from gcs.host.child import spawn
from gcs.host.client import Client
from gcs.host.container import (
    CommandRefusedError,
    Container,
    refusal_status,
)
from gcs.host.layer_mounts import LayerMounts
from gcs.host.place import whole
from gcs.host.qemu import VmConfig
from gcs.host.qmp import open_qmp
from gcs.host.vm import Vm
from gcs.host.vsock import HybridVsock, Ports
from gcs.wire.control import StreamName
from gcs.wire.resource import CombinedLayers
from tests.support.guest import FakeGuest
from tests.support.hostile_guest import exited
from tests.support.mounting import mount_layers, unmount_layers
from tests.support.vm import FakeQemu

CID = "c" * 64
CONFIG = VmConfig(kernel=Path("/k"), initrd=Path("/i"))
#: Of the layers in the guest, bottom first.
PATHS = [f"/run/layers/p{number}" for number in range(3)]
OUTPUTS = (StreamName.STDOUT, StreamName.STDERR)


class World:
    """A VM's two halves: what the host holds, and the guest and QEMU that it acts on."""

    def __init__(self, vm: Vm, client: Client, guest: FakeGuest, qemu: FakeQemu) -> None:
        self.vm, self.client, self.guest, self.qemu = vm, client, guest, qemu
        self.mounts = LayerMounts(vm, client)
        #: where bytes of another guest come from
        self.bridge: trio.abc.SendStream

    def container(self) -> Container:
        return Container(self.vm, self.client, CID)


def spec(*words: str) -> dict[str, object]:
    return {"process": {"args": list(words)}}


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"layer{number}" for number in range(3)]
    for path in found:
        path.write_bytes(b"\0" * 4096)
    return found


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async def dial(port: int) -> trio.SocketStream:
        return await trio.open_unix_socket(str(tmp_path / f"v_{port}"))

    guest, qemu = FakeGuest(dial), FakeQemu()
    bridge, guest_end = memory_stream_pair()
    monitor, qemu_end = memory_stream_pair()
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guest.serve, guest_end)
        nursery.start_soon(qemu.serve, qemu_end)
        sleeper = spawn("QEMU", ["sleep", "60"], output=log)
        async with sleeper as child, open_qmp(monitor) as qmp, open_bridge(bridge) as client:
            vsock = HybridVsock(tmp_path / "v", os.getpid())
            here = World(Vm(CONFIG, qmp, vsock, child), client, guest, qemu)
            here.bridge = guest_end
            yield here
        nursery.cancel_scope.cancel()
    os.close(log)


async def test_a_container_runs_and_everything_is_taken_down_in_reverse(
    tmp_path: Path, layers: list[Path]
) -> None:
    """Afterwards the guest has no mount and no container, and QEMU no disk."""
    async with world(tmp_path) as here:
        await mount_layers(here.mounts, whole(layers))
        assert here.guest.layers == {f"/run/layers/p{n}": n for n in range(3)}
        container = here.container()
        await container.create(spec("sh", "-c", "echo hi; exit 5"), PATHS)
        (root,) = here.guest.roots.values()
        assert isinstance(root, CombinedLayers)
        assert [layer.path for layer in root.layers] == [f"/run/layers/p{n}" for n in (2, 1, 0)]
        streams = await container.start(Ports(), OUTPUTS, terminal=False)
        assert await streams[StreamName.STDOUT].receive_some() == b"hi\n"
        assert await container.init.wait() == 5
        assert (await container.wait_notification()).container_id == CID
        await container.remove()
        await unmount_layers(here.mounts, whole(layers))
        guest = here.guest
        assert (guest.layers, guest.disks, guest.roots, guest.containers) == ({}, {}, {}, {})
        assert here.guest.unplugged == [0]
        assert "disk0" not in here.qemu.devices
        for stream in streams.values():
            await stream.aclose()


@pytest.mark.parametrize(("is_kept", "removed"), [(True, ""), (False, "/run/scratch/c")])
async def test_a_scratch_that_is_kept_is_not_removed_with_its_container(
    tmp_path: Path, layers: list[Path], is_kept: bool, removed: str
) -> None:
    """The guest removes the folder that it is told of when it makes the container."""
    async with world(tmp_path) as here:
        await mount_layers(here.mounts, whole(layers))
        container = Container(
            here.vm, here.client, CID, scratch="/run/scratch/c", is_kept=is_kept
        )
        await container.create(spec("true"), PATHS)
        (root,) = here.guest.roots.values()
        assert isinstance(root, CombinedLayers)
        assert root.scratch_path == "/run/scratch/c"
        assert here.guest.containers[CID].scratch == removed


async def test_a_command_that_is_not_there_is_refused_with_the_runtimes_sentence(
    tmp_path: Path, layers: list[Path]
) -> None:
    """The status is what a shell gives."""
    async with world(tmp_path) as here:
        await mount_layers(here.mounts, whole(layers))
        with pytest.raises(CommandRefusedError, match="executable file not found") as caught:
            await here.container().create(spec("no-such-command"), PATHS)
    assert caught.value.exit_status == 127


async def test_a_failed_mount_says_which_resource(tmp_path: Path, layers: list[Path]) -> None:
    """The call, the guest's own words, and what was to be done."""
    async with world(tmp_path) as here:
        here.guest.failures["ModifySettings"] = NotFoundError("/dev/pmem1 did not appear")
        with pytest.raises(CallError, match="ModifySettings: /dev/pmem1 did not") as caught:
            await mount_layers(here.mounts, whole(layers))
    assert caught.value.__notes__[0].startswith("Add ")


async def test_another_failure_of_the_runtime_is_no_refusal(
    tmp_path: Path, layers: list[Path]
) -> None:
    """Only what is about the command gets a shell's status."""
    async with world(tmp_path) as here:
        await mount_layers(here.mounts, whole(layers))
        here.guest.failures["Create"] = RuncError("cgroup: no such file or directory")
        with pytest.raises(CallError, match="Create: cgroup"):
            await here.container().create(spec("true"), PATHS)


async def test_the_exit_of_another_container_is_not_this_one_s(tmp_path: Path) -> None:
    """What a guest says of containers that are not here is passed over."""
    async with world(tmp_path) as here:
        await here.bridge.send_all(exited("d" * 64) + exited(CID, "ForcedExit"))
        notification = await here.container().wait_notification()
    assert (notification.container_id, notification.type) == (CID, "ForcedExit")


async def test_a_failed_start_leaves_no_listener(tmp_path: Path, layers: list[Path]) -> None:
    """The ports that nobody dialled are closed."""
    async with world(tmp_path) as here:
        await mount_layers(here.mounts, whole(layers))
        container = here.container()
        await container.create(spec("true"), PATHS)
        here.guest.failures["ExecuteProcess"] = GcsError("no memory")
        with pytest.raises(CallError, match="no memory"):
            await container.start(Ports(), OUTPUTS, terminal=False)
    assert _sockets(tmp_path) == []


def _sockets(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_socket()]


@pytest.mark.parametrize(
    ("sentence", "status"),
    [
        ('exec: "x": executable file not found in $PATH', 127),
        ('exec: "/x": stat /x: no such file or directory', 127),
        ('exec: "/etc/passwd": permission denied', 126),
        ('exec: "/etc": is a directory', 126),
        ("exec /x: exec format error", None),
        ('exec: "/x": exec format error', 126),
        ("executable file `x` not found in $PATH: No such file or directory", 127),
        ("open executable: Permission denied", 126),
        ("exec container process `/x`: Exec format error", 126),
        ("mount /proc: permission denied", None),
        ("container with given ID already exists", None),
    ],
)
def test_sentences_of_runc_and_crun_are_told_apart(sentence: str, status: int | None) -> None:
    """Those about the command give 127 or 126; all others are failures of ours."""
    assert refusal_status(sentence) == status
