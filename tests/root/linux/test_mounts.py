"""Mount points are made and taken off, and what is below them stays."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from gcs.linux import mounts, syscall
from gcs.linux.abi import MountFlag
from gcs.linux.undo import Undo, on_failure

pytestmark = pytest.mark.root


def _mount(target: Path) -> str:
    target.mkdir(parents=True, exist_ok=True)
    syscall.mount("tmpfs", str(target), "tmpfs")
    return str(target)


def _content(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_target_is_made_with_its_parents(folder: Path) -> None:
    """The folder itself has the mode that was asked for."""
    mounts.make_target(f"{folder}/a/b", 0o700, Undo())
    assert (folder / "a/b").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_there_is_not_made(folder: Path) -> None:
    """So undoing it does not remove it. A link to a folder is one."""
    (folder / "a").mkdir(mode=0o750)
    (folder / "link").symlink_to("a")
    undo = Undo()
    for name in ("a", "link"):
        mounts.make_target(f"{folder}/{name}", 0o700, undo)
    undo.run(OSError())
    assert (folder / "a").stat().st_mode & 0o777 == 0o750


def test_a_file_is_no_target(folder: Path) -> None:
    """The error names it, and it stays as it is."""
    (folder / "file").write_text("x")
    with pytest.raises(FileExistsError, match="file"):
        mounts.make_target(f"{folder}/file", 0o700, Undo())
    with pytest.raises(FileExistsError, match="file"):
        mounts.make_target(f"{folder}/file/below", 0o700, Undo())
    assert (folder / "file").read_text() == "x"


def test_an_empty_target_is_removed_and_a_missing_one_is_fine(folder: Path) -> None:
    """Twice is no error."""
    (folder / "a").mkdir()
    assert mounts.remove_target(f"{folder}/a")
    assert mounts.remove_target(f"{folder}/a")
    assert _content(folder) == []


def test_a_target_can_be_a_file(folder: Path) -> None:
    """It is made with the folders on the way, and all of it goes when the block fails."""
    with mounts.mounting(f"{folder}/a/file", 0o700, is_file=True):
        assert (folder / "a/file").read_bytes() == b""
    with (
        pytest.raises(FileExistsError, match="a/file"),
        mounts.mounting(f"{folder}/a/file", 0o700, is_file=True),
    ):
        pass
    assert mounts.remove_target(f"{folder}/a/file")
    assert _content(folder) == ["a"]
    with (
        pytest.raises(OSError, match="no"),
        mounts.mounting(f"{folder}/b/file", 0o700, is_file=True),
    ):
        raise OSError(0, "no")
    assert _content(folder) == ["a"]


def test_a_file_that_holds_something_is_no_target_of_ours(folder: Path) -> None:
    """It is not removed."""
    (folder / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        mounts.remove_target(f"{folder}/file")
    assert (folder / "file").read_text() == "x"


def test_a_target_that_holds_something_is_kept(folder: Path) -> None:
    """Nothing is deleted, and the caller learns of it."""
    (folder / "a/b").mkdir(parents=True)
    assert not mounts.remove_target(f"{folder}/a")
    assert _content(folder) == ["a", "a/b"]


def test_a_mount_is_taken_off_with_its_folder(folder: Path) -> None:
    """What was in the mount is not touched: here, another mount of it still shows it."""
    target = _mount(folder / "a")
    Path(target, "file").write_text("x")
    (folder / "b").mkdir()
    syscall.mount(target, f"{folder}/b", None, MountFlag.BIND)
    mounts.unmount(target)
    assert _content(folder) == ["b", "b/file"]
    assert mounts.at(target) == ()


def test_what_is_not_there_is_unmounted(folder: Path) -> None:
    """A request that is repeated is done."""
    mounts.unmount(f"{folder}/missing")
    mounts.unmount(f"{folder}/missing/below")


def test_a_folder_on_which_nothing_is_mounted_is_kept(folder: Path) -> None:
    """EINVAL, whether it is empty or not."""
    (folder / "a").mkdir()
    (folder / "b/c").mkdir(parents=True)
    for name in ("a", "b"):
        with pytest.raises(OSError, match=f"umount2 {folder}/{name}") as caught:
            mounts.unmount(f"{folder}/{name}")
        assert caught.value.errno == errno.EINVAL
    assert _content(folder) == ["a", "b", "b/c"]


def test_a_mount_in_use_stays(folder: Path) -> None:
    """EBUSY, and everything is as before."""
    target = _mount(folder / "a")
    with Path(target, "file").open("w"):
        with pytest.raises(OSError, match=f"umount2 {target}") as caught:
            mounts.unmount(target)
        assert caught.value.errno == errno.EBUSY
    assert len(mounts.at(target)) == 1
    mounts.unmount(target)
    assert _content(folder) == []


def test_a_link_to_a_mount_is_not_followed(folder: Path) -> None:
    """What a container can make lead elsewhere takes nothing off elsewhere."""
    target = _mount(folder / "a")
    (folder / "link").symlink_to("a")
    with pytest.raises(OSError, match="umount2") as caught:
        mounts.unmount(f"{folder}/link")
    assert caught.value.errno == errno.EINVAL
    assert len(mounts.at(target)) == 1


def test_what_was_hidden_by_a_mount_is_kept(folder: Path) -> None:
    """The mount is off, and the folder below it, which has content of its own, stays."""
    (folder / "a").mkdir()
    (folder / "a/old").write_text("x")
    target = _mount(folder / "a")
    assert not mounts.unmount(target)
    assert mounts.at(target) == ()
    assert (folder / "a/old").read_text() == "x"


def test_one_mount_of_two_is_taken_off(folder: Path) -> None:
    """The upper one; the lower stays and is what shows."""
    target = _mount(folder / "a")
    Path(target, "lower").touch()
    _mount(folder / "a")
    assert [m.fstype for m in mounts.at(target)] == ["tmpfs", "tmpfs"]
    assert not mounts.unmount(target)
    assert _content(Path(target)) == ["lower"]


def test_what_was_mounted_on_top_by_others_is_not_taken_off(folder: Path) -> None:
    """EBUSY for the mount below it; once that one is uppermost it goes, and then it is gone."""
    target = _mount(folder / "a")
    (ours,) = mounts.at(target)
    _mount(folder / "a")
    with pytest.raises(OSError, match="something else is mounted on top of it") as caught:
        mounts.unmount(target, ours.mount_id)
    assert caught.value.errno == errno.EBUSY
    assert len(mounts.at(target)) == 2
    subprocess.run(["umount", target], check=True)
    assert mounts.unmount(target, ours.mount_id)
    assert mounts.unmount(target, ours.mount_id)


def test_a_mount_that_others_took_off_costs_nothing_else(folder: Path) -> None:
    """What has been mounted in its place since stays, with what is in it."""
    target = _mount(folder / "a")
    (ours,) = mounts.at(target)
    subprocess.run(["umount", target], check=True)
    (folder / "other").mkdir()
    syscall.mount("tmpfs", f"{folder}/other", "tmpfs")
    _mount(folder / "a")
    Path(target, "theirs").touch()
    assert not mounts.unmount(target, ours.mount_id + 1_000_000)
    assert _content(folder) == ["a", "a/theirs", "other"]


def test_folders_on_the_way_go_with_a_failure(folder: Path) -> None:
    """But for one that somebody else has put something into meanwhile."""
    (folder / "there").mkdir()

    def mount() -> None:
        with mounts.mounting(f"{folder}/there/b/c/d", 0o700):
            (folder / "there/b/theirs").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mount()
    assert _content(folder) == ["there", "there/b", "there/b/theirs"]


def test_a_failed_undo_is_a_note_and_the_rest_is_undone(folder: Path) -> None:
    """The first error is the one that is raised."""

    def fail() -> None:
        with on_failure() as undo:
            (folder / "a").mkdir()
            undo.add(mounts.remove_target, f"{folder}/a")
            undo.add(syscall.umount, f"{folder}/a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    (note,) = caught.value.__notes__
    assert note == f"undoing it: [Errno 22] umount2 {folder}/a: Invalid argument"
    assert _content(folder) == []


def test_mounts_below_are_listed_last_first(folder: Path) -> None:
    """A folder whose name only begins alike is not below."""
    made = [_mount(folder / name) for name in ("a", "a/b", "a/b/c", "ab")]
    assert [m.target for m in mounts.below(made[0])] == [made[2], made[1], made[0]]
    assert [m.target for m in mounts.below(f"{made[0]}/")] == [made[2], made[1]]


def test_a_path_of_any_bytes_is_found_in_the_table(folder: Path) -> None:
    """As the kernel escapes it, and what is not UTF-8 as well."""
    for name in (b"a b", b"a\tb\nc", b"a\\040b", b"\xff\xfe", "\u2028\x85\f".encode(), b"#x"):
        target = _mount(folder / os.fsdecode(name))
        assert len(mounts.at(target)) == 1
        mounts.unmount(target)
    assert _content(folder) == []
