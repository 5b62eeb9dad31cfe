"""The ext4 structures that a layer image is made of, as bytes; no file is touched here.

Little-endian throughout, 4096-byte blocks, 256-byte inodes, no checksums. `ext4_image` decides
what goes where.

Source: kernel Documentation/filesystems/ext4/ and fs/ext4/{ext4,ext4_extents,xattr,acl}.h.
"""

import stat
import struct
from collections.abc import Iterable, Sequence

from gcs.errors import GcsError
from gcs.host.layer_tree import Extent, Node

__all__ = [
    "BLOCK",
    "INODE",
    "ROOT_INODE",
    "Ext4Error",
    "acl",
    "directory",
    "extent_leaf",
    "extent_root",
    "group",
    "inode",
    "split_xattrs",
    "superblock",
    "xattr_block",
]

BLOCK = 4096
INODE = 256
ROOT_INODE = 2
#: Inodes 1 to 10 are the file system's own.
FIRST_INODE = 11
BLOCKS_PER_GROUP = BLOCK * 8
GROUP = 32
#: A run in one extent is at most this long (longer values mean "not initialised").
MAX_EXTENT_BLOCKS = 32768
#: Extents in the inode itself, and in a block of the extent tree: (4096 - 12) // 12.
ROOT_EXTENTS, LEAF_EXTENTS = 4, 340
#: A symbolic link shorter than this lives in the inode.
FAST_SYMLINK = 60
#: EXT4_LINK_MAX.
MAX_LINKS = 65000

_EXTENTS_FLAG = 0x80000
_EXTRA_ISIZE = 32
_XATTR_MAGIC = 0xEA020000
#: Bytes for attributes behind the inode's fields, less the magic and the end mark.
_INODE_XATTR_BYTES = INODE - 128 - _EXTRA_ISIZE - 8
_BLOCK_XATTR_BYTES = BLOCK - 32 - 4

#: Longest prefix first, so that an ACL is not taken for another "system." attribute.
_XATTR_PREFIXES = (
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"security.", 6),
    (b"trusted.", 4),
    (b"user.", 1),
)

_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFLNK: 7,
}

#: One attribute as ext4 keeps it: index of the prefix, rest of the name, value.
Xattr = tuple[int, bytes, bytes]


class Ext4Error(GcsError):
    """A tree holds something that ext4 can't, as these images use it."""


def superblock(
    *, blocks: int, free_blocks: int, inodes: int, free_inodes: int, per_group: int, uuid: bytes
) -> bytes:
    """Return the 1024 bytes of the superblock; every time in it is 1970."""
    raw = bytearray(1024)
    struct.pack_into(
        "<11I", raw, 0,
        inodes, blocks, 0, free_blocks, free_inodes,
        0,                                     # the first block is block 0
        2, 2,                                  # block and cluster size: 1024 << 2
        BLOCKS_PER_GROUP, BLOCKS_PER_GROUP, per_group,
    )  # fmt: skip
    # Never mounted, never to be checked for its mount count; 1: cleanly unmounted, and errors
    # make the kernel continue (the mount is read-only anyway).
    struct.pack_into("<HhHHHH", raw, 52, 0, -1, 0xEF53, 1, 1, 0)
    struct.pack_into("<4I", raw, 64, 0, 0, 0, 1)
    struct.pack_into("<IHH", raw, 84, FIRST_INODE, INODE, 0)
    # ext_attr, sparse_super2 (with no backup named: none exist) · filetype, extents, flex_bg
    # (so bitmaps and inode tables may lie anywhere) · large_file, dir_nlink, extra_isize. No
    # journal, since nothing writes; no inline_data, since DAX refuses it.
    struct.pack_into("<3I", raw, 92, 0x8 | 0x200, 0x2 | 0x40 | 0x200, 0x2 | 0x20 | 0x40)
    raw[104:120] = uuid
    struct.pack_into("<I", raw, 256, 0x4 | 0x8)  # mount with user_xattr and acl
    struct.pack_into("<HHI", raw, 348, _EXTRA_ISIZE, _EXTRA_ISIZE, 0x2)  # unsigned hashes
    raw[372] = 4  # a flex group is 2^4 groups; it only steers allocation, which never happens
    return bytes(raw)


def group(
    *, bitmaps: tuple[int, int], table: int, free: tuple[int, int], folders: int
) -> bytes:
    """Return a group descriptor: blocks of its two bitmaps, of its inode table, and counts."""
    return struct.pack("<3I4H12x", *bitmaps, table, *free, folders, 0)


