"""A copy of a container's output in a file of its pod, bounded.

The file grows to half of the limit; then it becomes `NAME.1`, in place of the one before, and a
new one is begun. So the newest output is always there. What goes with an old file, or can't be
written, is counted as lost: a full disk stops neither the container nor what the host reads.

The folder belongs to containers: no link in it is followed, and nothing in it is believed.
"""

import logging
import os
import posixpath
from contextlib import suppress

import trio

from gcs.guest.log import fields
from gcs.linux import confined

__all__ = ["TeeLog"]

_log = logging.getLogger("gcs.tee")

#: Of one container's output, in both files: a folder of logs may be in memory, and a VM may
#: have 64 MiB of it and several containers.
_MAX_BYTES = 4 * 1024 * 1024
#: For any user of any container in the pod, as other agents make them.
_MODE = 0o777
_FILE_MODE = 0o666


class TeeLog:
    """The file that both output streams of an init are copied to, each chunk as a whole."""

    def __init__(self, top: str, relative: str, descriptor: int) -> None:
        #: the folder that is trusted, and a path below it
        self._top, self._relative = top, relative
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._writing = trio.Lock()
        #: bytes of output that are in neither file any more
        self.lost = 0

    @classmethod
    def open(cls, top: str, relative: str) -> "TeeLog":
        """Open the file to append to, made if need be with the folders on the way to it.

        Raises OSError, also when a link is on the way.
        """
        confined.make_folders(top, posixpath.dirname(relative), _MODE)
        return cls(top, relative, _open(top, relative))

    async def append(self, data: bytes, threads: trio.CapacityLimiter | None) -> None:
        """Write a chunk of output behind all others; a failure only counts it as lost."""
        async with self._writing:
            await trio.to_thread.run_sync(self._append, data, limiter=threads)

    def _append(self, data: bytes) -> None:
        try:
            if self._size + len(data) > _MAX_BYTES // 2:
                self._begin_anew()
            while data:
                written = os.write(self._descriptor, data)
                self._size += written
                data = data[written:]
        except OSError as error:
            if not self.lost:
                members = fields(log=self._relative, error=str(error))
                _log.warning("output could not be logged", extra=members)
            self.lost += len(data)

    def _begin_anew(self) -> None:
        folder, _, name = self._relative.rpartition("/")
        with confined.opened(self._top, folder) as descriptor:
            with suppress(FileNotFoundError):
                self.lost += _size_of(f"{name}.1", descriptor)
                os.unlink(f"{name}.1", dir_fd=descriptor)
            with suppress(FileNotFoundError):  # a container has removed it
                os.rename(name, f"{name}.1", src_dir_fd=descriptor, dst_dir_fd=descriptor)
        fresh = _open(self._top, self._relative)
        os.close(self._descriptor)
        self._descriptor, self._size = fresh, os.fstat(fresh).st_size

    def close(self) -> None:
        """Close the file, and say how much is missing."""
        if self.lost:
            members = fields(log=self._relative, bytes=self.lost)
            _log.warning("output is missing in a log", extra=members)
        os.close(self._descriptor)


def _open(top: str, relative: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    return confined.open_file(top, relative, flags, _FILE_MODE)


def _size_of(name: str, folder: int) -> int:
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
