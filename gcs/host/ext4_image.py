"""Write a whole ext4 image, front to back: contents as they come, then everything about them.

Shape: superblock · group descriptors (room for MAX_GROUPS) · file contents in the order of the
archive · folders, long links, extent trees, attributes · bitmaps · inode tables · padding, a
hole. Contents are streamed straight to their last place, so a layer is read once, needs no
second copy, and the image is as small as its files.

Why not e2fsprogs: `mke2fs -d` of 1.47.0 takes only a folder, so the tar would have to be
extracted by root; a `debugfs -w` script can't say a name with a newline in it, and takes
contents only from a file on the host for each. hcsshim's LCOW layers (Go,
ext4/internal/compactext4) are written by the same plan as here. `e2fsck -fn` has nothing to say
about any image, which the tests hold it to.
"""

import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, TypeVar

from gcs.host import ext4
from gcs.host.ext4 import BLOCK, BLOCKS_PER_GROUP, INODE, Ext4Error
from gcs.host.layer_tree import Extent, Node

__all__ = ["ImageWriter"]

#: 512 groups of 128 MiB: images up to 64 GiB. Twice what a layer may unpack to (layers.py),
#: since a file of one byte takes a block; their descriptors take four blocks.
MAX_GROUPS = 512
_FIRST_BLOCK = 1 + MAX_GROUPS * ext4.GROUP // BLOCK

#: virtio-pmem refuses a backing file that is no multiple of 2 MiB ("misaligned, unable to
#: map"): its memory slots are mapped by huge pages.
ALIGNMENT = 2 << 20

#: An inode table is whole blocks of 16 inodes; a group's inodes need one block of bitmap.
_INODES_PER_BLOCK = BLOCK // INODE
_MAX_INODES_PER_GROUP = BLOCK * 8

#: First block and number of blocks.
_Run = tuple[int, int]
_T = TypeVar("_T")


