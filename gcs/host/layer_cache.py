"""The folder of layers as file systems: who makes, uses and removes what in it, all at once.

Every lock is flock(2) on a file itself, so a process that dies leaves none behind:

| file | what | its lock |
|---|---|---|
| `HEX-v1.ext4`, `HEX-v1.ext4.sha256` | a layer and its digest | shared: somebody uses it |
| `HEX-v1.pack`, `HEX-v1.pack.json` | layers in one file, and what lies where | the same |
| `.NAME.tmp` | NAME in the making | exclusive: somebody is making or removing it |
| `images/NAME.json` | an image, and which layers it has | none |
| `.lock` | | exclusive: images or their layers come or go; shared: they must not |

A file gets its name when it is whole and on disk, after the one that describes it, and loses it
before that one: a file in place is a whole one, and described. Whoever removes it holds the
lock of its maker and, exclusively, its own.

A layer is kept by an image or by whoever uses it. Who makes an image has its layers until the
image is there, and that appears under the exclusive `.lock`; who removes layers holds that too,
from looking at the images to the last layer. So there is no moment between the two keepers.

It does not know what a layer is: that is `layers` and `packs`.
"""

import fcntl
import io
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from enum import Enum, auto
from pathlib import Path
from types import TracebackType

import trio

from gcs.errors import DeadlineError

__all__ = ["Leases", "claim", "locked", "publish", "sweep", "temporary_of", "write"]

#: How long to wait for another process that makes the same file: what a layer can unpack to, at
#: a slow disk's 40 MB/s, takes 14 minutes.
LOCK_DEADLINE_S = 900.0
#: A file is locked exclusively for the moment of its removal, and at the end of its making.
LEASE_DEADLINE_S = 30.0
#: `.lock` is held to write a page, or to remove all that nobody needs: a slow disk takes 50 ms
#: for a file, so this is enough for 2,000.
CACHE_DEADLINE_S = 120.0

_BUFFER = 1 << 20
#: Of what is in place: nobody has to write to it any more.
_MODE = 0o444


class _Lock(Enum):
    """How a try to lock a file has ended."""

    HELD = auto()
    BUSY = auto()
    GONE = auto()


class Leases:
    """Files that are not removed as long as this lives, or its process."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> "Leases":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    async def hold(self, path: Path) -> bool:
        """Keep a file from being removed; return whether it is there.

        Raises DeadlineError when another process keeps it locked.
        """
        with trio.move_on_after(LEASE_DEADLINE_S):
            while True:
                state = self._try(path)
                if state is not _Lock.BUSY:
                    return state is _Lock.HELD
                await trio.sleep(0.05)
        raise DeadlineError(f"lock {path}: not free after {LEASE_DEADLINE_S:.0f} s")

    def _try(self, path: Path) -> _Lock:
        state, descriptor = _lock(path, fcntl.LOCK_SH)
        if state is _Lock.HELD:
            self._stack.callback(os.close, descriptor)
        return state


def _lock(path: Path, kind: int) -> tuple[_Lock, int]:
    """Try to lock a file; return its descriptor if that is held."""
    with ExitStack() as undo:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            undo.callback(os.close, descriptor)
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            # Whoever held it before may have removed it, and another one may have its name.
            same = os.path.samestat(os.fstat(descriptor), path.stat())
        except BlockingIOError:
            return _Lock.BUSY, -1
        except FileNotFoundError:
            return _Lock.GONE, -1
        if not same:
            return _Lock.BUSY, -1
        undo.pop_all()
        return _Lock.HELD, descriptor


@asynccontextmanager
async def locked(folder: Path, *, exclusively: bool) -> AsyncIterator[None]:
    """Hold the lock of a cache for the length of the block; makes the folder.

    Raises DeadlineError when others hold it for too long.
    """
    descriptor = _open_lock(folder)
    try:
        await _lock_in_time(descriptor, fcntl.LOCK_EX if exclusively else fcntl.LOCK_SH, folder)
        yield
    finally:
        os.close(descriptor)


def _open_lock(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(folder / ".lock", flags, 0o600)


async def _lock_in_time(descriptor: int, kind: int, folder: Path) -> None:
    with trio.move_on_after(CACHE_DEADLINE_S):
        while True:
            if _is_locked(descriptor, kind):
                return
            await trio.sleep(0.02)
    raise DeadlineError(f"lock {folder}: not free after {CACHE_DEADLINE_S:.0f} s")


def _is_locked(descriptor: int, kind: int) -> bool:
    """Try to lock an open file, and say whether it is."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# -- making ------------------------------------------------------------------------------------


