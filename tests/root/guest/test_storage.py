"""Layers, disks and roots as a host asks for them: the records and the kernel agree."""

import dataclasses
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from gcs.errors import Hresult
from gcs.host.client import Client
from gcs.wire.extensions import MountReport, ReportMounts
from gcs.wire.messages import DeleteContainerState, ShutdownForced
from gcs.wire.resource import (
    MappedVirtualDisk,
    MappingInfo,
    RequestType,
    ResourceSettings,
    TemporaryFilesystem,
    VPMemDevice,
)
from tests.support.agent import VM, AgentHost, Streams, vm_process, wait
from tests.support.faults import INJECTED, Faults
from tests.support.loop import attached, image
from tests.support.scenario import play
from tests.support.storage import Storage, devices, disk, layer, root

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

MKFS = ("mkfs.ext4", "-q", "-d")
SCRATCH = "/run/disks/0/scratch"

Scenario = Callable[[Storage], Awaitable[None]]


@dataclass(frozen=True)
class Stage:
    """Two layers with a file each, and a blank disk with LUN 0."""

    folder: Path
    before: str
    disk: str

    def write(self, offset: int, content: bytes) -> None:
        """Write to the disk; a negative offset is from its end."""
        with Path(self.disk).open("r+b") as device:
            device.seek(offset, 2 if offset < 0 else 0)
            device.write(content)

    def content(self) -> bytes:
        """Return all that is on the disk."""
        return Path(self.disk).read_bytes()

    async def play(self, scenario: Scenario) -> None:
        """Run a scenario with an agent of its own."""

        async def run(host: AgentHost, client: Client) -> None:
            await scenario(Storage(host, client))

        before = f"{self.before}from tests.support import faults\n"
        await play(self.folder, run, before=f"{before}faults.install({str(self.folder)!r})")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Return a stage."""
    with ExitStack() as stack:
        layers = {}
        for number in range(2):
            content = tmp_path / f"content{number}"
            content.mkdir()
            (content / f"file{number}").write_text(str(number))
            made = image(tmp_path / f"layer{number}", mkfs=(*MKFS, str(content)))
            layers[number] = stack.enter_context(attached(made, "--read-only"))
        blank = stack.enter_context(attached(image(tmp_path / "disk")))
        # Device 2 is the disk as well: no test asks for both.
        yield Stage(tmp_path, devices({**layers, 2: blank}, {0: blank}), blank)


# -- each step ---------------------------------------------------------------------------

LONG = "x" * 120
#: Folders that stay on the way to what was mounted, or belong to the test.
_LEFT = ("disks/9/s", "links", "gcs", "disks", "memory", "scratches")
MEMORY = TemporaryFilesystem(mount_path="/run/memory/m", size_in_bytes=1024 * 1024)
WRITABLE = VPMemDevice(device_number=2, mount_path="/run/scratches/s", writable=True)
OPERATIONS: dict[str, tuple[ResourceSettings, int]] = {
    # What is added, and the number of steps that it has at least: fewer are not seen.
    "layer": (layer(0), 4),
    "disk": (disk(0, "nosuid", "rshared", make=True), 5),
    "memory": (MEMORY, 3),
    "scratch": (WRITABLE, 5),
    "link": (MappedVirtualDisk(mount_path="/run/links/a", block_dev=True), 2),
    "root": (root("/run/layers/1", "/run/disks/9"), 4),
    "root of one": (root("/run/layers/1"), 6),
    "root on scratch": (root("/run/layers/1", scratch="/run/disks/9/s"), 8),
    "root of many": (
        root(*(f"/run/disks/9/{LONG}{n:02}" for n in range(40)), scratch="/run/disks/9/s"),
        20,
    ),
}


async def prepare(storage: Storage) -> None:
    """Mount a layer to stand on, and make folders that are layers as well."""
    await storage.add(layer(1))
    storage.path("/run/disks").mkdir()
    for number in range(40):
        storage.path(f"/run/disks/9/{LONG}{number:02}").mkdir(parents=True)


@pytest.mark.parametrize("what", OPERATIONS)
async def test_a_step_that_fails_leaves_everything_as_it_was(stage: Stage, what: str) -> None:
    """Each step of an Add in turn, until there is none left; then the Add succeeds."""
    settings, at_least = OPERATIONS[what]
    faults = Faults(stage.folder)

    async def scenario(storage: Storage) -> None:
        await prepare(storage)
        before, steps = storage.state(), list[str]()
        for number in range(200):
            faults.arm(number)
            error = await storage.tried(RequestType.ADD, settings)
            steps = faults.disarm()
            if error is None:
                break
            assert INJECTED in error.message, error
            assert "undoing it" not in error.message
            assert storage.state() == before, steps
        assert len(steps) >= at_least, steps
        await storage.remove(settings)
        gone = {entry for entry in storage.state() if entry not in before}
        assert all(path.startswith(_LEFT) for path in gone)

    await stage.play(scenario)


@pytest.mark.parametrize("what", OPERATIONS)
async def test_a_remove_that_failed_can_be_repeated(stage: Stage, what: str) -> None:
    """Whichever of its steps it was."""
    settings, _ = OPERATIONS[what]
    faults = Faults(stage.folder)

    async def scenario(storage: Storage) -> None:
        await prepare(storage)
        await storage.add(settings)
        await storage.remove(settings)
        before = storage.state()
        for number in range(50):
            await storage.add(settings)
            faults.arm(number)
            error = await storage.tried(RequestType.REMOVE, settings)
            faults.disarm()
            if error is None:
                break
            assert INJECTED in error.message, error
            await storage.remove(settings)
            assert storage.state() == before
        assert number > 0

    await stage.play(scenario)


# -- the table ---------------------------------------------------------------------------


async def test_a_second_add_on_a_path_is_refused(stage: Stage) -> None:
    """InvalidState, whatever it is of, and nothing is stacked."""

    async def scenario(storage: Storage) -> None:
        await storage.add(layer(0))
        for settings in (
            layer(0),
            root("/run/layers/0", target="/run/layers/0"),
            root("/run/layers/0", target="/run/layers//./x/../0/"),
            MappedVirtualDisk(mount_path="/run/layers/0", ensure_filesystem=True),
        ):
            error = await storage.add_refused(settings)
            assert error.result == Hresult.INVALID_STATE
            assert "/run/layers/0 is mounted already" in error.message
        assert len(storage.at("/run/layers/0")) == 1
        await storage.remove(layer(0))
        await storage.add(layer(0))

    await stage.play(scenario)


async def test_a_layer_goes_when_the_last_root_on_it_has_gone(stage: Stage) -> None:
    """It is shared by any number of them; the error names those that are left."""

    async def scenario(storage: Storage) -> None:
        await storage.add(layer(0))
        await storage.add(disk(0, make=True))
        roots = [
            root("/run/layers/0", scratch=f"{SCRATCH}/{n}", target=f"/run/gcs/c/{n}/rootfs")
            for n in range(3)
        ]
        for settings in roots:
            await storage.add(settings)
        for number, settings in enumerate(roots):
            for below in (layer(0), disk(0)):
                error = await storage.remove_refused(below)
                assert error.result == Hresult.INVALID_STATE
                assert f"in use by /run/gcs/c/{number}" in error.message
            await storage.remove(settings)
        await storage.remove(layer(0))
        await storage.remove(disk(0))
        assert not [m for m in storage.table() if m.target.startswith("/run/")]

    await stage.play(scenario)


async def test_what_is_not_there_is_removed(stage: Stage) -> None:
    """A Remove that is repeated is done; a folder on which nothing is mounted is kept."""

    async def scenario(storage: Storage) -> None:
        for settings in (layer(0), disk(0), root(), MappedVirtualDisk()):
            await storage.remove(settings)
        storage.path("/run/layers/0").mkdir(parents=True)
        storage.path("/run/layers/0/kept").touch()
        error = await storage.remove_refused(layer(0))
        assert "umount2 /run/layers/0: Invalid argument" in error.message
        assert storage.path("/run/layers/0/kept").exists()

    await stage.play(scenario)


async def test_nothing_below_a_mount_is_deleted(stage: Stage) -> None:
    """What was in the folder before, and what others mounted on top, is theirs."""

    async def scenario(storage: Storage) -> None:
        folder = storage.path("/run/layers/0")
        folder.mkdir(parents=True)
        (folder / "old").write_text("old")
        await storage.add(layer(0))
        await vm_command(storage, "mount -t tmpfs tmpfs /run/layers/0")
        (folder / "new").write_text("new")
        error = await storage.remove_refused(layer(0))
        assert "something else is mounted on top of it" in error.message
        assert (folder / "new").read_text() == "new"
        await vm_command(storage, "umount /run/layers/0")
        await storage.remove(layer(0))
        assert (folder / "old").read_text() == "old"

    await stage.play(scenario)


async def test_nothing_is_mounted_over_what_others_have_mounted(stage: Stage) -> None:
    """As after a restart, when the table is empty; a Remove takes it off all the same."""

    async def scenario(storage: Storage) -> None:
        await vm_command(storage, "mkdir -p /run/layers/0; mount -t tmpfs t /run/layers/0")
        error = await storage.add_refused(layer(0))
        assert error.result == Hresult.INVALID_STATE
        assert "/run/layers/0: something is mounted there already" in error.message
        assert len(storage.at("/run/layers/0")) == 1
        await storage.remove(layer(0))
        await storage.add(layer(0))

    await stage.play(scenario)


async def vm_command(storage: Storage, script: str) -> None:
    """Run a script in the agent's namespaces."""
    parameters = vm_process("/bin/sh", "-ec", script, PATH="/sbin:/usr/sbin:/bin:/usr/bin")
    pid = await storage.host.execute(storage.client, VM, Streams(), parameters)
    assert await wait(storage.client, VM, pid) == 0


