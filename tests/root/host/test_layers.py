"""The kernel's view of layer images: mounted, and stacked by overlayfs."""

import hashlib
import os
import stat
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.support.ext4_reader import read_tree
from tests.support.layer_image import image_of
from tests.support.layer_trees import Spec, expected, layer_trees, members
from tests.support.oci import Members, layer_tar, member

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

DIR = tarfile.DIRTYPE


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """Mount an image read-only, as a utility VM does, and yield the mount point."""
    with tempfile.TemporaryDirectory() as target:
        options = "loop,ro,noload"
        subprocess.run(["mount", "-t", "ext4", "-o", options, image, target], check=True)
        try:
            yield Path(target)
        finally:
            subprocess.run(["umount", target], check=True)


@contextmanager
def stacked(folder: Path, *layers: Members) -> Iterator[Path]:
    """Mount layers, bottom first, under a read-only overlay and yield the merged root."""
    with ExitStack() as undo:
        lowerdirs: list[str] = []
        for layer in layers:
            image = image_of(layer_tar(layer), folder)
            lowerdirs.insert(0, str(undo.enter_context(mounted(image))))
        if len(lowerdirs) == 1:
            lowerdirs.append(undo.enter_context(tempfile.TemporaryDirectory()))
        target = undo.enter_context(tempfile.TemporaryDirectory())
        option = f"ro,lowerdir={':'.join(lowerdirs)}"
        subprocess.run(["mount", "-t", "overlay", "-o", option, "none", target], check=True)
        undo.callback(subprocess.run, ["umount", target], check=True)
        yield Path(target)


def walk(root: Path) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield each path below a folder with its status, links not followed."""
    base = os.fsencode(root)
    todo = [base]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                yield entry.path[len(base) + 1 :], entry.stat(follow_symlinks=False)


def contents(path: bytes, mode: int) -> bytes:
    """Return what a file holds or where a link points."""
    if stat.S_ISLNK(mode):
        return os.readlink(path)  # noqa: PTH115  # a bytes path, which Path can't be
    return Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(mode) else b""


def look(root: Path) -> dict[bytes, object]:
    """Return a mounted tree in the form of `expected`."""
    found: dict[bytes, object] = {}
    for name, status in walk(root):
        path = os.fsencode(root) + b"/" + name
        is_device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
        found[name] = (
            status.st_mode,
            (status.st_uid, status.st_gid),
            status.st_mtime_ns,
            contents(path, status.st_mode),
            (os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
            {
                attribute: os.getxattr(path, attribute, follow_symlinks=False)
                for attribute in os.listxattr(path, follow_symlinks=False)
            },
            status.st_nlink,
        )
    return found


def names(root: Path) -> set[str]:
    """Return all paths below a folder."""
    return {os.fsdecode(name) for name, _ in walk(root)}


@settings(max_examples=25)
@given(tree=layer_trees())
def test_the_kernel_reads_back_any_tree(tree: dict[bytes, Spec]) -> None:
    """What was put in is what lstat, readlink, read and getxattr give on the mounted image."""
    with tempfile.TemporaryDirectory() as folder:
        image = image_of(layer_tar(members(tree)), Path(folder))
        with mounted(image) as root:
            assert look(root) == expected(tree)


def test_a_real_tree_survives(tmp_path: Path) -> None:
    """The host's own /usr/bin and /etc, archived by GNU tar, mount as they are on the host."""
    tar = tmp_path / "real.tar"
    command = ["tar", "--xattrs", "--format=pax", "-C", "/", "-cf", str(tar)]
    subprocess.run([*command, "usr/bin", "etc/ssl"], check=True)
    with mounted(image_of(tar.read_bytes(), tmp_path)) as root:
        for part in ("usr/bin", "etc/ssl"):
            here = dict(walk(root / part))
            there = dict(walk(Path("/") / part))
            assert here.keys() == there.keys()
            for name, status in here.items():
                real = there[name]
                assert (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns) == (
                    real.st_mode,
                    real.st_uid,
                    real.st_gid,
                    real.st_mtime_ns,
                )
                one = contents(os.fsencode(root / part) + b"/" + name, status.st_mode)
                assert one == contents(os.fsencode(f"/{part}/") + name, status.st_mode)


def test_the_reader_of_the_unit_tests_agrees_with_the_kernel(tmp_path: Path) -> None:
    """Links, devices, attributes and times as the test reader sees them are the kernel's."""
    tree = [
        member("d/f", b"x" * 5000, mode=0o4755, owner=(70_000, 1), mtime=2**33),
        member("h", kind=tarfile.LNKTYPE, link="d/f"),
        member("n", kind=tarfile.CHRTYPE, device=(300, 70_000)),
        member("o", kind=tarfile.BLKTYPE, device=(8, 1)),
        member("s", kind=tarfile.SYMTYPE, link="t" * 300),
        member("x", xattrs={"user.a": b"a" * 60, "user.b": b"b" * 3000, "trusted.c": b""}),
        member(".wh.gone"),
    ]
    image = image_of(layer_tar(tree), tmp_path)
    with mounted(image) as root:
        for path, found in read_tree(image).items():
            status = os.lstat(os.fsencode(root) + b"/" + path)
            assert (found.mode, found.uid, found.gid, found.size, found.links) == (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_size,
                status.st_nlink,
            )
            assert found.mtime_ns == status.st_mtime_ns
            assert found.device == (os.major(status.st_rdev), os.minor(status.st_rdev))
            place = os.fsencode(root) + b"/" + path
            for key, value in found.xattrs.items():
                assert os.getxattr(place, key, follow_symlinks=False) == value


