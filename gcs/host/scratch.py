"""The scratch disk of a VM: an open file without a name, so it can't be left behind.

Needs nothing of the kernel but a file system that knows O_TMPFILE; elsewhere the file has a
name for a moment.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["open_scratch"]

#: What a container may write to its root. The file is sparse: only what is written takes room.
_SIZE = 16 * 1024**3


@contextmanager
def open_scratch() -> Iterator[int]:
    """Make an empty, sparse file for the length of the block and give its descriptor."""
    # Not /tmp, which may be in memory.
    folder = Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - no name, no race
    fd = _open_nameless(folder)
    try:
        os.ftruncate(fd, _SIZE)
        yield fd
    finally:
        os.close(fd)


def _open_nameless(folder: Path) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    fd, name = tempfile.mkstemp(dir=folder, prefix="gcs-scratch-")
    Path(name).unlink()
    return fd