async def test_the_root_of_a_container_that_runs_stays(stage: Stage) -> None:
    """It goes once the container has exited."""

    async def scenario(storage: Storage) -> None:
        await storage.add(layer(0))
        await storage.add(root("/run/layers/0"))
        await storage.host.create(storage.client, "c", "sleep", "100")
        await storage.host.execute(storage.client, "c", Streams())
        error = await storage.remove_refused(root())
        assert error.result == Hresult.INVALID_STATE
        assert "/run/gcs/c/c/rootfs is in use by container c" in error.message
        await storage.client.call(ShutdownForced(container_id="c"))
        with trio.fail_after(60):
            await storage.client.notifications.receive()
        await storage.remove(root())

    await stage.play(scenario)


@pytest.mark.parametrize("root_first", [True, False])
async def test_a_bundle_is_on_its_scratch_and_goes_in_either_order(
    stage: Stage, root_first: bool
) -> None:
    """What is written into it lands on the disk; its mount ends with container and root."""
    settings = root("/run/layers/0", scratch=f"{SCRATCH}/c")

    async def scenario(storage: Storage) -> None:
        await storage.add(layer(0))
        await storage.add(disk(0, make=True))
        await storage.add(settings)
        request = storage.host.create_request("c", storage.host.spec("true"))
        config = replace(request.container_config, scratch_dir_path=f"{SCRATCH}/c")
        await storage.client.call(replace(request, container_config=config))
        assert storage.path(f"{SCRATCH}/c/bundle/config.json").exists()
        await storage.client.call(ShutdownForced(container_id="c"))
        with trio.fail_after(60):
            await storage.client.notifications.receive()
        delete = DeleteContainerState(container_id="c")
        if root_first:
            await storage.remove(settings)
            assert storage.at("/run/gcs/c/c")
            await storage.client.call(delete)
        else:
            await storage.client.call(delete)
            assert storage.at("/run/gcs/c/c/rootfs")
            await storage.remove(settings)
        assert not storage.path("/run/gcs/c/c").exists()
        assert not storage.path(f"{SCRATCH}/c").exists()
        await storage.remove(disk(0))

    await stage.play(scenario)


