"""Each test of the kernel floor has a mount namespace of its own, and a tmpfs to work in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gcs.linux import syscall
from tests.support.namespace import private_mounts


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return an empty folder on a tmpfs that only this test sees."""
    with private_mounts():
        syscall.mount("tmpfs", str(tmp_path), "tmpfs")
        yield tmp_path
