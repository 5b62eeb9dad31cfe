"""What is left out of a kernel is filler, and all else is where it was."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initramfs.recipes.filler import FILL, LEAST, PAGE, leave_out

HEADER = struct.Struct("<6s10xHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")
LOAD, NOTE, EXECUTABLE, WRITABLE, BOTH = 1, 4, 5, 6, 7
ADDRESS = 0x1000000
#: bytes of a segment that the file does not have
ZEROS = 3 * PAGE


def elf(*segments: tuple[int, int, bytes]) -> bytes:
    """Return a file of segments: kind, flags and content."""
    begin = HEADER.size + SEGMENT.size * len(segments)
    table, content = b"", b""
    for kind, flags, data in segments:
        offset = begin + len(content)
        address = ADDRESS + len(content)
        sizes = (len(data), len(data) + (ZEROS if flags & 2 else 0))
        table += SEGMENT.pack(kind, flags, offset, address, address, *sizes, 0x200000)
        content += data
    counts = (HEADER.size, SEGMENT.size, len(segments), 64, 0, 0)
    header = HEADER.pack(b"\x7fELF\x02\x01", 2, 62, 1, ADDRESS, HEADER.size, 0, 0, *counts)
    return header + table + content


def headers(data: bytes) -> list[tuple[int, ...]]:
    """Return all program headers."""
    offset, count = HEADER.unpack_from(data)[5], HEADER.unpack_from(data)[10]
    return [SEGMENT.unpack_from(data, offset + SEGMENT.size * i) for i in range(count)]


def loaded(data: bytes) -> dict[int, bytes]:
    """Return what a loader writes of the file, by the pages' addresses."""
    memory: dict[int, bytes] = {}
    for kind, _, offset, _, physical, in_file, _, _ in headers(data):
        if kind == LOAD:
            for at in range(0, in_file, PAGE):
                content = data[offset + at : offset + min(at + PAGE, in_file)]
                memory[physical + at] = content
    return memory


def test_filler_is_left_out_and_the_rest_is_where_it_was(tmp_path: Path) -> None:
    """Notes and writable segments are kept as they are, filler or not."""
    filler, code, data = FILL * PAGE * LEAST, b"code" * 1024, FILL * PAGE * 20
    text = code + filler + code + filler[PAGE:] + code + filler
    segments = ((LOAD, EXECUTABLE, text), (NOTE, 4, b"pvh"), (LOAD, WRITABLE, data))
    before = elf(*segments)
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(before)
    assert leave_out(kernel) == 2 * len(filler)
    after = kernel.read_bytes()
    old, new = loaded(before), loaded(after)
    assert len(old) - len(new) == 2 * LEAST
    assert new.items() <= old.items()
    assert {old[address] for address in old.keys() - new.keys()} == {FILL * PAGE}
    assert headers(after)[-2:] == headers(before)[-2:]
    assert leave_out(kernel) == 0


@pytest.mark.parametrize("code", [b"", b"code" * 1024])
def test_zeros_behind_a_segment_s_file_part_stay(tmp_path: Path, code: bytes) -> None:
    """As of the kernel's .bss, which is in a segment with code; also when all else goes."""
    filler = FILL * PAGE * LEAST
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(elf((LOAD, BOTH, filler + code + filler)))
    end = ADDRESS + 2 * len(filler) + len(code)
    assert leave_out(kernel) == 2 * len(filler)
    last = headers(kernel.read_bytes())[-1]
    assert last[3] + last[6] == end + ZEROS
    assert last[5:7] == (0, ZEROS)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 2 * LEAST)), max_size=6),
    st.integers(0, PAGE - 1),
)
def test_any_text_is_loaded_as_before_but_for_filler(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[bool, int]], tail: int
) -> None:
    """However code and filler take turns, and where the last page is not whole."""
    text = b"".join((FILL if is_filler else b"x") * PAGE * pages for is_filler, pages in runs)
    before = elf((LOAD, EXECUTABLE, text + FILL * tail))
    kernel = tmp_path_factory.mktemp("elf") / "vmlinux"
    kernel.write_bytes(before)
    left_out = leave_out(kernel)
    old, new = loaded(before), loaded(kernel.read_bytes())
    assert new.items() <= old.items()
    assert all(old[address] == FILL * PAGE for address in old.keys() - new.keys())
    assert left_out == (len(old) - len(new)) * PAGE


def test_what_is_no_elf_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A bzImage, for one."""
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(b"MZ" + bytes(100))
    with pytest.raises(ValueError, match="bzImage: not an ELF file of 64 bits"):
        leave_out(kernel)
    assert kernel.read_bytes() == b"MZ" + bytes(100)