class ImageWriter:
    """Write contents with `store`, then the rest of the file system with `finish`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._next = _FIRST_BLOCK
        file.seek(_FIRST_BLOCK * BLOCK)

    def store(
        self, node: Node, pieces: Iterable[tuple[int, int]], data: Iterable[bytes]
    ) -> None:
        """Write a file's contents and note its extents; `data` is all pieces in a row."""
        chunks = _Chunks(data)
        runs: list[Extent] = []
        # Where the piece before ended, and the block after it: two pieces may share a block.
        end = end_block = 0
        for offset, length in pieces:
            first = offset // BLOCK
            shares = first < end_block
            self._file.write(bytes(offset - end if shares else -end % BLOCK + offset % BLOCK))
            first = max(first, end_block)
            end = offset + length
            end_block = -(-end // BLOCK)
            if end_block > first:
                count = end_block - first
                runs.append(Extent(first, self._take(count), count))
            chunks.copy(length, self._file)
        self._file.write(bytes(-end % BLOCK))
        node.extents = list(_joined(runs))

    def finish(self, root: Node, uuid: bytes) -> int:
        """Write the rest, cut the file to its padded size and return that.

        Raises:
            Ext4Error: the tree can't be kept in an image of this form.
        """
        nodes = _numbered(root)
        data_end = self._next
        table = bytearray(INODE * (ext4.FIRST_INODE - 1 + len(nodes) - 1))
        for node, parent, name in nodes:
            at = (node.number - 1) * INODE
            try:
                table[at : at + INODE] = self._node(node, parent)
            except Ext4Error as error:
                raise Ext4Error(f"entry {name!r}: {error}") from None
        used = [(data_end, self._next - data_end)]
        # Of the contents only what a node still owns: a later entry may have replaced a file.
        used += [(e.physical, e.count) for node, _, _ in nodes for e in node.extents]
        folders = Counter(node.number for node, _, _ in nodes if node.children is not None)
        return self._seal(used, table, folders, uuid)

    def _take(self, blocks: int) -> int:
        first = self._next
        self._next += blocks
        if self._next > MAX_GROUPS * BLOCKS_PER_GROUP:
            raise Ext4Error(f"image over {MAX_GROUPS * BLOCKS_PER_GROUP * BLOCK} bytes")
        return first

    def _append(self, blocks: bytes) -> int:
        """Write whole blocks at the end and return the number of the first."""
        first = self._take(len(blocks) // BLOCK)
        self._file.write(blocks)
        return first

    def _node(self, node: Node, parent: Node) -> bytes:
        """Write the blocks that belong to a node and return its inode."""
        before = self._next
        if node.children is not None:
            blocks = ext4.directory(_entries(node, parent))
            node.size = len(blocks)
            self._own(node, blocks)
        elif stat.S_ISLNK(node.mode):
            node.size = len(node.target)
            if node.size >= ext4.FAST_SYMLINK:
                self._own(node, node.target.ljust(BLOCK, b"\0"))
        contents = sum(e.count for e in node.extents) if stat.S_ISREG(node.mode) else 0
        body = self._body(node)
        xattrs = dict(node.xattrs)
        if node.is_opaque:
            xattrs[b"trusted.overlay.opaque"] = b"y"
        inside, outside = ext4.split_xattrs(xattrs)
        block = self._append(ext4.xattr_block(outside)) if outside else 0
        return ext4.inode(
            node,
            body=body,
            blocks=contents + self._next - before,
            xattrs=inside,
            xattr_block=block,
        )

    def _own(self, node: Node, blocks: bytes) -> None:
        count = len(blocks) // BLOCK
        node.extents = list(_joined([Extent(0, self._append(blocks), count)]))

    def _body(self, node: Node) -> bytes:
        """Return i_block; writes the blocks of an extent tree too large for it."""
        if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            return ext4.device_body(*node.device)
        if stat.S_ISFIFO(node.mode):
            return bytes(60)
        if stat.S_ISLNK(node.mode) and not node.extents:
            return node.target.ljust(60, b"\0")
        if len(node.extents) <= ext4.ROOT_EXTENTS:
            return ext4.extent_root(node.extents)
        depth = 1
        level = [
            (part[0].logical, self._append(ext4.extent_leaf(part)))
            for part in _parts(node.extents)
        ]
        while len(level) > ext4.ROOT_EXTENTS:
            level = [
                (part[0][0], self._append(ext4.extent_index(part, depth)))
                for part in _parts(level)
            ]
            depth += 1
        return ext4.extent_index_root(level, depth)

    def _seal(
        self, used: list[_Run], table: bytearray, folders: Iterable[int], uuid: bytes
    ) -> int:
        """Write bitmaps, inode tables, descriptors and superblock; pad; return the size."""
        inodes = len(table) // INODE
        groups, per_group = _geometry(self._next, inodes)
        table_blocks = per_group // _INODES_PER_BLOCK
        # The bitmaps of all groups in pairs, then their inode tables as one long one.
        bitmaps = self._take(groups * (2 + table_blocks))
        used += [(0, 1 + -(-groups * ext4.GROUP // BLOCK)), (bitmaps, self._next - bitmaps)]
        blocks = max(self._next, (groups - 1) * BLOCKS_PER_GROUP + 1)
        # A group is a multiple of the alignment, so this makes no new one.
        size = -(-blocks * BLOCK // ALIGNMENT) * ALIGNMENT
        blocks = size // BLOCK
        block_map = _bitmap(groups, [*used, (blocks, groups * BLOCKS_PER_GROUP - blocks)])
        in_group = Counter((number - 1) // per_group for number in folders)
        descriptors = b""
        free_blocks = 0
        for number in range(groups):
            here = block_map[number * BLOCK : (number + 1) * BLOCK]
            taken = min(max(inodes - number * per_group, 0), per_group)
            free = BLOCKS_PER_GROUP - int.from_bytes(here, "little").bit_count()
            free_blocks += free
            self._file.write(here)
            self._file.write(_inode_bitmap(taken, per_group))
            descriptors += ext4.group(
                bitmaps=(bitmaps + 2 * number, bitmaps + 2 * number + 1),
                table=bitmaps + 2 * groups + number * table_blocks,
                free=(free, per_group - taken),
                folders=in_group[number],
            )
        self._file.write(table)
        self._file.truncate(size)
        self._file.seek(1024)
        self._file.write(
            ext4.superblock(
                blocks=blocks,
                free_blocks=free_blocks,
                inodes=groups * per_group,
                free_inodes=groups * per_group - inodes,
                per_group=per_group,
                uuid=uuid,
            )
        )
        self._file.seek(BLOCK)
        self._file.write(descriptors)
        self._file.flush()
        return size


class _Chunks:
    """Cut a row of chunks into lengths of our own."""

    def __init__(self, data: Iterable[bytes]) -> None:
        self._data = iter(data)
        self._rest = memoryview(b"")

    def copy(self, length: int, file: BinaryIO) -> None:
        """Write the next length bytes to a file."""
        while length:
            if not self._rest:
                self._rest = memoryview(next(self._data))
            part, self._rest = self._rest[:length], self._rest[length:]
            file.write(part)
            length -= len(part)


def _numbered(root: Node) -> list[tuple[Node, Node, bytes]]:
    """Give out inode numbers and link counts; return each node once, with a parent and a name.

    Raises:
        Ext4Error: a file has more names than ext4 can count.
    """
    root.number, root.links = ext4.ROOT_INODE, 2
    found = [(root, root, b"/")]
    todo = [root]
    while todo:
        parent = todo.pop()
        for name, node in sorted((parent.children or {}).items()):
            if not node.number:
                node.number = ext4.FIRST_INODE + len(found) - 1
                found.append((node, parent, name))
            if node.children is not None:
                parent.links += 1
                node.links = 2
                todo.append(node)
            else:
                node.links += 1
    for node, _, name in found:
        if node.links > ext4.MAX_LINKS:
            if node.children is None:
                raise Ext4Error(f"entry {name!r}: file with {node.links} names")
            # With dir_nlink, 1 says "too many subfolders to count".
            node.links = 1
    return found


def _entries(node: Node, parent: Node) -> Iterator[tuple[bytes, Node]]:
    yield b".", node
    yield b"..", parent
    yield from sorted((node.children or {}).items())


def _joined(runs: Iterable[Extent]) -> Iterator[Extent]:
    """Merge runs that continue one another, then cut what is too long for one extent."""
    merged: list[Extent] = []
    for run in runs:
        last = merged[-1] if merged else Extent(0, 0, 0)
        ends = (last.logical + last.count, last.physical + last.count)
        if last.count and ends == (run.logical, run.physical):
            merged[-1] = Extent(last.logical, last.physical, last.count + run.count)
        else:
            merged.append(run)
    for run in merged:
        for done in range(0, run.count, ext4.MAX_EXTENT_BLOCKS):
            count = min(run.count - done, ext4.MAX_EXTENT_BLOCKS)
            yield Extent(run.logical + done, run.physical + done, count)


def _parts(row: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Cut a row into what one block of an extent tree holds."""
    for start in range(0, len(row), ext4.LEAF_EXTENTS):
        yield row[start : start + ext4.LEAF_EXTENTS]


def _geometry(blocks: int, inodes: int) -> tuple[int, int]:
    """Return how many groups are needed, and inodes in each, for what is written so far."""
    groups = 1
    while True:
        per_group = -(-inodes // (groups * _INODES_PER_BLOCK)) * _INODES_PER_BLOCK
        whole = blocks + groups * (2 + per_group // _INODES_PER_BLOCK)
        needed = max(-(-whole // BLOCKS_PER_GROUP), -(-inodes // _MAX_INODES_PER_GROUP))
        if needed <= groups:
            return groups, per_group
        groups = needed


def _bitmap(groups: int, runs: Iterable[_Run]) -> bytearray:
    """Return the block bitmaps of all groups in a row, with the runs' bits set."""
    bits = bytearray(groups * BLOCK)
    for start, count in runs:
        end = start + count
        first, last = -(-start // 8), end // 8
        if first < last:
            bits[first:last] = b"\xff" * (last - first)
        for bit in (*range(start, min(first * 8, end)), *range(max(last * 8, start), end)):
            bits[bit // 8] |= 1 << bit % 8
    return bits


def _inode_bitmap(taken: int, per_group: int) -> bytes:
    """Return a group's inode bitmap; bits past its inodes are set, as mke2fs sets them."""
    value = (1 << taken) - 1 | (1 << BLOCK * 8) - (1 << per_group)
    return value.to_bytes(BLOCK, "little")
