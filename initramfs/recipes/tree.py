"""A tree of files in memory, from Debian packages and folders, and as a tar that never varies.

It will not touch the disk to hold the tree: owners and modes need no root that way.

Shape: a ``Tree`` maps paths (``usr/bin/runc``: no leading slash, no ``.``) to entries. Parent
directories need no entry; the tar gets them, owned by root, mode 0755.
"""

import fnmatch
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from initramfs.recipes.steps import Step

#: Where Debian's merged /usr puts what a package still ships at the top.
MERGED = ("bin", "lib", "lib64", "sbin")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of any kind."""

    #: tarfile's letter for it: REGTYPE, DIRTYPE, SYMTYPE.
    kind: bytes
    mode: int
    data: bytes = b""
    #: Where a symbolic link points to.
    target: str = ""
    uid: int = 0
    gid: int = 0
    #: What it was taken from, "debian/NAME" or "pypi/NAME"; empty: it was made here.
    package: str = ""


Tree = dict[str, Entry]


def regular(data: bytes | str, mode: int = 0o644) -> Entry:
    """Return a regular file of root's."""
    return Entry(tarfile.REGTYPE, mode, data.encode() if isinstance(data, str) else data)


def directory(mode: int = 0o755) -> Entry:
    """Return a directory of root's."""
    return Entry(tarfile.DIRTYPE, mode)


def symlink(target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(tarfile.SYMTYPE, 0o777, target=target)


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Say whether a path is one of the patterns' or below one that ends in a slash."""
    return any(
        path.startswith(pattern) if pattern.endswith("/") else fnmatch.fnmatch(path, pattern)
        for pattern in patterns
    )


def from_deb(step: Step, deb: Path, scratch: Path, package: str = "") -> Tree:
    """Return the files of a Debian package, all of them, as the named package's."""
    archive = scratch / f".{deb.stem}.tar"
    step.run(["dpkg-deb", "--fsys-tarfile", deb], stdout=archive)
    try:
        with tarfile.open(archive) as members:
            return _read(members, package)
    finally:
        archive.unlink()


def _read(members: tarfile.TarFile, package: str) -> Tree:
    tree: Tree = {}
    for member in members:
        path = str(PurePosixPath(member.name))
        if path == ".":
            continue
        if member.islnk():
            # A hard link inside a package becomes a second copy: images share by layer.
            tree[path] = tree[str(PurePosixPath(member.linkname))]
            continue
        stream = members.extractfile(member) if member.isreg() else None
        tree[path] = Entry(
            member.type,
            member.mode,
            stream.read() if stream else b"",
            member.linkname,
            member.uid,
            member.gid,
            package,
        )
    return tree


def from_folder(folder: Path, below: str) -> Tree:
    """Return a folder's regular files as ``below/…``, owned by root, executables as such."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        f"{below}/{path.relative_to(folder)}": regular(
            path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644
        )
        for path in files
    }


def merge_usr(tree: Tree) -> Tree:
    """Return the tree with /bin, /lib, /lib64 and /sbin below /usr, without links to them."""
    merged: Tree = {}
    for path, entry in tree.items():
        top = path.partition("/")[0]
        if path != top or top not in MERGED:
            merged[f"usr/{path}" if top in MERGED else path] = entry
    return merged


def _with_parents(tree: Tree) -> Tree:
    parents = {
        str(parent): directory()
        for path in tree
        for parent in PurePosixPath(path).parents
        if str(parent) != "."
    }
    return parents | tree


def to_tar(tree: Tree) -> bytes:
    """Return the tree as a tar: sorted, every time 1970, the same bytes for the same tree."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, entry in sorted(_with_parents(tree).items()):
            member = tarfile.TarInfo(path)
            member.type = entry.kind
            member.mode = entry.mode
            member.size = len(entry.data)
            member.linkname = entry.target
            member.uid, member.gid = entry.uid, entry.gid
            archive.addfile(member, io.BytesIO(entry.data))
    return buffer.getvalue()
