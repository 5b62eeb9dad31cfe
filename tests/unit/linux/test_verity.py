"""What is refused before a tree of digests is used; the tree itself is the VM suite's."""

import struct
import subprocess
from pathlib import Path

import pytest

from gcs.linux import verity

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize("block_size", ["1024", "4096"])
def test_the_end_of_a_file_system_is_found(tmp_path: Path, block_size: str) -> None:
    """Whatever its blocks are, and with 64-bit counts or without."""
    for feature in ("64bit", "^64bit"):
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(2 * 1024 * 1024)
        options = ("-q", "-F", "-b", block_size, "-O", feature)
        subprocess.run(["mkfs.ext4", *options, str(image), "1m"], check=True)
        with image.open("rb") as file:
            assert verity._ext4_size(file.fileno(), "x") == 1024 * 1024


@pytest.mark.parametrize("digest", ["", "0" * 63, DIGEST.upper(), f"{DIGEST} x", f"{DIGEST}\n"])
def test_what_is_no_digest_is_refused(tmp_path: Path, digest: str) -> None:
    """It would become a part of the table."""
    with pytest.raises(OSError, match="is not of SHA-256"):
        verity.create("name", str(tmp_path / "none"), digest)


@pytest.mark.parametrize("size", [0, 1500, 8192])
def test_a_device_without_a_file_system_is_refused(tmp_path: Path, size: int) -> None:
    """However short it is."""
    (tmp_path / "device").write_bytes(bytes(size))
    with pytest.raises(OSError, match="device: no ext4 whose digests could follow it"):
        verity.create("name", str(tmp_path / "device"), DIGEST)


@pytest.mark.parametrize(
    "change",
    [
        {"signature": b"verify"},
        {"version": 2},
        {"kind": 0},
        {"algorithm": b"sha1"},
        {"block": 512},
        {"blocks": 1},
        {"length": 257},
    ],
    ids=str,
)
def test_another_tree_than_the_table_says_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    """Every number of the superblock is as the tree is read, or nothing is made."""
    members: dict[str, object] = {
        "signature": b"verity\0\0",
        "version": 1,
        "kind": 1,
        "uuid": b"",
        "algorithm": b"sha256",
        "block": 4096,
        "hash": 4096,
        "blocks": 2,
        "length": 2,
        "salt": b"\1\2",
    }
    device = tmp_path / "device"
    good = struct.pack("<8sII16s32sIIQH6x256s", *members.values())
    device.write_bytes(bytes(8192) + good)
    with device.open("rb") as file:
        assert verity._salt(file.fileno(), "x", 8192) == "0102"
    bad = struct.pack("<8sII16s32sIIQH6x256s", *(members | change).values())
    device.write_bytes(bytes(8192) + bad)
    with device.open("rb") as file, pytest.raises(OSError, match="no dm-verity tree"):
        verity._salt(file.fileno(), "x", 8192)
