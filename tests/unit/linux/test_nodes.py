"""What a path of /dev stands for, and which nodes a device has."""

import errno
from pathlib import Path

import pytest

from gcs.linux import nodes
from gcs.linux.nodes import DeviceNode

NULL = DeviceNode("/dev/null", "c", 1, 3, 0, 0)


def test_a_node_is_what_the_kernel_says() -> None:
    """The null device has the same numbers everywhere."""
    assert nodes.look("/dev/null") == NULL


@pytest.mark.parametrize(("path", "number"), [("/nope", errno.ENOENT), ("/dev", errno.ENODEV)])
def test_what_is_no_device_is_refused(path: str, number: int) -> None:
    """Missing, or a folder."""
    with pytest.raises(OSError, match=path) as caught:
        nodes.look(path)
    assert caught.value.errno == number


def test_a_link_to_a_device_is_none(tmp_path: Path) -> None:
    """It would be another's name in the container."""
    (tmp_path / "link").symlink_to("/dev/null")
    with pytest.raises(OSError, match="is no device"):
        nodes.look(str(tmp_path / "link"))


def test_everything_in_dev_is_found_once() -> None:
    """Terminals, shared memory and the console are other file systems'."""
    found = [node.path for node in nodes.everything()]
    assert "/dev/null" in found
    assert found == sorted(set(found))
    assert not [path for path in found if path.startswith(("/dev/pts/", "/dev/shm/"))]
    assert "/dev/console" not in found


@pytest.mark.parametrize("target", ["/dev/null", "/nope", "/dev"])
def test_a_block_device_is_reached_by_a_link_only(tmp_path: Path, target: str) -> None:
    """A character device, nothing, and a folder are none; nor is a path without a link."""
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(OSError, match=r"link|nope"):
        nodes.resolve_link(str(link))
    with pytest.raises(OSError, match="no symbolic link"):
        nodes.resolve_link("/dev/null")


def test_nodes_of_a_device_are_told_by_sysfs(tmp_path: Path) -> None:
    """Only those whose device is at or below its folder, not beside it."""
    device = tmp_path / "devices/pci0000:00/0000:00:05.0"
    beside = tmp_path / "devices/pci0000:00/0000:00:05.01"
    for folder in (device / "drm/card0", beside / "drm/card1"):
        folder.mkdir(parents=True)
    (tmp_path / "dev/char").mkdir(parents=True)
    (tmp_path / "dev/block").mkdir()
    (tmp_path / "dev/char/226:0").symlink_to(device / "drm/card0")
    (tmp_path / "dev/char/226:1").symlink_to(beside / "drm/card1")
    (tmp_path / "dev/block/259:0").symlink_to(device)
    card, other = (DeviceNode(f"/dev/c{n}", "c", 226, n, 0, 0) for n in range(2))
    disk = DeviceNode("/dev/nvme0", "b", 259, 0, 0, 0)
    found = nodes.behind(str(device), (card, other, disk, NULL), tmp_path)
    assert found == (card, disk)
