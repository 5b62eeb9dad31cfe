"""The scratch of a VM, which takes what its containers write: what it may be, and its file.

A file without a name can't be left behind. One that is to be kept has a name, and a lock that
is free when nobody writes to it any more: QEMU has it as well, and so it outlives a service
that is killed. A kept file is never made empty here, and the VM formats it only when it is
blank.

The file is sparse: only what is written takes room. Where there is no more room a disk's writes
fail; persistent memory is mapped, and there the VM is ended.

Needs nothing of the kernel but a file system that knows O_TMPFILE; elsewhere the file has a
name for a moment.
"""

import errno
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gcs.errors import InvalidArgumentError, WrongStateError
from gcs.wire.container_storage import Scratch, ScratchKind

__all__ = ["check", "open_file", "open_scratch", "parse"]

_MIB = 1024**2
_FORM = "scsi|tmpfs|pmem[,size=SIZE][,path=FILE]"
_SIZE = re.compile(r"([0-9]{1,9})([MGT])(?:i?B)?", re.IGNORECASE)
_UNITS = {"M": 1, "G": 1024, "T": 1024**2}
#: What a container may write to its root when nobody says how much, in MiB; 0 is half of the
#: VM's memory.
_DEFAULT = {ScratchKind.SCSI: 16 * 1024, ScratchKind.TMPFS: 0, ScratchKind.PMEM: 512}
#: An ext4 with a journal, and a folder's worth in memory.
_LEAST = {ScratchKind.SCSI: 16, ScratchKind.TMPFS: 1, ScratchKind.PMEM: 16}
#: Of ext4 with blocks of 4096 bytes.
_MOST_MIB = 16 * 1024**2
#: The kernel has 64 bytes of its memory for each page of persistent memory, so this much of it
#: takes an eighth of the VM's memory.
_PMEM_TO_MEMORY = 8
#: And there is no more than this of addresses for it, beside those of the layers.
_MOST_PMEM_MIB = 32 * 1024
#: QEMU maps persistent memory in pages of 2 MiB.
_PMEM_STEP_MIB = 2


# -- what is asked for -------------------------------------------------------------------------


def parse(text: str) -> Scratch:
    """Read `scsi|tmpfs|pmem[,size=SIZE][,path=FILE]`. Raises InvalidArgumentError."""
    kind, *options = text.split(",")
    size, path = 0, ""
    if kind not in list(ScratchKind):
        raise InvalidArgumentError(f"{text!r}: expected {_FORM}")
    for option in options:
        name, _, value = option.partition("=")
        if name == "size" and (match := _SIZE.fullmatch(value)):
            size = int(match[1]) * _UNITS[match[2].upper()]
            _check_size(text, ScratchKind(kind), size)
        elif name == "path" and value:
            path = value
        else:
            raise InvalidArgumentError(f"{text!r}: {option!r}: expected size=512M or path=FILE")
    return Scratch(kind=ScratchKind(kind), size_mib=size, path=path)


def _check_size(text: str, kind: ScratchKind, size_mib: int) -> None:
    most = _MOST_PMEM_MIB if kind is ScratchKind.PMEM else _MOST_MIB
    if not _LEAST[kind] <= size_mib <= most:
        raise InvalidArgumentError(
            f"{text!r}: the least is {_LEAST[kind]}M, the most {most // 1024}G"
        )
    if kind is ScratchKind.PMEM and size_mib % _PMEM_STEP_MIB:
        raise InvalidArgumentError(f"{text!r}: the size has to be a multiple of 2M")


def check(scratch: Scratch, memory_mib: int) -> Scratch:
    """Return a scratch with its size and an absolute path.

    Raises InvalidArgumentError for one that a VM of that much memory can't have, or whose file
    can't be one.
    """
    path = str(Path(scratch.path).absolute()) if scratch.path else ""
    size_mib = scratch.size_mib
    if path and scratch.kind is ScratchKind.TMPFS:
        raise InvalidArgumentError(f"scratch {scratch.path}: memory can't be kept in a file")
    if path:
        size_mib = _size_of_file(scratch, Path(path)) or size_mib
    size_mib = size_mib or _DEFAULT[scratch.kind]
    _check_memory(scratch.kind, size_mib, memory_mib)
    return Scratch(kind=scratch.kind, size_mib=size_mib, path=path)