def test_acls_come_back_as_they_went_in(tmp_path: Path) -> None:
    """An ACL read from the mounted image is the one that the archive had."""
    nobody = 2**32 - 1
    entries = [(1, 6, nobody), (2, 4, 1000), (4, 4, nobody), (16, 4, nobody), (32, 0, nobody)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    tar = layer_tar(
        [
            member("d", kind=DIR, mode=0o755, xattrs={"system.posix_acl_default": value}),
            member("f", mode=0o640, xattrs={"system.posix_acl_access": value}),
        ]
    )
    with mounted(image_of(tar, tmp_path)) as root:
        assert os.getxattr(root / "d", "system.posix_acl_default") == value
        assert os.getxattr(root / "f", "system.posix_acl_access") == value


def test_device_nodes_work(tmp_path: Path) -> None:
    """A node 1:5 in a layer is the host kernel's /dev/zero."""
    tar = layer_tar([member("zero", kind=tarfile.CHRTYPE, device=(1, 5), mode=0o666)])
    with mounted(image_of(tar, tmp_path)) as root, (root / "zero").open("rb") as zero:
        assert zero.read(8) == bytes(8)


def test_a_file_of_many_extents_reads_whole(tmp_path: Path) -> None:
    """A file of 600 MiB needs five extents and so a tree; the kernel reads what went in."""
    block = os.urandom(1 << 20)
    tar = layer_tar([member("big", block * 600), member("after", b"x")])
    wanted = hashlib.sha256(block * 600).hexdigest()
    with mounted(image_of(tar, tmp_path, "zstd")) as root:
        with (root / "big").open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == wanted
        assert (root / "after").read_bytes() == b"x"


def test_thousands_of_pieces_read_whole(tmp_path: Path) -> None:
    """A sparse file of 4,000 pieces, 16 GiB long, has its bytes and its holes in place."""
    pieces = [(number << 22, 3) for number in range(4000)]
    info, content = member("s", b"".join(b"%03d" % (n % 1000) for n in range(4000)))
    info.pax_headers = {
        "GNU.sparse.map": ",".join(f"{offset},{length}" for offset, length in pieces),
        "GNU.sparse.size": str(4000 << 22),
    }
    with mounted(image_of(layer_tar([(info, content)]), tmp_path)) as root:
        assert (root / "s").stat().st_size == 4000 << 22
        with (root / "s").open("rb") as file:
            for number in (0, 1, 339, 340, 341, 1999, 3999):
                file.seek(number << 22)
                assert file.read(4) == b"%03d\0" % (number % 1000)


def test_a_folder_of_many_subfolders_is_whole(tmp_path: Path) -> None:
    """70,000 subfolders are more than a link count can say; all are there."""
    tar = layer_tar([member(f"d/{n}", kind=DIR) for n in range(70_000)], tarfile.USTAR_FORMAT)
    with mounted(image_of(tar, tmp_path)) as root:
        assert (root / "d").stat().st_nlink == 1
        assert len(list((root / "d").iterdir())) == 70_000
        assert (root / "d" / "69999").is_dir()


LOWER = [
    member("keep", b"lower"),
    member("gone", b"lower"),
    member("dir/old", b"lower"),
    member("dir/both", b"lower"),
    member("swap/old", b"lower"),
    member("whole/x/y", b"lower"),
]


def test_whiteouts_hide_what_is_below(tmp_path: Path) -> None:
    """A file, a folder's file and a whole folder vanish from the merge; the rest stays."""
    upper = [member(".wh.gone"), member("dir/.wh.old"), member(".wh.whole")]
    with stacked(tmp_path, LOWER, upper) as root:
        assert names(root) == {"keep", "dir", "dir/both", "swap", "swap/old"}


def test_opaque_folders_hide_what_is_below(tmp_path: Path) -> None:
    """In an opaque folder only the upper layer's files are seen, with their contents."""
    upper = [member("dir/.wh..wh..opq"), member("dir/both", b"upper"), member("dir/new")]
    with stacked(tmp_path, LOWER, upper) as root:
        assert {name for name in names(root) if name.startswith("dir")} == {
            "dir",
            "dir/both",
            "dir/new",
        }
        assert (root / "dir/both").read_bytes() == b"upper"


def test_a_replaced_folder_shows_only_the_new_files(tmp_path: Path) -> None:
    """A whiteout beside a folder of its name replaces the lower folder as a whole."""
    upper = [member("swap/new", b"upper"), member(".wh.swap")]
    with stacked(tmp_path, LOWER, upper) as root:
        assert {name for name in names(root) if name.startswith("swap")} == {"swap", "swap/new"}


def test_a_file_can_take_a_folders_place_and_back(tmp_path: Path) -> None:
    """A file over a folder, then a folder over the file, each in a layer of its own."""
    with stacked(tmp_path, LOWER, [member("dir", b"a file")], [member("dir/again")]) as root:
        assert {name for name in names(root) if name.startswith("dir")} == {"dir", "dir/again"}


def test_hard_links_are_one_file_in_the_merged_tree(tmp_path: Path) -> None:
    """Two names of one file have one inode number and a link count of 2 under overlayfs."""
    layer = [member("a", b"x"), member("b", kind=tarfile.LNKTYPE, link="a")]
    with stacked(tmp_path, layer) as root:
        one, other = (root / "a").stat(), (root / "b").stat()
        assert (one.st_ino, one.st_nlink) == (other.st_ino, 2)