# -- disks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fs", "offset", "content", "said"),
    [
        ("", 0, b"garbage", "is not blank and holds no known file system: not formatted"),
        ("", -8, b"garbage", "is not blank and holds no known file system: not formatted"),
        ("", 0, b"XFSB", "mount xfs"),
        ("ext4", 0, b"XFSB", "holds xfs, not ext4: not formatted"),
        ("ext4", 0, b"LUKS\xba\xbe", "holds LUKS, which is not mounted nor formatted"),
        ("ext4", 65600, b"_BHRfS_M", "holds btrfs, which is not mounted nor formatted"),
        ("xfs", 1080, b"\x53\xef", "holds ext4, not xfs: not formatted"),
        ("ext4", 1080, b"\x53\xef", "mount ext4"),
    ],
)
async def test_a_disk_that_is_not_blank_is_never_formatted(
    stage: Stage, fs: str, offset: int, content: bytes, said: str
) -> None:
    """Whatever it holds, a broken file system too: an error that says what, and no change."""
    stage.write(offset, content)
    before = stage.content()

    async def scenario(storage: Storage) -> None:
        with trio.fail_after(60):
            error = await storage.add_refused(disk(0, fs=fs, make=True))
        assert stage.disk in error.message
        assert said in error.message
        assert not storage.path("/run/disks").exists()

    await stage.play(scenario)
    assert stage.content() == before


