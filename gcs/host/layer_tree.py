"""The tree that a layer's tar describes: what would be there after extracting it, in memory.

Entries act in order, the last one wins. Nothing touches the host's file system, so a hostile
path has nothing to escape from; still `..`, a path through a symbolic link and a hard link to
what the layer does not hold are refused, since a layer that has them means something else
than it can be given here. A leading slash means the layer's root, as every engine reads it.

Whiteouts speak about the layers below, whatever their place in the archive: `.wh.NAME`
becomes a character device 0:0, or, where the layer itself has a folder NAME, makes that
opaque; `.wh..wh..opq` makes its folder opaque. Folders that no entry names are root's, 0755.

Source: OCI image-spec layer.md, "Whiteouts"; kernel Documentation/filesystems/overlayfs.rst.
"""

import stat
from dataclasses import dataclass, field

from gcs.errors import GcsError
from gcs.host.layer_tar import Entry, Kind

__all__ = ["Extent", "LayerTree", "Node", "TreeError"]

#: PATH_MAX and NAME_MAX: what Linux can name at all.
MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255

#: Deepest folder. Real images stay under 40; every level may cost an implied folder's block, so
#: a short archive of deep paths would otherwise be a bomb (2048 levels fit PATH_MAX).
MAX_DEPTH = 256

#: Most entries, implied folders and pieces of sparse files in one layer. The largest layers in
#: use (full desktop and CUDA images) have some 300,000; each takes about 1 KB of memory here
#: (measured with 200,000 files), so the limit is half a gigabyte.
MAX_NODES = 500_000

#: Most bytes of paths, link targets and attributes in one layer, which are all held in memory:
#: 500,000 entries with 500 bytes each, where real ones have 100.
MAX_TEXT_BYTES = 256 << 20

#: Most bytes of attributes of one file; ext4 has room for half of that (ext4.split_xattrs), so
#: this only keeps what can't be written out of memory.
MAX_XATTR_BYTES = 8192

#: Of a device number: 12 and 20 bits in Linux's dev_t.
MAX_MAJOR, MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1

#: uid_t; the last value means "no user" to chown(2).
MAX_ID = (1 << 32) - 2

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"

_FORMATS = {
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FIFO: stat.S_IFIFO,
}


class TreeError(GcsError):
    """An entry can't have a place in the layer's tree."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of a file's blocks: first block in the file, first block in the image, how many."""

    logical: int
    physical: int
    count: int


