"""A file system in memory, of a size that is not exceeded.

What is written to it counts as memory of the cgroup that writes: a limit of that cgroup that is
lower than the size is met first, and by a kill instead of ENOSPC.

Source: Documentation/filesystems/tmpfs.rst.
Needs: CONFIG_TMPFS, CONFIG_TMPFS_XATTR
"""

from gcs.linux import abi, mounts, syscall
from gcs.linux.undo import Undo

__all__ = ["mount"]

_TARGET_MODE = 0o700


def mount(target: str, size: int = 0, outer: Undo | None = None) -> None:
    """Mount an empty one; without a size it is the kernel's choice, half of the memory.

    Makes the target, and removes it again when it fails if it made it.
    """
    data = f"mode={_TARGET_MODE:o}" + (f",size={size}" if size else "")
    with mounts.mounting(target, _TARGET_MODE, outer) as undo:
        syscall.mount("tmpfs", target, "tmpfs", abi.MountFlag(0), data)
        undo.add(syscall.umount, target)