async def test_a_disk_keeps_its_files_when_it_is_mounted_again(stage: Stage) -> None:
    """EnsureFilesystem makes one once."""

    async def scenario(storage: Storage) -> None:
        for number in range(3):
            await storage.add(disk(0, make=True, fs="ext4"))
            folder = storage.path("/run/disks/0")
            assert sorted(p.name for p in folder.glob("f*")) == [f"f{n}" for n in range(number)]
            (folder / f"f{number}").touch()
            await storage.remove(disk(0))

    await stage.play(scenario)


async def test_a_disk_without_a_file_system_is_refused(stage: Stage) -> None:
    """ErrInvalidArg without EnsureFilesystem; NotImpl for one that can't be made."""

    async def scenario(storage: Storage) -> None:
        error = await storage.add_refused(disk(0))
        assert error.result == Hresult.ERR_INVALID_ARG
        error = await storage.add_refused(disk(0, fs="btrfs", make=True))
        assert error.result == Hresult.NOT_IMPL
        assert "can't make a btrfs file system" in error.message
        await storage.add(disk(0, make=True))

    await stage.play(scenario)


@pytest.mark.parametrize(
    ("offset", "content", "said"),
    [
        (0, b"garbage", "holds something unknown and is not empty: not encrypted"),
        (0, b"LUKS\xba\xbe", "holds LUKS and is not empty: not encrypted"),
        (0, b"XFSB", "mount xfs"),
        (1080, b"\x53\xef", "mount ext4"),
    ],
)
async def test_a_disk_that_is_not_empty_is_never_encrypted(
    stage: Stage, offset: int, content: bytes, said: str
) -> None:
    """Whatever it holds, and whatever the reason why its files can't be seen: no change."""
    stage.write(offset, content)
    before = stage.content()

    async def scenario(storage: Storage) -> None:
        error = await storage.add_refused(replace(disk(0, make=True), encrypted=True))
        assert said in error.message
        assert not storage.path("/run/disks").exists()

    await stage.play(scenario)
    assert stage.content() == before


async def test_files_keep_a_disk_from_being_encrypted(stage: Stage) -> None:
    """One is enough; and where the program is missing the error names it."""

    async def scenario(storage: Storage) -> None:
        wanted = replace(disk(0), encrypted=True)
        await storage.add(disk(0, make=True))
        storage.path("/run/disks/0/file").write_text("x")
        await storage.remove(disk(0))
        error = await storage.add_refused(wanted)
        assert error.result == Hresult.INVALID_STATE
        assert "holds ext4 and is not empty: not encrypted" in error.message
        await storage.add(disk(0))
        storage.path("/run/disks/0/file").unlink()
        await storage.remove(disk(0))
        error = await storage.add_refused(wanted)
        assert error.result == Hresult.NOT_IMPL
        assert "cryptsetup is not in this image" in error.message
        error = await storage.add_refused(replace(wanted, read_only=True))
        assert error.result == Hresult.ERR_INVALID_ARG
        await storage.add(disk(0))

    await stage.play(scenario)


