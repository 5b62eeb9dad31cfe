"""What is on a block device: told by its magic numbers, or that nothing is.

A device that nobody knows anything of is not blank: blank is only what holds zeros wherever
anything known would leave a mark.

Source: the magic numbers of libblkid, in superblocks/*.c and partitions/*.c of util-linux.
"""

import os
from pathlib import Path

__all__ = ["blank", "identify", "is_blank"]

#: What a disk must have of zeros, at its start and at its end, to count as blank. Every file
#: system, partition table, RAID and LUKS header has its magic within the first 128 KiB (btrfs:
#: 64 KiB + 64), and GPT's and RAID's second copies lie in the last 64 KiB.
_BLANK_HEAD, _BLANK_TAIL = 1024 * 1024, 128 * 1024
#: name, offset, magic. The most telling come first: a file system over the partition table that
#: lies in its first sector, which a boot sector looks like.
_MAGIC = (
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("xfs", 0, b"XFSB"),
    ("ext4", 1024 + 56, b"\x53\xef"),
    ("btrfs", 65536 + 64, b"_BHRfS_M"),
    ("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("squashfs", 0, b"hsqs"),
    ("iso9660", 32768 + 1, b"CD001"),
    ("LVM2", 512, b"LABELONE"),
    ("md RAID", 4096, b"\xfc\x4e\x2b\xa9"),
    ("md RAID", 0, b"\xfc\x4e\x2b\xa9"),
    ("swap", 4096 - 10, b"SWAPSPACE2"),
    ("dm-verity", 0, b"verity\0\0"),
    ("bcachefs", 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    ("ntfs", 3, b"NTFS    "),
    ("exfat", 3, b"EXFAT   "),
    ("vfat", 82, b"FAT32   "),
    ("vfat", 54, b"FAT1"),
    ("a GPT partition table", 512, b"EFI PART"),
    ("an MBR partition table", 510, b"\x55\xaa"),
)
_HEAD = 128 * 1024


def identify(source: str) -> str:
    """Return the name of what is on a device, "" if nothing known is.

    ext2 and ext3 are "ext4", whose driver mounts them. Raises OSError if it can't be read.
    """
    with Path(source).open("rb", buffering=0) as device:
        head = _read(device.fileno(), _HEAD, 0)
    for name, offset, magic in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    return ""


def is_blank(source: str) -> bool:
    """Return whether a disk holds zeros where anything known would leave a mark.

    Raises OSError if it can't be read.
    """
    with Path(source).open("rb", buffering=0) as device:
        fd = device.fileno()
        size = os.lseek(fd, 0, os.SEEK_END)
        head = _read(fd, min(size, _BLANK_HEAD), 0)
        tail = _read(fd, min(size, _BLANK_TAIL), max(0, size - _BLANK_TAIL))
    is_whole = len(head) == min(size, _BLANK_HEAD) and len(tail) == min(size, _BLANK_TAIL)
    return is_whole and not any(head) and not any(tail)


def blank(source: str) -> None:
    """Have a disk count as blank again, after a failure to make something of a blank one."""
    with Path(source).open("r+b", buffering=0) as device:
        fd = device.fileno()
        size = os.lseek(fd, 0, os.SEEK_END)
        for length, offset in (
            (min(size, _BLANK_HEAD), 0),
            (min(size, _BLANK_TAIL), max(0, size - _BLANK_TAIL)),
        ):
            os.pwrite(fd, bytes(length), offset)
        os.fsync(fd)


def _read(fd: int, size: int, offset: int) -> bytes:
    """Read up to so many bytes: fewer only at the end of the device."""
    found = b""
    while piece := os.pread(fd, size - len(found), offset + len(found)):
        found += piece
    return found
