"""pmem.mount and scsi.mount on loop devices: what is mounted, and what a failure leaves."""

import errno
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from gcs.linux import mounts, pmem, probe, scsi, syscall
from tests.support.loop import attached, image

pytestmark = pytest.mark.root


@pytest.fixture
def loop(folder: Path) -> Iterator[str]:
    """Return a block device of 16 MiB that holds an ext4 file system with a file in it."""
    (folder / "content").mkdir()
    (folder / "content/file").write_text("x")
    mkfs = ("mkfs.ext4", "-q", "-d", str(folder / "content"))
    with attached(image(folder / "image", mkfs=mkfs)) as device:
        yield device


@pytest.fixture
def blank(folder: Path) -> Iterator[str]:
    """Return a block device of 16 MiB of zeros."""
    with attached(image(folder / "image")) as device:
        yield device


def test_a_layer_without_dax_is_mounted_and_said_to_be_without(folder: Path, loop: str) -> None:
    """A loop device has no DAX: the answer is False, and the layer is there, read-only."""
    assert pmem.mount(loop, f"{folder}/layer") is False
    (mount,) = mounts.at(f"{folder}/layer")
    assert mount.options[0] == "ro"
    assert not [option for option in mount.super_options if option.startswith("dax")]
    assert (folder / "layer/file").read_text() == "x"
    with pytest.raises(OSError, match="Read-only"):
        (folder / "layer/new").touch()
    mounts.unmount(f"{folder}/layer")
    assert not (folder / "layer").exists()


def test_the_target_is_the_agent_s_alone(folder: Path, loop: str) -> None:
    """Mode 0700 below the mount."""
    scsi.mount(loop, f"{folder}/a/disk", "ext4", readonly=False)
    subprocess.run(["umount", f"{folder}/a/disk"], check=True)
    assert (folder / "a/disk").stat().st_mode & 0o777 == 0o700


def test_a_disk_is_mounted_for_writing(folder: Path, loop: str) -> None:
    """With the options that were asked for."""
    scsi.mount(loop, f"{folder}/disk", "ext4", readonly=False, words=["noauto_da_alloc"])
    (folder / "disk/new").write_text("y")
    (mount,) = mounts.at(f"{folder}/disk")
    assert "noauto_da_alloc" in mount.super_options
    assert mount.source == loop
    mounts.unmount(f"{folder}/disk")


def test_a_read_only_disk_is_not_written_to(folder: Path, loop: str) -> None:
    """Not even its journal is replayed: the device's bytes are those from before."""
    before = Path(loop).read_bytes()
    scsi.mount(loop, f"{folder}/disk", "ext4", readonly=True)
    assert (folder / "disk/file").read_text() == "x"
    (mount,) = mounts.at(f"{folder}/disk")
    assert mount.options[0] == "ro"
    assert "norecovery" in mount.super_options
    mounts.unmount(f"{folder}/disk")
    assert Path(loop).read_bytes() == before


MOUNTS = [
    pytest.param(pmem.mount, id="pmem"),
    pytest.param(partial(scsi.mount, fstype="ext4", readonly=False), id="scsi"),
    pytest.param(partial(scsi.mount, fstype="ext4", readonly=True), id="scsi-ro"),
]


@pytest.mark.parametrize("mount", MOUNTS)
def test_a_failed_mount_removes_the_target_it_made(
    folder: Path, blank: str, mount: object
) -> None:
    """A device without a file system: the error names both, and there is no folder."""
    assert callable(mount)
    with pytest.raises(OSError, match=f"mount ext4 {blank} on {folder}/target") as caught:
        mount(blank, f"{folder}/target")
    assert caught.value.errno == errno.EINVAL
    assert not (folder / "target").exists()
    assert probe.is_blank(blank)


@pytest.mark.parametrize("mount", MOUNTS)
def test_a_failed_mount_keeps_a_target_that_was_there(folder: Path, mount: object) -> None:
    """With what is in it."""
    assert callable(mount)
    (folder / "target").mkdir()
    (folder / "target/file").touch()
    with pytest.raises(OSError, match="mount ext4 /dev/nothing") as caught:
        mount("/dev/nothing", f"{folder}/target")
    assert caught.value.errno == errno.ENOENT
    assert os.path.lexists(folder / "target/file")


@pytest.mark.parametrize("mount", MOUNTS)
def test_a_failed_mount_names_a_target_that_is_a_file(
    folder: Path, loop: str, mount: object
) -> None:
    """Nothing is mounted anywhere."""
    assert callable(mount)
    (folder / "target").touch()
    with pytest.raises(FileExistsError, match="target"):
        mount(loop, f"{folder}/target")
    assert mounts.below(str(folder / "target")) == ()


def test_an_unknown_type_is_refused(folder: Path, loop: str) -> None:
    """ENODEV, as the kernel has it, and nothing stays."""
    with pytest.raises(OSError, match="mount nofs") as caught:
        scsi.mount(loop, f"{folder}/target", "nofs", readonly=False)
    assert caught.value.errno == errno.ENODEV
    assert not (folder / "target").exists()


def test_files_of_a_disk_are_seen_and_none_are_in_a_new_one(folder: Path, loop: str) -> None:
    """What decides whether it may be encrypted; nothing stays mounted."""
    before = mounts.read()
    assert scsi.holds_files(loop, "ext4")
    with attached(image(folder / "new", mkfs=("mkfs.ext4", "-q"))) as device:
        assert not scsi.holds_files(device, "ext4")
        scsi.mount(device, f"{folder}/mounted", "ext4", readonly=False)
        (folder / "mounted/lost+found/#12").write_text("what fsck has saved")
        syscall.umount(f"{folder}/mounted")
        assert scsi.holds_files(device, "ext4")
    with (
        attached(image(folder / "zeros")) as device,
        pytest.raises(OSError, match="mount ext4"),
    ):
        scsi.holds_files(device, "ext4")
    assert mounts.read() == before
    assert not list(Path("/run").glob("look-*"))
