"""The DHCP client's descriptors; with a server it is tried in tests/root."""

import errno
import os
from pathlib import Path

import pytest

from gcs.guest import dhcp
from gcs.guest.reaper import Children


async def test_a_script_that_can_not_be_made_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each Add that fails would take one of the agent's for ever."""

    def fail(_name: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", fail)
    with pytest.raises(OSError, match="Too many open files"):
        await dhcp.start(Children(), "nic1", None)
    before = _open_files()
    for _ in range(10):
        with pytest.raises(OSError, match="Too many open files"):
            await dhcp.start(Children(), "nic1", None)
    assert _open_files() < before + 10


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