async def test_a_disk_that_does_not_come_is_named(stage: Stage) -> None:
    """Timeout, and nothing stays; that one has gone does not keep it from being removed."""

    async def scenario(storage: Storage) -> None:
        before = storage.state()
        error = await storage.add_refused(disk(5))
        assert error.result == Hresult.TIMEOUT
        assert "disk 0:5 did not appear" in error.message
        assert storage.state() == before
        await storage.remove(disk(5))

    await stage.play(scenario)


async def test_a_disk_that_does_not_answer_keeps_nobody(stage: Stage) -> None:
    """Timeout for who waits for it, and all else is served meanwhile."""
    fifo = stage.folder / "fifo"
    os.mkfifo(fifo)  # whoever opens it waits in the kernel for somebody at its other end
    limits = (
        "from gcs.guest import kernel_call; kernel_call._TIMEOUT_S = 3.0\n"
        f"scsi.find = lambda controller, lun, *_: {str(fifo)!r}\n"
    )

    async def scenario(storage: Storage) -> None:
        with trio.fail_after(60):
            for _ in range(2):
                error = await storage.add_refused(disk(0))
                assert error.result == Hresult.TIMEOUT
                assert f"reading {fifo}: the kernel has not answered" in error.message
            await storage.add(layer(0))
            await storage.remove(layer(0))
        with fifo.open("wb", buffering=0):
            pass

    await dataclasses.replace(stage, before=f"{stage.before}{limits}").play(scenario)


async def test_the_options_of_a_disk_are_honoured(stage: Stage) -> None:
    """Flags, propagation and what is for the file system."""
    words = ("rbind", "nosuid", "nodev", "noexec", "noatime", "rshared", "noauto_da_alloc")

    async def scenario(storage: Storage) -> None:
        await storage.add(disk(0, *words, make=True))
        (mount,) = storage.at("/run/disks/0")
        assert {"rw", "nosuid", "nodev", "noexec", "noatime"} <= set(mount.options)
        assert "noauto_da_alloc" in mount.super_options
        lines = storage.mountinfo().splitlines()
        (line,) = [line for line in lines if " /run/disks/0 " in line]
        assert " shared:" in line
        await storage.remove(disk(0))
        await storage.add(disk(0, "ro"))
        (mount,) = storage.at("/run/disks/0")
        assert mount.options[0] == "ro"
        await storage.remove(disk(0))
        error = await storage.add_refused(disk(0, "no_such_option"))
        assert "mount ext4" in error.message
        assert storage.at("/run/disks/0") == ()

    await stage.play(scenario)


async def test_a_disk_can_be_a_link_to_its_device(stage: Stage) -> None:
    """Hosts that say nothing of BlockDev when they remove it mean the link all the same."""
    wanted = MappedVirtualDisk(mount_path="/run/links/a", block_dev=True)

    async def scenario(storage: Storage) -> None:
        await storage.add(wanted)
        assert str(storage.path("/run/links/a").readlink()) == stage.disk
        error = await storage.add_refused(wanted)
        assert "/run/links/a is mounted already" in error.message
        await storage.remove(MappedVirtualDisk(mount_path="/run/links/a"))
        assert list(storage.path("/run/links").iterdir()) == []
        storage.path("/run/links/a").mkdir()
        error = await storage.remove_refused(wanted)
        assert "unlink /run/links/a: not a symbolic link" in error.message

    await stage.play(scenario)


async def test_a_full_scratch_is_said_in_words(stage: Stage) -> None:
    """ENOSPC and where, and what was made for the root goes again."""
    settings = root("/run/layers/0", scratch=f"{SCRATCH}/c")

    async def scenario(storage: Storage) -> None:
        await storage.add(layer(0))
        await storage.add(disk(0, make=True))
        before = storage.state()
        await vm_command(storage, "i=0; while mkdir /run/disks/0/d$i 2>&-; do i=$((i+1)); done")
        with trio.fail_after(60):
            error = await storage.add_refused(settings)
        assert "ENOSPC" in error.message
        assert f"{SCRATCH}" in error.message
        await vm_command(storage, "rmdir /run/disks/0/d*")
        assert storage.state() == before
        await storage.add(settings)

    await stage.play(scenario)


# -- the report --------------------------------------------------------------------------


