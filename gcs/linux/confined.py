"""Files and folders below a folder that containers write to, no link of theirs followed.

Each name on the way is opened below the one before it, so that `..` and symbolic links lead
nowhere. Only the folder at the top is trusted, with the way to it.

Source: openat(2), mkdirat(2), path_resolution(7).
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["make_folders", "open_file", "opened", "pinned"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _names(relative: str) -> list[str]:
    """Return the names of a path. Raises EINVAL for one that is none."""
    names = [name for name in relative.split("/") if name not in ("", ".")]
    if ".." in names or "\0" in relative:
        raise OSError(errno.EINVAL, f"{relative!r}: not a path below a folder")
    return names


def make_folders(top: str, relative: str, mode: int) -> tuple[str, ...]:
    """Make a folder and those on the way to it that are missing; return which were made.

    What is there already stays as it is; the last name may be a file. Raises ENOTDIR or ELOOP
    when a symbolic link is on the way; then nothing that was made stays.

    Shape: the folder nearest to the top comes first.
    """
    names, made = _names(relative), list[str]()
    try:
        with _folder(top) as folder:
            _descend(folder, top, names, mode, made)
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):  # another container may have put something there
                os.rmdir(path)  # noqa: PTH106 - a string, as they came
        raise
    return tuple(made)


def _descend(folder: int, path: str, names: list[str], mode: int, made: list[str]) -> None:
    """Go down the names, making what is missing; `made` grows with each."""
    for index, name in enumerate(names):
        path = f"{path}/{name}"
        is_new = _make(folder, name, path)
        if is_new:
            made.append(path)
        elif index == len(names) - 1:
            _refuse_link(folder, name, path)
            return
        inner = _open(folder, name, path, _FOLDER)
        os.dup2(inner, folder, inheritable=False)
        os.close(inner)
        if is_new:
            os.fchmod(folder, mode)  # whatever the umask says


@contextmanager
def _folder(path: str) -> Iterator[int]:
    descriptor = os.open(path, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make(folder: int, name: str, path: str) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        return False
    except OSError as error:
        raise _named(error, "mkdir", path) from error
    return True


def _refuse_link(folder: int, name: str, path: str) -> None:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, f"{path}: is a symbolic link")


def _open(folder: int, name: str, path: str, flags: int, mode: int = 0) -> int:
    try:
        return os.open(name, flags, mode, dir_fd=folder)
    except OSError as error:
        raise _named(error, "open", path) from error


def _named(error: OSError, call: str, path: str) -> OSError:
    number = error.errno or errno.EIO
    return OSError(number, f"{call} {path}: {os.strerror(number)}")


@contextmanager
def opened(top: str, relative: str) -> Iterator[int]:
    """Open a folder below a folder. Raises ENOTDIR when a symbolic link is on the way."""
    with _folder(top) as folder:
        path = top
        for name in _names(relative):
            path = f"{path}/{name}"
            inner = _open(folder, name, path, _FOLDER)
            os.dup2(inner, folder, inheritable=False)
            os.close(inner)
        yield folder


@contextmanager
def pinned(top: str, relative: str) -> Iterator[int]:
    """Hold whatever is at a path below a folder, by a descriptor that only names it.

    Raises ELOOP when it is a symbolic link, ENOTDIR when one is on the way.
    """
    *folders, name = _names(relative) or ["."]
    path = f"{top}/{relative}"
    with opened(top, "/".join(folders)) as folder:
        descriptor = _open(folder, name, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISLNK(os.fstat(descriptor).st_mode):
            raise OSError(errno.ELOOP, f"{path}: is a symbolic link")
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(top: str, relative: str, flags: int, mode: int) -> int:
    """Open a file below a folder, its own folder there already; return the descriptor.

    Raises ELOOP when it is a symbolic link, ENOTDIR when one is on the way, EINVAL when it is
    no regular file. One that is made gets its mode whatever the umask says.
    """
    path = f"{top}/{relative}"
    *folders, name = _names(relative) or [""]
    if not name:
        raise OSError(errno.EINVAL, f"{path}: not a path below a folder")
    with opened(top, "/".join(folders)) as folder:
        # Not blocking: a FIFO without a reader would hold the agent.
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = _open(folder, name, path, flags, mode)
    try:
        _settle(descriptor, path, flags, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _settle(descriptor: int, path: str, flags: int, mode: int) -> None:
    """Refuse what is no file, and set the mode of one that is new."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"{path}: is no regular file")
    if flags & os.O_CREAT and status.st_size == 0 and status.st_uid == os.geteuid():
        os.fchmod(descriptor, mode)
