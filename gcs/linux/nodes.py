"""Device nodes: what a path of /dev stands for, and which nodes a device has.

Nodes are looked at, never made or opened.

Source: mknod(2), sysfs(5); Documentation/admin-guide/devices.rst.
Needs: CONFIG_DEVTMPFS
"""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DeviceNode", "behind", "everything", "look", "resolve_link"]

#: What is no device of its own but a file system mounted in /dev, or a view of a process.
_NO_DEVICES = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device as an OCI spec describes it."""

    path: str
    #: "c" or "b"
    kind: str
    major: int
    minor: int
    uid: int
    gid: int


def look(path: str) -> DeviceNode:
    """Return the node at a path, links not followed. Raises ENOENT, or ENODEV for others."""
    node = _node(path)
    if node is None:
        raise OSError(errno.ENODEV, f"{path}: is no device")
    return node


def _node(path: str) -> DeviceNode | None:
    status = os.lstat(path)
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    number = status.st_rdev
    if kind is None or number == 0:  # 0:0 marks a removed file of an overlay
        return None
    return DeviceNode(
        path, kind, os.major(number), os.minor(number), status.st_uid, status.st_gid
    )


def everything(top: str = "/dev") -> tuple[DeviceNode, ...]:
    """Return all device nodes below a folder, but for the console and other file systems'."""
    found, pending = list[DeviceNode](), [top]
    while pending:
        for entry in sorted(os.scandir(pending.pop()), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _NO_DEVICES:
                    pending.append(entry.path)
            elif entry.name != "console" and (node := _node_if_there(entry.path)):
                found.append(node)
    return tuple(sorted(found, key=lambda node: node.path))


def _node_if_there(path: str) -> DeviceNode | None:
    try:
        return _node(path)
    except FileNotFoundError:  # unplugged since it was listed
        return None


def resolve_link(path: str) -> DeviceNode:
    """Return the block device that a symbolic link leads to.

    Raises EINVAL when the path is no link, ENOENT, or ENOTBLK when it leads to anything else.
    """
    if not stat.S_ISLNK(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, f"{path}: is no symbolic link to a block device")
    target = os.path.realpath(path)
    node = _node(target)
    if node is None or node.kind != "b":
        raise OSError(errno.ENOTBLK, f"{path}: leads to {target}, which is no block device")
    return node


def behind(
    device: str, nodes: tuple[DeviceNode, ...], sysfs: Path = Path("/sys")
) -> tuple[DeviceNode, ...]:
    """Return those of the nodes whose device is at or below a folder of sysfs."""
    top = os.path.realpath(device)
    kinds = {"c": "char", "b": "block"}
    found = []
    for node in nodes:
        entry = sysfs / "dev" / kinds[node.kind] / f"{node.major}:{node.minor}"
        place = os.path.realpath(entry)
        if entry.exists() and (place == top or place.startswith(f"{top}/")):
            found.append(node)
    return tuple(found)
