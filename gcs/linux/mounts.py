"""The mount table, and taking mounts off without deleting what lies below them.

Source: proc_pid_mountinfo(5); umount2(2).
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from gcs.linux import syscall
from gcs.linux.undo import Undo, on_failure

__all__ = [
    "Mount",
    "at",
    "below",
    "make_target",
    "mounting",
    "parse",
    "read",
    "remove_target",
    "topmost",
    "unmount",
]

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    mount_id: int
    target: str
    #: options of the mount point (ro, nodev, …)
    options: tuple[str, ...]
    fstype: str
    source: str
    #: options of the file system (dax=always, lowerdir=…)
    super_options: tuple[str, ...]


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _parse_line(line: str) -> Mount:
    left, _, right = line.partition(" - ")
    fields, (fstype, source, super_options) = left.split(" "), right.split(" ")
    return Mount(
        mount_id=int(fields[0]),
        target=_unescape(fields[4]),
        options=tuple(fields[5].split(",")),
        fstype=fstype,
        source=_unescape(source),
        super_options=tuple(map(_unescape, super_options.split(","))),
    )


def parse(mountinfo: str) -> tuple[Mount, ...]:
    """Read the text of a mountinfo file, oldest mount first as the kernel lists them."""
    # Not splitlines(): only "\n" ends a line, all else may be part of a path.
    return tuple(_parse_line(line) for line in mountinfo.split("\n") if line)


def read() -> tuple[Mount, ...]:
    """Return the mounts of this process's mount namespace."""
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return parse(text)


def at(target: str) -> tuple[Mount, ...]:
    """Return what is mounted exactly at the target, lowest first."""
    return tuple(mount for mount in read() if mount.target == target)


def below(path: str) -> tuple[Mount, ...]:
    """Return what is mounted at or below the path, the last mounted first."""
    prefix = path.rstrip("/") + "/"
    found = [m for m in read() if m.target == path or m.target.startswith(prefix)]
    return tuple(reversed(found))


def topmost(target: str) -> Mount | None:
    """Return what a path lookup of the target ends on, None if nothing is mounted there."""
    found = at(target)
    return found[-1] if found else None


@contextmanager
def mounting(
    target: str, mode: int, outer: Undo | None = None, *, is_file: bool = False
) -> Iterator[Undo]:
    """Make the target for a block that mounts something on it.

    What is a file itself is mounted on an empty file, which must not be there yet.

    When the block fails the target goes again, with the folders that were made on the way. When
    it does not, `outer` can still undo all of it, as in all that mounts something.
    """
    with on_failure(outer) as undo:
        if is_file:
            _make_file(target, mode, undo)
        else:
            make_target(target, mode, undo)
        yield undo


def _make_file(target: str, mode: int, undo: Undo) -> None:
    make_target(str(Path(target).parent), mode, undo)
    Path(target).touch(0o600, exist_ok=False)
    undo.add(remove_target, target)


def make_target(target: str, mode: int, undo: Undo) -> None:
    """Make the folder to mount on, parents included; what is there already is left as it is.

    Raises EEXIST when something that is no folder is there.
    """
    path = Path(target)
    missing = list(takewhile(lambda folder: not folder.is_dir(), (path, *path.parents)))
    for folder in reversed(missing):
        # Only the last name is the agent's alone: others may have a folder of theirs beside it.
        try:
            folder.mkdir(mode=mode if folder == path else 0o777)
        except FileExistsError:
            if not folder.is_dir():  # else another call was faster
                raise
        else:
            undo.add(remove_target, str(folder))


def remove_target(target: str) -> bool:
    """Remove an empty folder, or an empty file; return whether it is gone.

    What is in it, or mounted on it, is somebody else's, and the folder stays with it.
    """
    try:
        if _is_empty_file(target):
            os.unlink(target)  # noqa: PTH108 - the error names the path either way
        else:
            os.rmdir(target)  # noqa: PTH106 - as above
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
            raise
        return False
    return True


def _is_empty_file(target: str) -> bool:
    status = os.lstat(target)
    return stat.S_ISREG(status.st_mode) and not status.st_size


def unmount(target: str, mount_id: int | None = None) -> bool:
    """Take off the one mount at the target; return whether the folder is gone too.

    It is removed when it is empty. A target that is not there is done, and so is a mount of
    that number that is not. Raises EBUSY when the mount is in use or another one hides it,
    EINVAL when no number is given and nothing is mounted there: nothing is deleted then.
    """
    if mount_id is not None and not _is_uppermost(target, mount_id):
        return remove_target(target)
    try:
        syscall.umount(target)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return True
        raise
    return remove_target(target)


def _is_uppermost(target: str, mount_id: int) -> bool:
    """Tell whether a mount is the one that umount2(2) takes off; False when it is gone."""
    found = [mount.mount_id for mount in at(target)]
    if mount_id in found[:-1]:
        raise OSError(errno.EBUSY, f"umount2 {target}: something else is mounted on top of it")
    return mount_id in found
