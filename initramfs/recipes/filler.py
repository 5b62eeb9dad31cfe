"""Leave out of an ELF kernel the pages that only fill it up.

The linker aligns parts of the kernel's text to 2 MiB (page table isolation), puts two of them
1 MiB apart (speculative return stack overflow), and fills what is between them with int3:
3.7 MiB, which whoever loads the file would copy into the memory of every VM. No segment names
those pages after this. They read as what the memory was before, zeros in a new VM, so that a
jump which goes astray in the kernel and lands there does not trap. bzImage keeps them.

Sections and symbols stay as they were, and so does where everything is; .text is in several
segments now, so that tools which write ELF files anew (strip, objcopy) are not for this one.

Source: elf(5); arch/x86/kernel/vmlinux.lds.S.
"""

import struct
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

__all__ = ["FILL", "LEAST", "PAGE", "leave_out"]

PAGE = 4096
#: int3, one byte long
FILL = b"\xcc"
#: Pages in a row that are left out: less is not worth a segment.
LEAST = 16

_IDENT = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_PT_LOAD, _PF_X = 1, 1
#: e_phoff; e_phentsize and e_phnum
_OFFSET, _OFFSET_AT = struct.Struct("<Q"), 32
_SIZES, _SIZES_AT = struct.Struct("<HH"), 54
_SEGMENT = struct.Struct("<IIQQQQQQ")


class _Segment(NamedTuple):
    """A program header, Elf64_Phdr."""

    kind: int
    flags: int
    offset: int
    virtual: int
    physical: int
    in_file: int
    in_memory: int
    align: int

    def part(self, begin: int, end: int | None) -> "_Segment":
        """Return the bytes from `begin` on; all that are left, those not in the file too."""
        return self._replace(
            offset=self.offset + begin,
            virtual=self.virtual + begin,
            physical=self.physical + begin,
            in_file=(self.in_file if end is None else end) - begin,
            in_memory=(self.in_memory if end is None else end) - begin,
        )


def leave_out(kernel: Path) -> int:
    """Let no segment of an ELF file have pages of filler; return how many bytes those were.

    Raises ValueError, and leaves the file as it was, when it is no ELF file of 64 bits.
    """
    data = bytearray(kernel.read_bytes())
    if not data.startswith(_IDENT):
        raise ValueError(f"{kernel}: not an ELF file of 64 bits")
    (offset,) = _OFFSET.unpack_from(data, _OFFSET_AT)
    size, count = _SIZES.unpack_from(data, _SIZES_AT)
    old = [_Segment(*_SEGMENT.unpack_from(data, offset + size * i)) for i in range(count)]
    new = [part for segment in old for part in _split(segment, data)]
    data += bytes(-len(data) % _OFFSET.size)
    _OFFSET.pack_into(data, _OFFSET_AT, len(data))
    _SIZES.pack_into(data, _SIZES_AT, _SEGMENT.size, len(new))
    for segment in new:
        data += _SEGMENT.pack(*segment)
    kernel.write_bytes(data)
    return sum(one.in_memory for one in old) - sum(one.in_memory for one in new)


def _split(segment: _Segment, data: bytearray) -> Iterator[_Segment]:
    """Yield the parts of a segment that are more than filler."""
    begin = 0
    if segment.kind == _PT_LOAD and segment.flags & _PF_X:
        for first, last in _runs(
            bytes(data[segment.offset : segment.offset + segment.in_file])
        ):
            if first > begin:
                yield segment.part(begin, first)
            begin = last
    if begin < segment.in_memory or not begin:
        yield segment.part(begin, None)


def _runs(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each long run of pages that are filler and nothing else."""
    page, begin = FILL * PAGE, 0
    pages = (content[at : at + PAGE] == page for at in range(0, len(content), PAGE))
    for is_filler, run in groupby(pages):
        length = sum(1 for _ in run)
        if is_filler and length >= LEAST:
            yield begin * PAGE, (begin + length) * PAGE
        begin += length
