"""Read a whole ext4 image into memory, to compare with what was put in, without being root.

It knows only what layer images use. That it reads as the kernel does is itself tested, in
tests/root/host/test_layers.py, on a mounted image.
"""

import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Found", "read_tree"]

_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
}


@dataclass(slots=True)
class Found:
    """What lies at one path."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    links: int
    inode: int
    size: int
    #: Contents of a file, target of a link; big files are cut at 64 MiB.
    content: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)


def read_tree(image: Path) -> dict[bytes, Found]:
    """Return everything in an image by its path, the root as b""."""
    reader = _Reader(image.read_bytes())
    tree: dict[bytes, Found] = {}
    todo = [(b"", 2)]
    while todo:
        path, number = todo.pop()
        found = reader.inode(number)
        tree[path] = found
        if stat.S_ISDIR(found.mode):
            for name, child in reader.names(found.content):
                todo.append((path + b"/" + name if path else name, child))
            found.content = b""
    return tree


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._per_group = int(struct.unpack_from("<I", raw, 1024 + 40)[0])

    def inode(self, number: int) -> Found:
        group, index = divmod(number - 1, self._per_group)
        table = struct.unpack_from("<I", self._raw, 4096 + 32 * group + 8)[0]
        start = table * 4096 + index * 256
        raw = self._raw[start : start + 256]
        mode, uid_low, size_low, _, _, seconds, _, gid_low, links = struct.unpack_from(
            "<HHIIIiIHH", raw
        )
        uid_high, gid_high = struct.unpack_from("<HH", raw, 120)
        size = size_low | struct.unpack_from("<I", raw, 108)[0] << 32
        extra = struct.unpack_from("<I", raw, 128 + 8)[0]
        found = Found(
            mode=mode,
            uid=uid_low | uid_high << 16,
            gid=gid_low | gid_high << 16,
            mtime_ns=(seconds + ((extra & 3) << 32)) * 10**9 + (extra >> 2),
            links=links,
            inode=number,
            size=size,
            xattrs=self._xattrs(raw),
        )
        body = raw[40:100]
        if stat.S_ISLNK(mode) and size < 60:
            found.content = body[:size]
        elif stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            found.content = self._content(body, size)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            old, new = struct.unpack_from("<II", body)
            found.device = (
                (old >> 8, old & 255)
                if old or not new
                else (new >> 8 & 0xFFF, new & 255 | new >> 12 & 0xFFF00)
            )
        return found

    def _block(self, number: int) -> bytes:
        return self._raw[number * 4096 : (number + 1) * 4096]

    def names(self, content: bytes) -> list[tuple[bytes, int]]:
        found = []
        at = 0
        while at < len(content):
            inode, length, size = struct.unpack_from("<IHB", content, at)
            name = content[at + 8 : at + 8 + size]
            if inode and name not in (b".", b".."):
                found.append((name, inode))
            at += length
        return found

    def _content(self, body: bytes, size: int) -> bytes:
        content = bytearray(min(size, 64 << 20))
        for logical, physical, count in self._extents(body):
            start = logical * 4096
            run = self._raw[physical * 4096 : (physical + count) * 4096]
            run = run[: max(len(content) - start, 0)]
            content[start : start + len(run)] = run
        return bytes(content)

    def _extents(self, node: bytes) -> list[tuple[int, int, int]]:
        _, entries, _, depth = struct.unpack_from("<4H", node)
        found = []
        for number in range(entries):
            first, second, third = struct.unpack_from("<III", node, 12 + 12 * number)
            if depth:
                found += self._extents(self._block(second))
            else:
                found.append((first, third, second & 0xFFFF))
        return found

    def _xattrs(self, raw: bytes) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        if raw[160:164] == struct.pack("<I", 0xEA020000):
            found |= _entries(raw[164:], 0)
        block = struct.unpack_from("<I", raw, 104)[0]
        if block:
            found |= _entries(self._block(block), 32)
        return found


def _entries(area: bytes, at: int) -> dict[str, bytes]:
    found = {}
    while area[at : at + 4] != bytes(4):
        length, index, offset, _, size = struct.unpack_from("<BBHII", area, at)
        name = _PREFIXES[index] + area[at + 16 : at + 16 + length].decode(
            "utf-8", "surrogateescape"
        )
        found[name] = area[offset : offset + size]
        at += 16 + (length + 3 & ~3)
    return found
