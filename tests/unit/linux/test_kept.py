"""Files that are kept open, read again and again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gcs.linux.kept import KeptFiles


@pytest.fixture
def kept() -> Iterator[KeptFiles]:
    """Return the files, closed afterwards."""
    made = KeptFiles()
    yield made
    made.close()


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def test_what_is_read_is_new_each_time(kept: KeptFiles, tmp_path: Path) -> None:
    """Longer or shorter than before, or of a length that takes several reads."""
    path = tmp_path / "x"
    for content in (b"one", b"seven", b"", b"x" * 40_000, b"two"):
        path.write_bytes(content)
        assert kept.read(str(path)) == content


def test_a_file_of_the_kernel_is_made_anew(kept: KeptFiles) -> None:
    """Its content is that of the moment, and whole."""
    with Path("/proc/self/mounts").open("rb") as other:
        assert kept.read("/proc/self/mounts") == other.read()
    # It counts what this process has read, by this as well.
    assert kept.read("/proc/self/io") != kept.read("/proc/self/io")


def test_one_descriptor_is_had_for_each_file(tmp_path: Path) -> None:
    """However often it is read; what is not there has none; closing gives all of them back."""
    (tmp_path / "x").write_text("1")
    before, kept = descriptors(), KeptFiles()
    for _ in range(50):
        assert kept.read(str(tmp_path / "x")) == b"1"
        assert kept.read(str(tmp_path / "y")) == kept.read(str(tmp_path / "x/y")) == b""
    assert len(descriptors() - before) == 1
    kept.close()
    assert descriptors() - before == set()


def test_a_file_that_was_not_there_may_come(kept: KeptFiles, tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert kept.read(str(path)) == b""
    path.write_text("1")
    assert kept.read(str(path)) == b"1"


def test_a_file_that_can_not_be_read_is_opened_again(kept: KeptFiles, tmp_path: Path) -> None:
    """The error is told once for each read, and leaves no descriptor."""
    path = tmp_path / "x"
    path.mkdir()
    before = descriptors()
    for _ in range(2):
        with pytest.raises(IsADirectoryError):
            kept.read(str(path))
    assert descriptors() - before == set()
    path.rmdir()
    path.write_text("2")
    assert kept.read(str(path)) == b"2"
