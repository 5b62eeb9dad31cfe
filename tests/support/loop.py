"""Block devices without a disk: files behind loop devices.

Needs: root, /dev/loop-control.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["attached", "image"]

_SIZE = 16 * 1024 * 1024


def image(path: Path, *, mkfs: tuple[str, ...] = (), size: int = _SIZE) -> Path:
    """Make a file of zeros, and have a program make something on it."""
    with path.open("wb") as file:
        file.truncate(size)
    if mkfs:
        subprocess.run([*mkfs, str(path)], check=True, capture_output=True)
    return path


@contextmanager
def attached(path: Path, *options: str) -> Iterator[str]:
    """Show a file as a block device for the length of the block; give its name.

    Mounts of it in another namespace still hold it: it is let go of with the last.
    """
    command = ["losetup", "--find", "--show", *options, str(path)]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
