"""Files of the kernel that are read again and again, and kept open for that.

To open one takes longer than to read it. This is for those that are there for as long as the
kernel is; what a read returns is as new as it would be of a file just opened.

Source: Documentation/filesystems/seq_file.rst.
"""

import errno
import os

__all__ = ["KeptFiles"]

#: More than any of them has, but those that grow with devices.
_SIZE = 16 * 1024


class KeptFiles:
    """Files by their paths, each opened when it is first asked for."""

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}

    def read(self, path: str) -> bytes:
        """Return what a file has now, nothing when there is none. Raises OSError."""
        try:
            descriptor = self._descriptors[path]
        except KeyError:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                return b""
            self._descriptors[path] = descriptor
        try:
            return _read(descriptor)
        except OSError as error:
            del self._descriptors[path]  # whoever asks next gets one that may have come since
            os.close(descriptor)
            if error.errno == errno.ENODEV:  # the cgroup that it was of has been removed
                return b""
            raise

    def close(self) -> None:
        """Close them all."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()


def _read(descriptor: int) -> bytes:
    """Return all of a file from its beginning, where the kernel makes its content anew."""
    data = part = os.pread(descriptor, _SIZE, 0)
    while part:
        part = os.pread(descriptor, _SIZE, len(data))
        data += part
    return data
