"""Folders whose mounts show up wherever the folder is mounted as well.

A pod's folders are bound onto themselves, because only a mount can be shared. What one
container then mounts below it, the others see.

Source: Documentation/filesystems/sharedsubtree.rst; hugetlbfs in
Documentation/admin-guide/mm/hugetlbpage.rst.
Needs: CONFIG_TMPFS, CONFIG_HUGETLBFS, CAP_SYS_ADMIN
"""

import os
from contextlib import ExitStack

from gcs.linux import mounts, syscall
from gcs.linux.abi import MountFlag

__all__ = ["bind", "mount", "mount_hugepages", "mount_tmpfs", "unbind", "unmount_below"]


def mount(target: str) -> None:
    """Bind a folder onto itself and share its mounts. Leaves no mount when that fails."""
    with ExitStack() as undo:
        syscall.mount(target, target, None, MountFlag.BIND)
        undo.callback(syscall.umount, target)
        syscall.mount("none", target, None, MountFlag.SHARED | MountFlag.REC)
        undo.pop_all()


def bind(descriptor: int, target: str) -> None:
    """Mount what a descriptor stands for, wherever its path leads by now."""
    source = f"/proc/self/fd/{descriptor}"
    syscall.mount(source, target, None, MountFlag.BIND | MountFlag.REC)


def unbind(target: str) -> None:
    """Take a bind mount off with all that came along in it, and nothing of its source.

    What is unmounted in one of two that share their mounts goes in the other as well; so this
    one stops sharing first. What was bound from it goes on.
    """
    syscall.mount("none", target, None, MountFlag.PRIVATE | MountFlag.REC)
    unmount_below(target)


def mount_tmpfs(target: str, mode: int) -> None:
    """Mount an empty file system in memory."""
    syscall.mount("tmpfs", target, "tmpfs", MountFlag(0), f"mode={mode:o}")


def mount_hugepages(target: str, page_size: str) -> None:
    """Mount a file system of huge pages. Raises EINVAL for a size that the machine lacks."""
    syscall.mount("none", target, "hugetlbfs", MountFlag(0), f"pagesize={page_size}")


def unmount_below(path: str) -> None:
    """Take off all mounts at and below a path, the last one first."""
    for found in mounts.below(os.path.realpath(path)):
        syscall.umount(found.target)