async def report(storage: Storage) -> list[MountReport]:
    """Return all parts of the report."""
    found, after = list[MountReport](), ""
    while True:
        reply = await storage.client.call(ReportMounts(after=after))
        found += reply.mounts
        if not reply.is_partial:
            return found
        after = found[-1].mount_path


async def test_what_is_mounted_is_reported(stage: Stage) -> None:
    """From which device, with which options, DAX or not, and what stands on it."""
    link = MappedVirtualDisk(mount_path="/run/links/a", block_dev=True)

    async def scenario(storage: Storage) -> None:
        assert await report(storage) == []
        for settings in (layer(0), disk(0, "nosuid", make=True), link, root("/run/layers/0")):
            await storage.add(settings)
        disk_row, root_row, layer_row, link_row = await report(storage)
        assert (disk_row.mount_path, disk_row.resource_type) == (
            "/run/disks/0",
            "MappedVirtualDisk",
        )
        assert (disk_row.source, disk_row.filesystem) == (stage.disk, "ext4")
        assert set(disk_row.options) >= {"rw", "nosuid"}
        assert disk_row.dax is None
        assert root_row.mount_path == "/run/gcs/c/c/rootfs"
        assert (layer_row.dax, layer_row.users) == (False, ("/run/gcs/c/c/rootfs",))
        assert (link_row.source, link_row.filesystem) == (stage.disk, "")
        await vm_command(storage, "umount /run/disks/0")
        gone, *_ = await report(storage)
        assert (gone.mount_path, gone.filesystem, gone.options) == ("/run/disks/0", "", ())
        for settings in (root(), layer(0), disk(0), link):
            await storage.remove(settings)
        assert await report(storage) == []

    await stage.play(scenario)


async def test_a_long_report_comes_in_parts(stage: Stage) -> None:
    """Each fits into a frame, whatever the paths are, and nothing is told twice."""
    paths = [f"/run/links/{number:03}" + 200 * "\x01" for number in range(90)]

    async def scenario(storage: Storage) -> None:
        for path in paths:
            await storage.add(MappedVirtualDisk(mount_path=path, block_dev=True))
        first = await storage.client.call(ReportMounts())
        assert first.is_partial
        assert [row.mount_path for row in await report(storage)] == paths

    await stage.play(scenario)


# -- scratches without a disk ------------------------------------------------------------


async def test_a_file_system_in_memory_is_as_large_as_asked(stage: Stage) -> None:
    """What does not fit gets ENOSPC; it is gone with its mount, and can be made again."""

    async def scenario(storage: Storage) -> None:
        await storage.add(MEMORY)
        file = storage.path("/run/memory/m/file")
        with pytest.raises(OSError, match="No space left"):
            file.write_bytes(bytes(2 * 1024 * 1024))
        assert file.stat().st_size <= 1024 * 1024
        report = (await storage.client.call(ReportMounts())).mounts[0]
        assert (report.resource_type, report.filesystem) == ("TemporaryFilesystem", "tmpfs")
        await storage.remove(MEMORY)
        await storage.add(MEMORY)
        assert list(storage.path("/run/memory/m").iterdir()) == []
        await storage.remove(MEMORY)

    await stage.play(scenario)


async def test_a_writable_device_keeps_what_is_on_it(stage: Stage) -> None:
    """A blank one gets a file system of whole pages, once; what is no ext4 stays as it is."""

    async def scenario(storage: Storage) -> None:
        await storage.add(WRITABLE)
        file = storage.path("/run/scratches/s/file")
        file.write_text("kept")
        assert os.statvfs(file).f_bsize == 4096
        await storage.remove(WRITABLE)
        await storage.add(WRITABLE)
        assert file.read_text() == "kept"
        await storage.remove(WRITABLE)
        stage.write(0, b"XFSB")
        stage.write(1024, bytes(1024))
        before = stage.content()
        error = await storage.add_refused(WRITABLE)
        assert "xfs" in error.message
        part = MappingInfo(device_size_in_bytes=4096)
        error = await storage.add_refused(replace(WRITABLE, mapping_info=part))
        assert (error.result, "whole device" in error.message) == (
            Hresult.ERR_INVALID_ARG,
            True,
        )
        assert stage.content() == before

    await stage.play(scenario)
