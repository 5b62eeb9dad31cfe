"""What is said of a file system that can't be mounted, and that nothing is of a good one."""

import subprocess
from pathlib import Path

import pytest

from gcs.linux import ext4


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return a file with an ext4 of 2 MiB."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(2 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", str(path)], check=True)
    return path


def test_a_good_one_is_nothing_to_complain_of(image: Path) -> None:
    """Nor is one with room behind it."""
    assert ext4.complaint(str(image)) == ""
    with image.open("ab") as file:
        file.write(bytes(4096))
    assert ext4.complaint(str(image)) == ""


@pytest.mark.parametrize("size", [0, 1000, 1500])
def test_what_has_no_superblock_is_said_to_have_none(tmp_path: Path, size: int) -> None:
    """However short it is."""
    path = tmp_path / "short"
    path.write_bytes(bytes(size))
    assert ext4.complaint(str(path)) == "it has no superblock of ext4"


def test_a_truncated_one_is_said_to_be_that(image: Path) -> None:
    """With what it should have, and what is there."""
    with image.open("r+b") as file:
        file.truncate(1024 * 1024)
    said = "its file system has 2097152 bytes, and the device only 1048576"
    assert ext4.complaint(str(image)) == said


def test_the_reason_is_added_to_the_error(tmp_path: Path, image: Path) -> None:
    """And only when there is one."""
    with pytest.raises(OSError, match="broken") as caught, ext4.explained(str(image)):
        raise OSError("broken")
    assert not hasattr(caught.value, "__notes__")
    missing = str(tmp_path / "none")
    with pytest.raises(OSError, match="broken") as caught, ext4.explained(missing):
        raise OSError("broken")
    (note,) = caught.value.__notes__
    assert note == f"{missing}: its superblock can't be read (No such file or directory)"