def inode(
    node: Node,
    *,
    body: bytes,
    blocks: int,
    xattrs: Sequence[Xattr] = (),
    xattr_block: int = 0,
) -> bytes:
    """Return the 256 bytes of an inode. `body` is i_block, `blocks` all that it occupies."""
    seconds, extra = _time(node.mtime_ns)
    has_extents = stat.S_ISREG(node.mode) or stat.S_ISDIR(node.mode) or node.extents
    fixed = struct.pack(
        "<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIIII",
        node.mode, node.uid & 0xFFFF, node.size & 0xFFFFFFFF,
        seconds, seconds, seconds, 0,          # accessed, changed, modified; deleted
        node.gid & 0xFFFF, node.links, blocks * (BLOCK // 512),
        _EXTENTS_FLAG if has_extents else 0, 0,
        body,
        0, xattr_block, node.size >> 32, 0, 0, 0,
        node.uid >> 16, node.gid >> 16, 0, 0,
        _EXTRA_ISIZE, 0, extra, extra, extra, seconds, extra, 0, 0,
    )  # fmt: skip
    if not xattrs:
        return fixed.ljust(INODE, b"\0")
    room = INODE - len(fixed) - 4
    return fixed + struct.pack("<I", _XATTR_MAGIC) + _xattr_area(xattrs, room, 0)


def _time(nanoseconds: int) -> tuple[int, int]:
    """Return a time's two fields: 32 bits of seconds; two more above them and nanoseconds.

    A time outside of 1901 to 2310 is moved inside: Go writes its zero time, year 1, and e2fsck
    takes what ext4 could say beyond 2310 for the trace of an old kernel's bug.
    """
    seconds, fraction = divmod(nanoseconds, 10**9)
    seconds = min(max(seconds, -(1 << 31)), 3 * (1 << 32) - (1 << 31) - 1)
    low = seconds & 0xFFFFFFFF
    signed = low - (1 << 32) if low >> 31 else low
    return low, fraction << 2 | (seconds - signed) >> 32 & 3


def device_body(major: int, minor: int) -> bytes:
    """Return i_block of a device node: the old 8:8 form if the number fits, else the new."""
    if major < 256 and minor < 256:
        return struct.pack("<I56x", major << 8 | minor)
    return struct.pack("<II52x", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)


def extent_root(extents: Sequence[Extent]) -> bytes:
    """Return i_block with up to four extents."""
    return _extent_header(len(extents), ROOT_EXTENTS, 0) + _extents(extents).ljust(48, b"\0")


def extent_index_root(children: Sequence[tuple[int, int]], depth: int) -> bytes:
    """Return i_block with up to four (first logical block, tree block) pairs."""
    head = _extent_header(len(children), ROOT_EXTENTS, depth)
    return head + _indexes(children).ljust(48, b"\0")


def extent_leaf(extents: Sequence[Extent]) -> bytes:
    """Return a block of extents."""
    head = _extent_header(len(extents), LEAF_EXTENTS, 0)
    return (head + _extents(extents)).ljust(BLOCK, b"\0")


def extent_index(children: Sequence[tuple[int, int]], depth: int) -> bytes:
    """Return a block of (first logical block, tree block) pairs."""
    head = _extent_header(len(children), LEAF_EXTENTS, depth)
    return (head + _indexes(children)).ljust(BLOCK, b"\0")


def _extent_header(entries: int, most: int, depth: int) -> bytes:
    return struct.pack("<4HI", 0xF30A, entries, most, depth, 0)


def _extents(extents: Sequence[Extent]) -> bytes:
    return b"".join(struct.pack("<IHHI", e.logical, e.count, 0, e.physical) for e in extents)


def _indexes(children: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(struct.pack("<IIHH", logical, block, 0, 0) for logical, block in children)


def directory(entries: Iterable[tuple[bytes, Node]]) -> bytes:
    """Return the blocks of a folder, in the order given; the last entry of a block fills it."""
    blocks: list[bytearray] = [bytearray()]
    last = 0
    for name, node in entries:
        size = 8 + (len(name) + 3 & ~3)
        if len(blocks[-1]) + size > BLOCK:
            _fill(blocks[-1], last)
            blocks.append(bytearray())
        last = len(blocks[-1])
        kind = _FILE_TYPES[stat.S_IFMT(node.mode)]
        blocks[-1] += struct.pack("<IHBB", node.number, size, len(name), kind)
        blocks[-1] += name.ljust(size - 8, b"\0")
    _fill(blocks[-1], last)
    return b"".join(blocks)


def _fill(block: bytearray, last: int) -> None:
    struct.pack_into("<H", block, last + 4, BLOCK - last)
    block.extend(bytes(BLOCK - len(block)))


def split_xattrs(xattrs: dict[bytes, bytes]) -> tuple[list[Xattr], list[Xattr]]:
    """Share attributes out to the inode and to a block of their own, both in ext4's order.

    A name in a namespace that Linux does not have (macOS archivers write `com.apple.…`) is left
    out: no Linux file system could keep it.

    Raises:
        Ext4Error: they don't fit.
    """
    known = sorted(filter(None, (_indexed(*item) for item in xattrs.items())), key=_order)
    inside: list[Xattr] = []
    outside: list[Xattr] = []
    room, more = _INODE_XATTR_BYTES, _BLOCK_XATTR_BYTES
    for xattr in known:
        size = 16 + (len(xattr[1]) + 3 & ~3) + (len(xattr[2]) + 3 & ~3)
        if size <= room:
            inside.append(xattr)
            room -= size
        else:
            outside.append(xattr)
            more -= size
        if more < 0 or len(xattr[1]) > 255:
            raise Ext4Error("extended attributes do not fit into one 4096-byte block")
    return inside, outside


def _indexed(name: bytes, value: bytes) -> Xattr | None:
    for prefix, index in _XATTR_PREFIXES:
        if name == prefix and index in (2, 3):
            return index, b"", acl(value)
        if name.startswith(prefix) and name != prefix and index not in (2, 3):
            return index, name.removeprefix(prefix), value
    return None


def _order(xattr: Xattr) -> tuple[int, int, bytes]:
    # The kernel searches a block as sorted by this.
    return xattr[0], len(xattr[1]), xattr[1]


def acl(value: bytes) -> bytes:
    """Return a POSIX ACL as ext4 stores it, from the form that getxattr(2) gives.

    Shape: version 2 and (tag, permissions, id) become version 1, ids only for named users (2)
    and groups (8).
    """
    if len(value) % 8 != 4 or value[:4] != struct.pack("<I", 2):
        raise Ext4Error("a POSIX ACL is not in the kernel's version 2 form")
    packed = struct.pack("<I", 1)
    for tag, permissions, owner in struct.iter_unpack("<HHI", value[4:]):
        packed += struct.pack("<HH", tag, permissions)
        packed += struct.pack("<I", owner) if tag in (2, 8) else b""
    return packed


def xattr_block(xattrs: Sequence[Xattr]) -> bytes:
    """Return a block of attributes."""
    whole = 0
    for xattr in xattrs:
        whole = (whole << 16 & 0xFFFFFFFF) ^ (whole >> 16) ^ _hash(xattr)
    head = struct.pack("<5I12x", _XATTR_MAGIC, 1, 1, whole, 0)
    return head + _xattr_area(xattrs, BLOCK - len(head), len(head))


def _xattr_area(xattrs: Sequence[Xattr], room: int, base: int) -> bytes:
    """Return entries growing up and values growing down; offsets count from `base` before."""
    area = bytearray(room)
    top, bottom = 0, room
    for xattr in xattrs:
        index, name, value = xattr
        bottom -= len(value) + 3 & ~3
        # An empty value has no place; the kernel takes any offset within the area for it.
        struct.pack_into(
            "<BBHIII", area, top,
            len(name), index, base + bottom if value else 0, 0, len(value), _hash(xattr),
        )  # fmt: skip
        area[top + 16 : top + 16 + len(name)] = name
        area[bottom : bottom + len(value)] = value
        top += 16 + (len(name) + 3 & ~3)
    return bytes(area)


def _hash(xattr: Xattr) -> int:
    """Return e_hash: ext4_xattr_hash_entry of the kernel's fs/ext4/xattr.c."""
    _, name, value = xattr
    result = 0
    for byte in name:
        result = (result << 5 & 0xFFFFFFFF) ^ (result >> 27) ^ byte
    for (word,) in struct.iter_unpack("<I", value.ljust(len(value) + 3 & ~3, b"\0")):
        result = (result << 16 & 0xFFFFFFFF) ^ (result >> 16) ^ word
    return result
