"""Devices are waited for, until they can be used."""

from pathlib import Path

import pytest
import trio

from gcs.errors import DeadlineError
from gcs.guest import devices


async def test_a_device_is_there_with_its_node(tmp_path: Path) -> None:
    """The kernel shows it in sysfs before the node is made."""
    node = tmp_path / "sda"
    looks = 0

    def find() -> str:
        nonlocal looks
        looks += 1
        if looks == 2:
            node.touch()
        return str(node)

    with trio.fail_after(60):
        assert await devices.wait_for_node(find, "disk 0:0") == str(node)
    assert looks == 2


async def test_a_device_without_a_node_is_said_not_to_have_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time that any device is given."""
    monkeypatch.setattr(devices, "_TIMEOUT_S", 0.05)
    with pytest.raises(DeadlineError, match="disk 0:0 did not appear"):
        await devices.wait_for_node(lambda: str(tmp_path / "sda"), "disk 0:0")
