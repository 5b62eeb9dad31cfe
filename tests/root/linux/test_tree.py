"""What is removed of a tree, and what is never."""

import errno
import os
import socket
from pathlib import Path

import pytest

from gcs.linux import syscall, tree
from gcs.linux.abi import MountFlag

pytestmark = pytest.mark.root


def _content(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_tree_of_anything_is_removed(folder: Path) -> None:
    """Files, links, devices, sockets, folders without permissions, names of any bytes."""
    top = folder / "top"
    (top / "a/b").mkdir(parents=True)
    (top / "a/file").write_text("x")
    (top / "a" / os.fsdecode(b"\xff \n")).mkdir()
    (top / "dangling").symlink_to("nowhere")
    os.mkfifo(top / "fifo")
    os.mknod(top / "null", 0o020666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{top}/s")
    (top / "a/b").chmod(0)
    tree.remove(str(top))
    assert _content(folder) == []


def test_a_missing_tree_is_removed(folder: Path) -> None:
    """So is one whose parents are missing."""
    tree.remove(f"{folder}/missing")
    tree.remove(f"{folder}/missing/below")


def test_links_are_removed_and_not_followed(folder: Path) -> None:
    """Where they lead to is not touched: to a folder, to a file, and out of the tree."""
    (folder / "kept/sub").mkdir(parents=True)
    (folder / "kept/file").touch()
    (folder / "top").mkdir()
    (folder / "top/link").symlink_to("../kept")
    (folder / "top/file").symlink_to("../kept/file")
    (folder / "top/root").symlink_to("/")
    tree.remove(f"{folder}/top")
    assert _content(folder) == ["kept", "kept/file", "kept/sub"]


def test_a_path_that_is_a_link_is_only_a_link(folder: Path) -> None:
    """The folder that it leads to keeps its content."""
    (folder / "kept").mkdir()
    (folder / "kept/file").touch()
    (folder / "link").symlink_to("kept")
    tree.remove(f"{folder}/link")
    assert _content(folder) == ["kept", "kept/file"]


def test_a_file_is_removed(folder: Path) -> None:
    """It need not be a folder."""
    (folder / "file").touch()
    tree.remove(f"{folder}/file")
    assert _content(folder) == []


def test_mounts_below_stay_with_the_way_to_them(folder: Path) -> None:
    """What is beside that way goes."""
    top = folder / "top"
    (top / "a/mounted").mkdir(parents=True)
    syscall.mount("tmpfs", f"{top}/a/mounted", "tmpfs")
    (top / "a/mounted/data").write_text("x")
    (top / "a/mounted-not").mkdir()
    (top / "b/c").mkdir(parents=True)
    (top / "file").touch()
    tree.remove(str(top))
    assert _content(folder) == ["top", "top/a", "top/a/mounted", "top/a/mounted/data"]


def test_a_bind_mount_of_the_same_file_system_is_not_crossed(folder: Path) -> None:
    """The number of the device does not tell it; a mounted file is one as well."""
    (folder / "kept").mkdir()
    (folder / "kept/data").touch()
    (folder / "top/bind").mkdir(parents=True)
    (folder / "top/file").touch()
    syscall.mount(f"{folder}/kept", f"{folder}/top/bind", None, MountFlag.BIND)
    syscall.mount(f"{folder}/kept/data", f"{folder}/top/file", None, MountFlag.BIND)
    tree.remove(f"{folder}/top")
    assert _content(folder / "kept") == ["data"]
    assert _content(folder / "top") == ["bind", "bind/data", "file"]


def test_the_path_itself_may_be_a_mount(folder: Path) -> None:
    """Then it is all kept."""
    (folder / "top").mkdir()
    syscall.mount("tmpfs", f"{folder}/top", "tmpfs")
    (folder / "top/data").touch()
    tree.remove(f"{folder}/top")
    assert _content(folder) == ["top", "top/data"]


@pytest.mark.parametrize("path", ["alias/top", "./real//top", "real/top/", "real/top/../top"])
def test_mounts_are_seen_whatever_the_spelling(folder: Path, path: str) -> None:
    """A link in front, or a path that is not plain, hides no mount."""
    (folder / "real/top/mounted").mkdir(parents=True)
    (folder / "alias").symlink_to("real")
    syscall.mount("tmpfs", f"{folder}/real/top/mounted", "tmpfs")
    (folder / "real/top/mounted/data").touch()
    tree.remove(f"{folder}/{path}")
    assert (folder / "real/top/mounted/data").exists()


def test_any_depth_is_removed(folder: Path) -> None:
    """Deeper than Python would recurse: 1,500 folders in each other."""
    top = folder / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    tree.remove(str(top))
    assert _content(folder) == []


def test_what_cannot_be_removed_is_an_error(folder: Path) -> None:
    """It is named, and stays."""
    (folder / "top").mkdir()
    (folder / "top/file").touch()
    syscall.mount(
        f"{folder}", str(folder), None, MountFlag.BIND | MountFlag.REMOUNT | MountFlag.RDONLY
    )
    with pytest.raises(OSError, match="top/file") as caught:
        tree.remove(f"{folder}/top")
    assert caught.value.errno == errno.EROFS
    assert _content(folder) == ["top", "top/file"]
