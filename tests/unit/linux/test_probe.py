"""What is on a disk: by name, and whether that is nothing."""

import subprocess
from pathlib import Path

import pytest

from gcs.linux import probe


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a file of 8 MiB of zeros."""
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(8 * 1024 * 1024)
    return path


def test_ext4_is_recognised(disk: Path) -> None:
    """As mkfs makes it."""
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    assert probe.identify(str(disk)) == "ext4"
    assert not probe.is_blank(str(disk))


@pytest.mark.parametrize(("name", "offset", "magic"), probe._MAGIC)
def test_what_is_on_a_disk_is_told_by_its_magic(
    disk: Path, name: str, offset: int, magic: bytes
) -> None:
    """Each file system, partition table and container; none of them counts as blank."""
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(magic)
    assert probe.identify(str(disk)) == name
    assert not probe.is_blank(str(disk))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("swap", ["mkswap"]),
        ("ext4", ["mkfs.ext2", "-q"]),
    ],
)
def test_what_programs_make_is_recognised(disk: Path, name: str, command: list[str]) -> None:
    """Not only the magic alone."""
    subprocess.run([*command, str(disk)], check=True, capture_output=True)
    assert probe.identify(str(disk)) == name


def test_zeros_are_blank_and_no_file_system(disk: Path) -> None:
    """What may be formatted."""
    assert probe.identify(str(disk)) == ""
    assert probe.is_blank(str(disk))


@pytest.mark.parametrize(
    "offset",
    [0, 510, 512, 0x8001, 0x10040, 1024 * 1024 - 1, -1, -512, -64 * 1024, -128 * 1024],
    ids=lambda offset: f"at {offset}",
)
def test_one_byte_where_a_mark_may_be_is_not_blank(disk: Path, offset: int) -> None:
    """MBR, GPT and its copy, ISO 9660, btrfs, RAID at the end: none of them is overwritten."""
    with disk.open("r+b") as file:
        file.seek(offset, 2 if offset < 0 else 0)
        file.write(b"\1")
    assert probe.identify(str(disk)) == ""
    assert not probe.is_blank(str(disk))


@pytest.mark.parametrize("size", [0, 1, 4096])
def test_a_disk_smaller_than_what_is_looked_at_will_do(tmp_path: Path, size: int) -> None:
    """Its one end is the other."""
    path = tmp_path / "small"
    path.write_bytes(bytes(size))
    assert probe.identify(str(path)) == ""
    assert probe.is_blank(str(path))
    path.write_bytes(bytes(size) + b"\1")
    assert not probe.is_blank(str(path))


def test_a_disk_that_was_blank_can_be_made_blank_again(disk: Path) -> None:
    """After a failure half-way; it keeps its size."""
    with disk.open("r+b") as file:
        file.write(b"LUKS\xba\xbe")
        file.seek(-512, 2)
        file.write(b"EFI PART")
    probe.blank(str(disk))
    assert probe.is_blank(str(disk))
    assert disk.stat().st_size == 8 * 1024 * 1024


@pytest.mark.parametrize("look", [probe.identify, probe.is_blank])
def test_a_disk_that_cannot_be_read_is_an_error(tmp_path: Path, look: object) -> None:
    """Never "nothing known", which would have it formatted."""
    assert callable(look)
    with pytest.raises(FileNotFoundError, match="no-disk"):
        look(str(tmp_path / "no-disk"))