def temporary_of(target: Path) -> Path:
    """Return where a file is made before it has its name."""
    return target.with_name(f".{target.name}.tmp")


async def claim(target: Path) -> io.BufferedRandom:
    """Open the temporary file of a target, empty, and lock it against others who want it.

    The file is its own lock, so a lock can't be left behind, and what a killed process wrote is
    overwritten by the next. Waiting is polling, since a thread blocked in flock(2) could not be
    cancelled. Raises DeadlineError after LOCK_DEADLINE_S.
    """
    with trio.move_on_after(LOCK_DEADLINE_S):
        while True:
            file = _try_claim(target)
            if file is not None:
                return file
            await trio.sleep(0.1)
    raise DeadlineError(f"lock {temporary_of(target)}: not free after {LOCK_DEADLINE_S:.0f} s")


def _try_claim(target: Path) -> io.BufferedRandom | None:
    """Do what `claim` does, or return None at once when another one has it."""
    temporary = temporary_of(target)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as undo:
        descriptor = os.open(
            temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        undo.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have renamed or removed the file that is locked now.
            same = os.path.samestat(os.fstat(descriptor), temporary.stat())
        except (BlockingIOError, FileNotFoundError):
            return None
        if not same:
            return None
        os.ftruncate(descriptor, 0)
        undo.pop_all()
        return io.BufferedRandom(io.FileIO(descriptor, "r+b"), _BUFFER)


def publish(file: io.BufferedRandom, target: Path, note: Path, text: str) -> None:
    """Give a claimed file its name, after the note that describes it; both go to disk first."""
    file.flush()
    os.fsync(file.fileno())
    write(note, text.encode())
    temporary_of(target).rename(target)
    # Not before: who dies between would leave a temporary file that no user can claim.
    os.fchmod(file.fileno(), _MODE)
    _sync_folder(target.parent)


def write(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all, and to disk; the caller keeps others from it."""
    draft = temporary_of(path)
    with ExitStack() as undo:
        undo.callback(draft.unlink, missing_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            draft.rename(path)
            os.fchmod(file.fileno(), _MODE)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- removing ----------------------------------------------------------------------------------


def sweep(target: Path, note: Path, *, is_kept: bool) -> int:
    """Remove a file with its note, and what makers that died have left of both.

    What somebody uses or makes stays, and a file that is to be kept. Returns how many bytes
    the disk has got back. Leaves a note without its file when it dies between the two; the
    next one removes that.
    """
    before = _disk_bytes(temporary_of(target))
    file = _try_claim(target)
    if file is None:
        return 0
    with ExitStack() as undo:
        undo.callback(file.close)
        # Last, and while it is locked: until then nobody makes the file anew.
        undo.callback(temporary_of(target).unlink, missing_ok=True)
        freed = before + _remove(temporary_of(note))
        if not is_kept:
            state, descriptor = _lock(target, fcntl.LOCK_EX)
            if state is _Lock.HELD:
                undo.callback(os.close, descriptor)
                freed += _remove(target)
        if not target.exists():
            freed += _remove(note)
    return freed


def _remove(path: Path) -> int:
    """Remove a file if it is there, and return what it took of the disk."""
    freed = _disk_bytes(path)
    path.unlink(missing_ok=True)
    return freed


def _disk_bytes(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0
