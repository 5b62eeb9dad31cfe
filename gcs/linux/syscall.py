"""System calls that the standard library lacks, each a few lines on libc.

Every function raises `OSError(errno, "call object: reason")` and nothing else. No option
parsing, no retries, no undo: those belong to the facility that calls.

A call that mounts or unmounts is announced first, by the audit event `gcs.mount`, as the
standard library announces mkdir and the like: whoever watches sees each step, and can make it
fail.

Source: the man page of the same name in section 2.
"""

import ctypes
import errno
import os
import struct
import sys
from functools import cache

from gcs.linux import abi

__all__ = [
    "adjtime",
    "fsconfig",
    "fsmount",
    "fsopen",
    "mount",
    "move_mount",
    "open_in_root",
    "prctl",
    "setns",
    "statx_attributes",
    "umount",
    "unshare",
]

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
#: linux/openat2.h
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_STATX_BASIC_STATS = 0x7FF
#: sizeof(struct statx), and the offset of its stx_attributes: after two 32-bit words.
_STATX_SIZE, _STATX_ATTRIBUTES = 256, 8


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str, subject: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call} {subject}: {os.strerror(number)}")


def _text(text: str, call: str) -> bytes:
    """Return a C string. Raises EINVAL if it would end before its end."""
    encoded = os.fsencode(text)
    if b"\0" in encoded:
        raise OSError(errno.EINVAL, f"{call} {text!r}: there is a zero byte in it")
    return encoded


def _announce(call: str, subject: str) -> None:
    sys.audit("gcs.mount", call, subject)


def mount(
    source: str,
    target: str,
    fstype: str | None,
    flags: abi.MountFlag = abi.MountFlag(0),  # noqa: B008 - an immutable number
    data: str | None = None,
) -> None:
    """Attach a file system; the parameters are those of the call."""
    subject = f"{fstype or 'bind'} {source} on {target}"
    _announce("mount", subject)
    result: int = _libc().mount(
        _text(source, "mount"),
        _text(target, "mount"),
        None if fstype is None else _text(fstype, "mount"),
        ctypes.c_ulong(flags),
        None if data is None else _text(data, "mount"),
    )
    _check(result, "mount", subject)


def umount(target: str, flags: int = abi.UMOUNT_NOFOLLOW) -> None:
    """Take off the topmost mount at the target."""
    _announce("umount2", target)
    result: int = _libc().umount2(_text(target, "umount2"), flags)
    _check(result, "umount2", target)


def open_in_root(root: str, path: str, flags: int) -> int:
    """Open a file as a process whose root directory is `root` would, and close-on-exec.

    Neither `..` nor links lead out of the root, and links of /proc are not followed at all.

    Source: openat2(2); its number is the same on every architecture.
    """
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = struct.pack(
            "QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
        )
        descriptor: int = _libc().syscall(
            ctypes.c_long(_SYS_OPENAT2),
            folder,
            _text(path, "openat2"),
            how,
            ctypes.c_size_t(len(how)),
        )
        _check(descriptor, "openat2", f"{path} in {root}")
    finally:
        os.close(folder)
    return descriptor


def fsopen(fstype: str) -> int:
    """Begin a mount without the limits of mount(2); return its context's descriptor."""
    _announce("fsopen", fstype)
    result: int = _libc().fsopen(_text(fstype, "fsopen"), abi.FSOPEN_CLOEXEC)
    _check(result, "fsopen", fstype)
    return result


def fsconfig(
    context: int, command: abi.FsConfig, key: str | None = None, value: str | None = None
) -> None:
    """Give a mount's context an option, or have it make the file system."""
    subject = " ".join(filter(None, (command.name.lower(), key, value)))
    _announce("fsconfig", subject)
    result: int = _libc().fsconfig(
        context,
        int(command),
        None if key is None else _text(key, "fsconfig"),
        None if value is None else _text(value, "fsconfig"),
        0,
    )
    _check(result, "fsconfig", subject)


def fsmount(context: int, attributes: int) -> int:
    """Return the descriptor of a mount that is not attached anywhere yet."""
    _announce("fsmount", str(attributes))
    result: int = _libc().fsmount(context, abi.FSMOUNT_CLOEXEC, attributes)
    _check(result, "fsmount", str(attributes))
    return result


def move_mount(mount: int, target: str) -> None:
    """Attach at the target what `fsmount` returned."""
    _announce("move_mount", target)
    result: int = _libc().move_mount(
        mount, b"", _AT_FDCWD, _text(target, "move_mount"), abi.MOVE_MOUNT_F_EMPTY_PATH
    )
    _check(result, "move_mount", target)


def prctl(option: int, argument: int) -> None:
    """Set a process attribute that takes one number."""
    result: int = _libc().prctl(option, ctypes.c_ulong(argument), 0, 0, 0)
    _check(result, "prctl", str(option))


def adjtime(microseconds: int) -> None:
    """Have the kernel run its clock a little faster or slower until so much is made up for."""
    seconds, rest = divmod(microseconds, 1_000_000)
    delta = (ctypes.c_long * 2)(seconds, rest)
    result: int = _libc().adjtime(delta, None)
    _check(result, "adjtime", f"{microseconds} us")


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace of that kind that a descriptor stands for."""
    result: int = _libc().setns(fd, kind)
    _check(result, "setns", f"descriptor {fd}")


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces."""
    result: int = _libc().unshare(flags)
    _check(result, "unshare", f"{flags:#x}")


def tee(source: int, sink: int, count: int, flags: int) -> int:
    """Copy bytes from a pipe to a pipe without taking them; return how many, 0 at the end."""
    while True:
        copied: int = _libc().tee(source, sink, ctypes.c_size_t(count), flags)
        # A signal of ours is no reason to stop; Python's own calls go on in the same way.
        if copied >= 0 or ctypes.get_errno() != errno.EINTR:
            break
    _check(copied, "tee", f"descriptor {source} to {sink}")
    return copied


def statx_attributes(path: str) -> int:
    """Return stx_attributes of a file (STATX_ATTR_…), symbolic links not followed."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    result: int = _libc().statx(
        _AT_FDCWD, _text(path, "statx"), _AT_SYMLINK_NOFOLLOW, _STATX_BASIC_STATS, buffer
    )
    _check(result, "statx", path)
    start = _STATX_ATTRIBUTES
    return int.from_bytes(buffer.raw[start : start + 8], "little")
