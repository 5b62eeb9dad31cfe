"""Folders that share their mounts, on the kernel."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcs.linux import mounts, shared, syscall
from gcs.linux.abi import MountFlag
from tests.support.namespace import private_mounts

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with private_mounts():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder in whose path the mount table has to escape something."""
    made = tmp_path / "a folder"
    made.mkdir()
    return made


def test_what_is_mounted_below_shows_up_wherever_the_folder_is(folder: Path) -> None:
    """In a bind mount made before, as a container's is."""
    shared.mount(str(folder))
    seen = folder.parent / "seen"
    seen.mkdir()
    syscall.mount(str(folder), str(seen), None, MountFlag.BIND | MountFlag.REC)
    (folder / "disk").mkdir()
    syscall.mount("tmpfs", str(folder / "disk"), "tmpfs")
    (folder / "disk/file").write_text("x")
    assert (seen / "disk/file").read_text() == "x"


def test_a_bind_is_taken_off_without_what_it_was_bound_from(folder: Path) -> None:
    """Neither its mounts nor its sharing; a bind made from it shares as before."""
    shared.mount(str(folder))
    (folder / "disk").mkdir()
    syscall.mount("tmpfs", str(folder / "disk"), "tmpfs")
    bound, seen = folder.parent / "bound", folder.parent / "seen"
    bound.mkdir()
    seen.mkdir()
    descriptor = os.open(folder, os.O_PATH)
    shared.bind(descriptor, str(bound))
    os.close(descriptor)
    syscall.mount(str(bound), str(seen), None, MountFlag.BIND | MountFlag.REC)
    assert len(mounts.below(str(bound))) == 2
    shared.unbind(str(bound))
    assert mounts.below(str(bound)) == ()
    assert len(mounts.at(str(folder / "disk"))) == 1
    (folder / "late").mkdir()
    syscall.mount("tmpfs", str(folder / "late"), "tmpfs")
    assert len(mounts.at(str(seen / "late"))) == 1
    assert len(mounts.at(str(seen / "disk"))) == 1


def test_everything_below_is_taken_off_and_nothing_beside(folder: Path) -> None:
    """The last mount first; files stay; without mounts it is done."""
    beside = folder.parent / "a folder beside"
    beside.mkdir()
    syscall.mount("tmpfs", str(beside), "tmpfs")
    shared.mount_tmpfs(str(folder), 0o755)
    shared.mount(str(folder))
    (folder / "in").mkdir()
    syscall.mount("tmpfs", str(folder / "in"), "tmpfs")
    shared.unmount_below(str(folder))
    assert mounts.below(str(folder)) == ()
    assert len(mounts.at(str(beside))) == 1
    shared.unmount_below(str(folder))


def test_a_folder_that_is_not_there_is_refused_and_leaves_nothing(folder: Path) -> None:
    """The error names the call and the folder."""
    before = mounts.read()
    with pytest.raises(FileNotFoundError, match=r"mount bind .*/nope"):
        shared.mount(str(folder / "nope"))
    assert mounts.read() == before


def test_huge_pages_have_the_size_that_was_asked(folder: Path) -> None:
    """One that the machine lacks is refused."""
    shared.mount_hugepages(str(folder), "2M")
    (mount,) = mounts.at(str(folder))
    assert mount.fstype == "hugetlbfs"
    assert "pagesize=2M" in mount.super_options
    with pytest.raises(OSError, match="hugetlbfs"):
        shared.mount_hugepages(str(folder), "3M")


def test_a_tmpfs_has_its_mode(folder: Path) -> None:
    """Whatever the umask says."""
    umask = os.umask(0o077)
    try:
        shared.mount_tmpfs(str(folder), 0o755)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
