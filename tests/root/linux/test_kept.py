"""Files of a cgroup that are kept open, and the cgroup's end."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcs.linux import cgroup, syscall
from gcs.linux.kept import KeptFiles

pytestmark = pytest.mark.root


@pytest.fixture
def group(folder: Path) -> Iterator[Path]:
    """Return a cgroup of version 2 that nothing is in."""
    assert folder.is_mount()  # so this is not the machine's own namespace
    syscall.mount("cgroup2", str(cgroup.ROOT), "cgroup2")
    path = cgroup.ROOT / f"gcs-test-{os.getpid()}"
    path.mkdir()
    yield path
    path.rmdir()


def test_a_cgroup_that_has_gone_has_nothing_and_keeps_no_descriptor(group: Path) -> None:
    """Another one of its name is read as itself: the first look after the end lets go."""
    kept, path = KeptFiles(), str(group / "cgroup.events")
    before = set(Path("/proc/self/fd").iterdir())
    assert kept.read(path) == b"populated 0\nfrozen 0\n"
    group.rmdir()
    assert kept.read(path) == b""
    assert set(Path("/proc/self/fd").iterdir()) == before
    group.mkdir()
    (group / "cgroup.freeze").write_text("1")
    assert b"populated 0" in kept.read(path)
    (group / "cgroup.freeze").write_text("0")
    kept.close()


def test_a_controller_s_file_that_is_not_there_is_nothing(group: Path) -> None:
    """And stays so, for as long as it is kept: the kernel's controllers do not change."""
    kept = KeptFiles()
    for _ in range(2):
        assert kept.read(str(group / "odd.current")) == b""
    kept.close()