@dataclass(slots=True)
class Node:
    """An inode to be. Two names of one file (hard links) share one."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    #: Of a folder; None for everything else.
    children: dict[bytes, "Node"] | None = None
    #: Of a symbolic link.
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    size: int = 0
    extents: list[Extent] = field(default_factory=list)
    #: Names that this folder hides in the layers below.
    whiteouts: set[bytes] = field(default_factory=set)
    is_opaque: bool = False
    #: Names of a file, or 2 + subfolders of a folder; counted by the image writer.
    links: int = 0
    #: Inode number; given out by the image writer.
    number: int = 0


class LayerTree:
    """Grow a tree from entries; `seal` turns its whiteouts into nodes when all are in."""

    def __init__(self) -> None:
        self.root = _folder()
        self._nodes = 0
        self._text_bytes = 0

    def add(self, entry: Entry) -> Node | None:
        """Put an entry in its place and return its node if contents belong to it.

        Raises:
            TreeError: the entry is refused; the text names it.
        """
        try:
            # A sparse piece costs an extent, so it counts as much as a file does.
            self._count(1 + len(entry.pieces))
            self._count_text(entry)
            return self._add(entry)
        except TreeError as error:
            raise TreeError(f"entry {_shown(entry.path)}: {error}") from None

    def seal(self) -> Node:
        """Return the root, after each whiteout has become a device or an opaque folder."""
        todo = [self.root]
        while todo:
            node = todo.pop()
            children = _children(node, [], 0)
            todo += [child for child in children.values() if child.children is not None]
            for name in node.whiteouts:
                hidden = children.get(name)
                if hidden is None:
                    children[name] = Node(stat.S_IFCHR)
                elif hidden.children is not None:
                    hidden.is_opaque = True
            node.whiteouts.clear()
        return self.root

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise TreeError(f"over {MAX_NODES} entries and folders in one layer")

    def _count_text(self, entry: Entry) -> None:
        xattr_bytes = sum(len(key) + len(value) for key, value in entry.xattrs)
        if xattr_bytes > MAX_XATTR_BYTES:
            raise TreeError(f"extended attributes of {xattr_bytes} bytes do not fit")
        self._text_bytes += len(entry.path) + len(entry.link) + xattr_bytes
        if self._text_bytes > MAX_TEXT_BYTES:
            raise TreeError(f"over {MAX_TEXT_BYTES} bytes of names and attributes in one layer")

    def _add(self, entry: Entry) -> Node | None:
        parts = _split(entry.path)
        if not parts:
            if entry.kind is not Kind.DIRECTORY:
                raise TreeError("the root can only be a folder")
            _dress(self.root, entry)
            return None
        parent = self._parent(parts)
        name = parts[-1]
        if parts == [_OPAQUE]:
            # Tried: overlayfs merges the roots of all layers, whatever their attributes say.
            raise TreeError("an opaque root would hide all layers below, which overlayfs can't")
        if name.startswith(_WHITEOUT):
            _whiteout(parent, name)
            return None
        if entry.kind is Kind.HARDLINK:
            self._link(parent, name, entry.link)
            return None
        node = self._place(parent, name, entry)
        return node if entry.kind is Kind.FILE else None

    def _parent(self, parts: list[bytes]) -> Node:
        """Return the folder of a path, with every folder on the way made that is not there."""
        node = self.root
        for depth, part in enumerate(parts[:-1]):
            if part.startswith(_WHITEOUT):
                raise TreeError("a whiteout can't be a folder")
            children = _children(node, parts, depth)
            if part not in children:
                self._count(1)
                children[part] = _folder()
            node = children[part]
        _children(node, parts, len(parts) - 1)
        return node

    def _place(self, parent: Node, name: bytes, entry: Entry) -> Node:
        siblings = _children(parent, [], 0)
        old = siblings.get(name)
        if old is not None and old.children is not None and entry.kind is Kind.DIRECTORY:
            _dress(old, entry)
            return old
        node = _folder() if entry.kind is Kind.DIRECTORY else Node(_FORMATS[entry.kind])
        _dress(node, entry)
        if entry.kind is Kind.SYMLINK:
            node.target = _target(entry.link)
        if entry.kind in (Kind.CHAR, Kind.BLOCK):
            node.device = _device(entry.device)
        # The file that stood here had already hidden a folder below; so must this folder.
        node.is_opaque = old is not None and entry.kind is Kind.DIRECTORY
        siblings[name] = node
        return node

    def _link(self, parent: Node, name: bytes, link: bytes) -> None:
        where = f"hard link to {_shown(link)}"
        parts = _split(link)
        node: Node | None = self.root
        for depth, part in enumerate(parts):
            if node is not None:
                node = _children(node, parts, depth).get(part)
        if node is None:
            raise TreeError(f"{where}: the layer has no such file")
        if node.children is not None:
            raise TreeError(f"{where}: that is a folder")
        _children(parent, [], 0)[name] = node


def _folder() -> Node:
    return Node(stat.S_IFDIR | 0o755, children={})


def _shown(path: bytes) -> str:
    """Return a path fit for a one-line message, shortened in the middle."""
    text = repr(path if len(path) <= 200 else path[:90] + b"..." + path[-90:])
    return text.removeprefix("b")


def _split(path: bytes) -> list[bytes]:
    if len(path) > MAX_PATH_BYTES:
        raise TreeError(f"path of {len(path)} bytes, the limit is {MAX_PATH_BYTES}")
    if b"\0" in path:
        raise TreeError("path holds a NUL")
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise TreeError("path leaves its folder by '..'")
    if any(len(part) > MAX_NAME_BYTES for part in parts):
        raise TreeError(f"name over {MAX_NAME_BYTES} bytes")
    if len(parts) > MAX_DEPTH:
        raise TreeError(f"{len(parts)} folders deep, the limit is {MAX_DEPTH}")
    return parts


def _children(node: Node, parts: list[bytes], depth: int) -> dict[bytes, Node]:
    """Return what a folder holds; parts[:depth] is its path, for the error if it is none."""
    if node.children is None:
        kind = "symbolic link" if stat.S_ISLNK(node.mode) else "file"
        raise TreeError(f"path goes through the {kind} {_shown(b'/'.join(parts[:depth]))}")
    return node.children


def _whiteout(parent: Node, name: bytes) -> None:
    hidden = name.removeprefix(_WHITEOUT)
    if name == _OPAQUE:
        parent.is_opaque = True
    elif hidden in (b"", b".", b".."):
        raise TreeError("whiteout of no name")
    elif not hidden.startswith(_WHITEOUT):
        parent.whiteouts.add(hidden)
    # What is left (`.wh..wh.plnk`, `.wh..wh.aufs`) is aufs's own bookkeeping and no file.


def _dress(node: Node, entry: Entry) -> None:
    """Give a node the owner, mode, time and attributes that an entry states."""
    if entry.uid > MAX_ID or entry.gid > MAX_ID:
        raise TreeError(f"owner {entry.uid}:{entry.gid} is out of range")
    node.mode = stat.S_IFMT(node.mode) | entry.mode
    node.uid, node.gid = entry.uid, entry.gid
    node.mtime_ns = entry.mtime_ns
    node.size = entry.size
    # overlayfs's own marks in a layer's tar are some other union's leftovers (a redirect or an
    # opaque flag that the image's author never asked for), so they don't reach ours.
    node.xattrs = {
        key: value for key, value in entry.xattrs if not key.startswith(b"trusted.overlay.")
    }


def _target(link: bytes) -> bytes:
    if not 0 < len(link) < MAX_PATH_BYTES or b"\0" in link:
        raise TreeError(f"symbolic link with a target of {len(link)} bytes")
    return link


def _device(device: tuple[int, int]) -> tuple[int, int]:
    if device[0] > MAX_MAJOR or device[1] > MAX_MINOR:
        raise TreeError(f"device number {device[0]}:{device[1]} is out of range")
    return device
