"""The state folder of a running VM, and what is done about one whose service is gone.

```
${XDG_RUNTIME_DIR:-/tmp/gcs-<uid>}/gcs/
  .lock          held for moments, while folders come and go
  <vm id>/       0700
    lock         held by the service for as long as it lives
    control      socket for gcsctl
    pids.json    [{"name", "pid", "start_time"}] of the programs that the service has started
    claim.json   {"container_id", "name"} once the service has a container
    pod.json     {"name"} instead of it when that is one of a pod
    exited.json  what is left of a container that has ended and is kept (DescribeReply)
    *.log        of the service, of QEMU, of vhost-device-vsock, of the guest, of volumes,
                 of passt
```

The containers of a pod have folders of their own beside that of their VM, called by the first
digits of their ids, with lock, claim.json, which names the VM too, exited.json and the logs of
their output.

A folder whose lock is free and that has no exited.json belongs to nobody: the programs recorded
in it are ended and it is removed. Every gcsctl does that before it starts.
"""

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from gcs.errors import GcsError
from gcs.host.child import Child, end_process, is_running
from gcs.wire.control import DescribeReply

__all__ = [
    "ID_DIGITS",
    "LOG_NAMES",
    "Claim",
    "StateError",
    "StateFolder",
    "claims",
    "container_folder",
    "find_pod",
    "keep_logs",
    "read_record",
    "recorded_pids",
    "remove_ended",
    "remove_stale",
    "root_folder",
]

LOG_NAMES = (
    *("service.log", "serial.log", "guest.log", "qemu.log", "vsock.log"),
    *("volumes.log", "network.log"),
)
#: Of a VM's id, and of a container's that its folder is called by.
ID_DIGITS = 12
#: sockaddr_un holds 107 bytes and the NUL; the longest name below a VM's folder is
#: "v_4294967294" with its slash, 13 bytes.
_MAX_FOLDER = 107 - 13 - 10
#: Kept folders of failed VMs: enough to look back on a bad day. Each is a few 100 KB, and 2 MiB
#: at most (logfile.py).
_KEPT = 10


class StateError(GcsError):
    """The state folder can't be used: not ours, open to others, or a path that is too long."""


class Claim(msgspec.Struct, frozen=True):
    """What a container is called, from the moment that it is asked for."""

    container_id: str
    name: str
    #: id of its VM when that has another folder
    vm: str = ""


class _Pod(msgspec.Struct, frozen=True):
    """What a pod is called."""

    name: str


class _Program(msgspec.Struct):
    """One line of pids.json."""

    name: str
    pid: int
    start_time: int


def root_folder() -> Path:
    """Return the folder of all VMs of this user, made and checked.

    Raises StateError when it belongs to somebody else or others may enter it.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    # /tmp is open to all: both folders below are checked.
    base = Path(runtime) if runtime else Path(f"/tmp/gcs-{os.getuid()}")  # noqa: S108
    folder = base / "gcs"
    for path in (folder,) if runtime else (base, folder):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        _check_private(path)
    return folder


def _check_private(path: Path) -> None:
    """Refuse a folder that somebody else made in our place: /tmp is open to all."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise StateError(f"state folder {path}: belongs to uid {status.st_uid}, not to us")
    if status.st_mode & 0o077:
        raise StateError(f"state folder {path}: mode {status.st_mode & 0o777:o} lets others in")


def container_folder(root: Path, container_id: str) -> Path:
    """Return the state folder of a container, which may be its VM's as well."""
    return root / container_id[:ID_DIGITS]