def _size_of_file(scratch: Scratch, path: Path) -> int:
    """Return the size of a file that is there already, in MiB; 0 for one that is not."""
    what = f"scratch {scratch.path}"
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.parent.is_dir() and not path.is_symlink():
            return 0
        raise InvalidArgumentError(f"{what}: there is no such folder") from None
    except OSError as error:
        raise InvalidArgumentError(f"{what}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InvalidArgumentError(f"{what}: is no file")
    return _checked_size(what, scratch, status.st_size)


def _checked_size(what: str, scratch: Scratch, size: int) -> int:
    """Return the size of a file in MiB; 0 when it is empty. Raises InvalidArgumentError."""
    size_mib, rest = divmod(size, _MIB)
    if rest or (scratch.kind is ScratchKind.PMEM and size_mib % _PMEM_STEP_MIB):
        raise InvalidArgumentError(f"{what}: has {size} bytes, and was never a scratch")
    if size_mib and scratch.size_mib not in (0, size_mib):
        raise InvalidArgumentError(f"{what}: has {size_mib}M, and keeps that size")
    return size_mib


def _check_memory(kind: ScratchKind, size_mib: int, memory_mib: int) -> None:
    if kind is ScratchKind.TMPFS and size_mib > memory_mib:
        raise InvalidArgumentError(
            f"a scratch of {size_mib}M in memory: the VM has {memory_mib}M of it"
        )
    if kind is ScratchKind.PMEM and size_mib > memory_mib * _PMEM_TO_MEMORY:
        raise InvalidArgumentError(
            f"a scratch of {size_mib}M on pmem takes {size_mib // 64}M of the VM's memory: "
            f"with {memory_mib}M the most is {memory_mib * _PMEM_TO_MEMORY}M"
        )


# -- its file ----------------------------------------------------------------------------------


@contextmanager
def open_scratch() -> Iterator[int]:
    """Make an empty, sparse file for the length of the block and give its descriptor."""
    fd = _open_nameless()
    try:
        os.ftruncate(fd, _DEFAULT[ScratchKind.SCSI] * _MIB)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def open_file(scratch: Scratch) -> Iterator[int | None]:
    """Give the descriptor of a scratch's file for the length of the block; None: it has none.

    One that is kept is made when it is missing. Raises WrongStateError when another VM has it,
    InvalidArgumentError when it is not as `check` has seen it.
    """
    if scratch.kind is ScratchKind.TMPFS:
        yield None
        return
    fd = _open_kept(Path(scratch.path)) if scratch.path else _open_nameless()
    try:
        if scratch.path:
            _take(fd, scratch)
        if not os.fstat(fd).st_size:
            _grow(fd, scratch)
        yield fd
    finally:
        os.close(fd)


def _grow(fd: int, scratch: Scratch) -> None:
    size_mib = scratch.size_mib or _DEFAULT[scratch.kind]
    try:
        os.ftruncate(fd, size_mib * _MIB)
    except OSError as error:
        raise InvalidArgumentError(f"a scratch of {size_mib}M: {error.strerror}") from error


def _open_kept(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidArgumentError(f"scratch {path}: {error.strerror}") from error


def _take(fd: int, scratch: Scratch) -> None:
    """Lock a kept file, and look at it again: it may have changed since it was asked for."""
    what = f"scratch {scratch.path}"
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WrongStateError(f"{what}: another VM has it") from None
    _checked_size(what, scratch, os.fstat(fd).st_size)


def _open_nameless() -> int:
    # Not /tmp, which may be in memory.
    folder = Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - no name, no race
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    fd, name = tempfile.mkstemp(dir=folder, prefix="gcs-scratch-")
    Path(name).unlink()
    return fd
