"""Control groups, version 2 only.

A cgroup is named by its path below the cgroup file system, with a slash in front. To make,
kill or remove one waits for a mutex of the kernel's that all cgroups have in common.

Source: Documentation/admin-guide/cgroup-v2.rst.
Needs: CONFIG_CGROUPS, CONFIG_MEMCG, CONFIG_CGROUP_PIDS, CONFIG_CGROUP_SCHED, CONFIG_BLK_CGROUP
"""

import errno
import os
import select
from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "ROOT",
    "Watch",
    "add",
    "create",
    "delegate",
    "folder",
    "kill",
    "processes",
    "read",
    "remove",
    "remove_all",
    "write",
]

ROOT = Path("/sys/fs/cgroup")


def folder(cgroup: str) -> Path:
    """Return where a cgroup is in the file system."""
    return ROOT / cgroup.lstrip("/")


#: What a cgroup says that is removed while it is read: its file can't be opened any longer, or
#: was open and has nothing behind it.
_VANISHED = frozenset({errno.ENOENT, errno.ENODEV})


def processes(cgroup: str) -> tuple[int, ...]:
    """Return the pids in a cgroup and below it; one that is missing or vanishes has none."""
    found: list[int] = []
    for path in _tree(cgroup):
        found += _pids(path)
    return tuple(found)


def _tree(cgroup: str) -> list[str]:
    """Return the folders of a cgroup and of those below it, each before those in it."""
    return sorted(path for path, _, _ in os.walk(folder(cgroup)))


def _pids(path: str) -> list[int]:
    try:
        return [int(pid) for pid in Path(path, "cgroup.procs").read_text().split()]
    except OSError as error:
        if error.errno in _VANISHED:
            return []
        raise


def kill(cgroup: str) -> None:
    """Send SIGKILL to every process in a cgroup and below it; a missing cgroup has none."""
    try:
        (folder(cgroup) / "cgroup.kill").write_text("1")
    except OSError as error:
        if error.errno not in _VANISHED:
            raise


#: More than any file of a cgroup but those that grow with processes or devices.
_READ_SIZE = 16 * 1024


def read(cgroup: str, name: str) -> bytes:
    """Return what one of its files has; nothing when there is none, or it has gone.

    Statistics are twenty of these: by the plain calls they take a third of the time.
    """
    try:
        descriptor = os.open(f"{ROOT}/{cgroup.lstrip('/')}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(descriptor, _READ_SIZE):
                parts.append(part)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return b""
    except OSError as error:
        if error.errno == errno.ENODEV:  # the cgroup was removed while it was read
            return b""
        raise
    return b"".join(parts)


def create(cgroup: str) -> None:
    """Make a cgroup, and those above it; one that is there will do."""
    folder(cgroup).mkdir(parents=True, exist_ok=True)


def delegate(cgroup: str) -> None:
    """Let the cgroups below use every controller; from here on it can have no processes."""
    for name in read(cgroup, "cgroup.controllers").decode().split():
        write(cgroup, {"cgroup.subtree_control": f"+{name}"})


def write(cgroup: str, settings: Mapping[str, str]) -> None:
    """Write some of its files, in order. Raises OSError that names the first that failed."""
    for name, text in settings.items():
        path = folder(cgroup) / name
        try:
            # Not created: on a machine without the controller it would be a plain file.
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            number = error.errno or errno.EIO
            raise OSError(number, f"write {text} to {path}: {os.strerror(number)}") from error


def add(cgroup: str, pid: int) -> None:
    """Move a process into a cgroup, with all its threads; 0 is the calling one."""
    write(cgroup, {"cgroup.procs": str(pid)})


class Watch:
    """Becomes readable when the kernel says that a file of a cgroup has changed.

    The file itself always counts as readable; only its urgent condition tells of a change, so
    it is in an epoll of its own.
    """

    def __init__(self, cgroup: str, name: str) -> None:
        """Begin to watch. Raises OSError when there is no such file."""
        self._file = os.open(folder(cgroup) / name, os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.epoll()
        try:
            self._changes.register(self._file, select.EPOLLPRI | select.EPOLLET)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        """Return what to wait for."""
        return self._changes.fileno()

    def clear(self) -> None:
        """Forget the changes so far."""
        self._changes.poll(0)

    def close(self) -> None:
        """Stop watching."""
        self._changes.close()
        os.close(self._file)


def remove(cgroup: str) -> None:
    """Remove a cgroup that has no processes and none below it; a missing one is fine."""
    try:
        folder(cgroup).rmdir()
    except FileNotFoundError:
        return


def remove_all(cgroup: str) -> bool:
    """Kill what is in a cgroup and remove it with those below; return whether it is gone.

    It is not while processes in it are still dying.
    """
    kill(cgroup)
    for path in reversed(_tree(cgroup)):
        try:
            os.rmdir(path)  # noqa: PTH106 - walk's own strings
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
    return True