@dataclass(slots=True)
class StateFolder:
    """The folder of one VM, owned by this process."""

    path: Path
    _lock: int
    _programs: list[_Program]

    @classmethod
    def create(cls, root: Path, vm_id: str) -> Self:
        """Make the folder and take its lock.

        Raises StateError when a VM of that id exists, or the path is too long for a socket.
        """
        path = root / vm_id
        if len(os.fsencode(path)) > _MAX_FOLDER:
            raise StateError(f"state folder {path}: too long for a socket; set XDG_RUNTIME_DIR")
        with _locked(root):
            try:
                path.mkdir(mode=0o700)
            except FileExistsError:
                raise StateError(f"state folder {path}: a VM of that id exists") from None
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(path, lock, [])

    def record(self, child: Child) -> None:
        """Write down a program before anything can happen to us."""
        self._programs.append(_Program(child.name, child.pid, child.start_time))
        _write(self.path / "pids.json", msgspec.json.encode(self._programs))

    def claim(self, claim: Claim) -> None:
        """Take a name for the container; nobody else can have it until `release`.

        Raises StateError when another container has it.
        """
        with _locked(self.path.parent):
            known = claims(self.path.parent).values()
            taken = [each for each in known if each.name and each.name == claim.name]
            if taken:
                raise StateError(
                    f"name {claim.name!r}: container {taken[0].container_id} has it; "
                    "remove that one, or choose another name"
                )
            _write(self.path / "claim.json", msgspec.json.encode(claim))

    def claim_pod(self, name: str) -> bool:
        """Take a name for the pod of this VM; return False when another VM has it."""
        with _locked(self.path.parent):
            if find_pod(self.path.parent, name) is not None:
                return False
            _write(self.path / "pod.json", msgspec.json.encode(_Pod(name)))
        return True

    def release(self) -> None:
        """Give the name back; the container is not in lists any more."""
        (self.path / "claim.json").unlink(missing_ok=True)

    def retire(self, record: DescribeReply) -> None:
        """Leave the folder to others, with what is left of its container.

        The lock is held until `close`, or the end of the process: whoever waits for it then
        finds nothing of us.
        """
        _write(self.path / "exited.json", msgspec.json.encode(record))
        for name in ("control", "pids.json"):
            (self.path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder; as in `retire`, the lock is held."""
        with _locked(self.path.parent):
            shutil.rmtree(self.path)

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_bytes(data)
    unfinished.replace(path)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep others from making or removing folders meanwhile; held for moments only."""
    lock = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


# -- containers, running and ended -------------------------------------------------------------


def claims(root: Path) -> dict[Path, Claim]:
    """Return the folders that have a container, with what it is called."""
    found: dict[Path, Claim] = {}
    for path in sorted(root.glob("[!.]*/claim.json")):
        with suppress(FileNotFoundError):  # it is being removed at this moment
            found[path.parent] = _decoded(path, Claim)
    return found


def find_pod(root: Path, name: str) -> Path | None:
    """Return the folder of the VM that has a pod of this name; None if there is none."""
    for path in root.glob("[!.]*/pod.json"):
        with suppress(FileNotFoundError):  # it is being removed at this moment
            if _decoded(path, _Pod).name == name:
                return path.parent
    return None


def read_record(folder: Path) -> DescribeReply | None:
    """Return what is left of an ended container; None while it has not ended."""
    try:
        return _decoded(folder / "exited.json", DescribeReply)
    except FileNotFoundError:
        return None


T = TypeVar("T")


def _decoded(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise StateError(f"{path}: {error}") from error


def remove_ended(folder: Path) -> None:
    """Remove the folder of a container that has ended; nothing when it is gone already."""
    with _locked(folder.parent), suppress(FileNotFoundError):
        shutil.rmtree(folder)


# -- folders that nobody owns ------------------------------------------------------------------


async def remove_stale(root: Path) -> tuple[str, ...]:
    """End what services that are gone have left running, and remove their folders.

    Returns the ids of the VMs. Their logs are kept as those of a failure.
    """
    removed: list[str] = []
    for folder in _stale(root):
        for program in _recorded(folder.path):
            await end_process(program.pid, program.start_time)
        if not _is_part(folder.path):
            keep_logs(folder.path)
            removed.append(folder.path.name)
        folder.remove()
        folder.close()
    return tuple(removed)


def _stale(root: Path) -> list[StateFolder]:
    """Take over the folders whose lock is free."""
    found: list[StateFolder] = []
    with _locked(root):
        for path in sorted(root.glob("[!.]*/")):
            if (path / "exited.json").exists():
                continue
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            else:
                found.append(StateFolder(path, lock, []))
    return found


def _is_part(folder: Path) -> bool:
    """Tell whether it is that of a container whose VM has another one."""
    try:
        return bool(_decoded(folder / "claim.json", Claim).vm)
    except FileNotFoundError:
        return False


def _recorded(folder: Path) -> list[_Program]:
    """Return what pids.json says; nothing when it was never written."""
    try:
        return msgspec.json.decode((folder / "pids.json").read_bytes(), type=list[_Program])
    except FileNotFoundError:
        return []


def recorded_pids(folder: Path) -> tuple[int, ...]:
    """Return the processes of a VM that run, but for its service."""
    programs = _recorded(folder)
    return tuple(each.pid for each in programs if is_running(each.pid, each.start_time))


# -- logs of failures --------------------------------------------------------------------------


def keep_logs(folder: Path) -> Path:
    """Copy the logs of a VM to where failures are kept, newest ten, and return that folder."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    kept = Path(home) / "gcs" / "failed" / folder.name
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in LOG_NAMES:
        with suppress(FileNotFoundError):
            shutil.copyfile(folder / name, kept / name)
    _drop_oldest(kept.parent)
    return kept


def _drop_oldest(folder: Path) -> None:
    # Another gcsctl may do the same at this moment.
    with suppress(FileNotFoundError):
        by_age = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in by_age[:-_KEPT]:
            shutil.rmtree(old)
