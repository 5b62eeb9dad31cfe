"""The OCI runtime as a command: runc, or anything that takes its arguments.

Each call has a log file of its own, so an error is never that of an earlier call. What the
runtime says is passed on as it stands; only the HRESULT is told from it.

Source: runc(8); the table of texts is in PROTOCOL.md, "Errors of the runtime".
"""

import errno
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL  # noqa: TID251 - a constant for trio

import msgspec
import trio

from gcs.errors import (
    ContainerExistsError,
    ContainerNotFoundError,
    ContainerStoppedError,
    DeadlineError,
    GcsError,
    InvalidArgumentError,
    RuncError,
    WrongStateError,
)
from gcs.guest.log import fields
from gcs.guest.process import Process
from gcs.guest.reaper import Children

__all__ = ["Runc", "StandardStreams", "Turn", "error_from"]

_log = logging.getLogger("gcs.runc")

#: Where each call keeps its log, pid file and console socket. Short: a console socket's path
#: must fit into the 108 bytes of sockaddr_un.
_SCRATCH = Path("/run/gcs/runc")

#: A call is killed after this: a minute below the host's own limit of five minutes per request.
_TIMEOUT_S = 240.0
#: Taking a failed container apart comes on top of a call's own time, and still before the
#: host's limit.
_UNDO_TIMEOUT_S = 20.0
#: The runtime sends the terminal before it exits, so this is only for one that never does.
_CONSOLE_TIMEOUT_S = 5.0

#: What a runtime and the first stage of its init take while they start something: runc 1.1 was
#: seen with 12 + 10 MiB resident.
_MEMORY_PER_START = 24 * 1024 * 1024

_ERROR_LEVELS = frozenset({"error", "fatal", "panic"})

#: (texts that must all be in the message, error), first match wins. runc's and crun's wording.
_ERRORS: tuple[tuple[tuple[str, ...], type[GcsError]], ...] = (
    (("container", "does not exist"), ContainerNotFoundError),
    (("error opening file `", "/status`: No such file"), ContainerNotFoundError),
    (("cannot open directory '/run/crun/", "': No such file"), ContainerNotFoundError),
    (("container with id exists",), ContainerExistsError),
    (("container with given ID already exists",), ContainerExistsError),
    (("container `", "` already exists"), ContainerExistsError),
    (("invalid id format",), InvalidArgumentError),
    (("invalid container ID format",), InvalidArgumentError),
    (("container", "that is not stopped"), WrongStateError),
    (("container `", "` is not in `created` or `stopped` state"), WrongStateError),
    (("container still running",), WrongStateError),
    (("cannot start an already running container",), WrongStateError),
    (("/exec.fifo`: No such file",), WrongStateError),
    (("container not running",), ContainerStoppedError),
    (("container `", "` is not running"), ContainerStoppedError),
    (("open pidfd: No such process",), ContainerStoppedError),
    (("cannot exec in a stopped container",), ContainerStoppedError),
    (("cannot start a container that has stopped",), ContainerStoppedError),
)


#: Entered when a call that had to wait for others begins: it raises if there is no point any
#: more, and is held until the call has ended.
Turn = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class StandardStreams:
    """Descriptors that become 0, 1 and 2 of the process; None is /dev/null."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None


def error_from(message: str) -> GcsError:
    """Return the error that the runtime's text stands for."""
    for texts, error in _ERRORS:
        if all(text in message for text in texts):
            return error(message)
    return RuncError(message)


@dataclass(slots=True)
class Runc:
    """Calls of the runtime, a few at a time; those that end something queue on their own."""

    children: Children
    command: str = "runc"
    starting: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(_starts_at_once())
    )
    #: for delete and update, which must not wait behind what is slow to start
    ending: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(_starts_at_once())
    )

    async def create(
        self, container_id: str, bundle: str, streams: StandardStreams, *, tty: bool
    ) -> tuple[Process, int | None]:
        """Create a container; return its init, owned, and the master of its terminal."""
        with _folder() as folder:
            arguments = ("create", "--bundle", bundle, container_id)
            return await self._launch(folder, arguments, streams, tty=tty)

    async def exec(
        self,
        container_id: str,
        process: Mapping[str, object],
        streams: StandardStreams,
        *,
        tty: bool,
        turn: Turn = nullcontext,
    ) -> tuple[Process, int | None]:
        """Start a process in a container; return it, owned, and its terminal's master."""
        with _folder() as folder:
            spec = Path(folder, "process.json")
            spec.write_bytes(msgspec.json.encode(process))  # noqa: ASYNC240 - tmpfs
            arguments = ("exec", "--detach", "--process", str(spec), container_id)
            return await self._launch(folder, arguments, streams, tty=tty, turn=turn)

    async def start(self, container_id: str, turn: Turn = nullcontext) -> None:
        """Let a created container's init go on to its program."""
        async with self.starting:
            with turn():
                await self._call("start", container_id)

    async def update(
        self, container_id: str, resources: Mapping[str, object], turn: Turn = nullcontext
    ) -> None:
        """Change the limits of a container to those of an OCI resources document."""
        with _folder() as folder:
            document = Path(folder, "resources.json")
            document.write_bytes(msgspec.json.encode(resources))  # noqa: ASYNC240 - tmpfs
            async with self.ending:
                with turn():
                    await self._call("update", "--resources", str(document), container_id)

    async def delete(self, container_id: str) -> None:
        """Forget a container that is stopped or was never started."""
        async with self.ending:
            await self._call("delete", container_id)

    async def destroy(self, container_id: str) -> None:
        """Kill and forget whatever there is of a container; nothing will do.

        It waits for no other call: its time is limited, and it follows one that has ended.
        """
        await self._call("delete", "--force", container_id, timeout_s=_UNDO_TIMEOUT_S)

    async def _launch(
        self,
        folder: str,
        arguments: tuple[str, ...],
        streams: StandardStreams,
        *,
        tty: bool,
        turn: Turn = nullcontext,
    ) -> tuple[Process, int | None]:
        pid_file = Path(folder, "pid")
        async with self.starting:
            with turn(), self.children.hold(), _console(folder if tty else None) as console:
                to_console = () if console is None else ("--console-socket", f"{folder}/s")
                verb, *rest = arguments
                argv = (verb, "--pid-file", str(pid_file), *to_console, *rest)
                try:
                    await self._run(folder, argv, streams, _TIMEOUT_S)
                except BaseException:
                    self._end_started(pid_file)
                    raise
                process = Process.adopt(self.children, _pid_in(pid_file))
                try:
                    master = None if console is None else await _receive_terminal(console)
                except BaseException:
                    process.abandon(self.children)
                    raise
                return process, master

    def _end_started(self, pid_file: Path) -> None:
        """Kill what a call that failed late has started: nobody else would know of it."""
        with suppress(RuncError):
            self.children.kill_unowned(_pid_in(pid_file))

    async def _call(self, *arguments: str, timeout_s: float | None = None) -> None:
        with _folder() as folder:
            limit = _TIMEOUT_S if timeout_s is None else timeout_s
            await self._run(folder, arguments, StandardStreams(), limit)

    async def _run(
        self, folder: str, arguments: Sequence[str], streams: StandardStreams, timeout_s: float
    ) -> None:
        log = Path(folder, "log")
        argv = (self.command, "--log", str(log), "--log-format", "json", *arguments)
        with trio.move_on_after(timeout_s) as scope:
            status = await self.children.run_to_end(
                argv,
                stdin=DEVNULL if streams.stdin is None else streams.stdin,
                stdout=DEVNULL if streams.stdout is None else streams.stdout,
                stderr=DEVNULL if streams.stderr is None else streams.stderr,
            )
        if scope.cancelled_caught:
            what = f"{self.command} {' '.join(arguments)}"
            raise DeadlineError(f"{what}: not done within {timeout_s:g} s")
        if status != 0:
            message = _last_error(log) or f"exit status {status}, and no word in its log"
            _log.info("runtime failed", extra=fields(argv=" ".join(argv), error=message))
            raise error_from(message)


def _starts_at_once() -> int:
    """Return how many calls may start something at the same time.

    They are CPU-bound, so more than the processors only wait for each other; and each takes its
    share of what memory the VM has free when the agent starts.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min((os.cpu_count() or 1) + 1, free // _MEMORY_PER_START))


@contextmanager
def _folder() -> Iterator[str]:
    """Have a folder for one call.

    That it can't be removed does not fail the call: what it started would be lost for that.
    """
    path = f"{_SCRATCH}/c-{time.monotonic_ns()}"
    _SCRATCH.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.mkdir(path, 0o700)  # noqa: PTH102 - a string, as all that the runtime is told
    try:
        yield path
    finally:
        _remove(path)


def _remove(folder: str) -> None:
    """Remove a call's folder; what the runtime has left there may be more than it was told."""
    try:
        for name in os.listdir(folder):  # noqa: PTH208 - as above
            os.unlink(f"{folder}/{name}")  # noqa: PTH108 - as above
        os.rmdir(folder)  # noqa: PTH106 - as above
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def _pid_in(pid_file: Path) -> int:
    text = pid_file.read_text() if pid_file.exists() else ""
    if not text.isdigit():
        raise RuncError(f"the runtime succeeded, but its pid file holds {text[:20]!r}")
    return int(text)


def _last_error(log: Path) -> str:
    """Return the last error in a JSON log, which is the outermost."""
    found = ""
    with suppress(FileNotFoundError):
        for line in log.read_bytes().splitlines():
            with suppress(msgspec.DecodeError):
                # What a runtime quotes may have any bytes; the rest of its sentence counts.
                record: object = msgspec.json.decode(line.decode(errors="replace"))
                if isinstance(record, dict) and str(record.get("level")) in _ERROR_LEVELS:
                    found = str(record.get("msg", ""))
    return found


def _console(folder: str | None) -> "_Console":
    return _Console(folder)


class _Console:
    """A unix socket that the runtime connects to, for as long as the call lasts."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._socket: socket.socket | None = None

    def __enter__(self) -> socket.socket | None:
        if self._folder is None:
            return None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket.bind(f"{self._folder}/s")
        self._socket.listen(1)
        return self._socket

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()


async def _receive_terminal(console: socket.socket) -> int:
    """Accept the runtime's connection and take the descriptor that it sent."""
    with trio.move_on_after(_CONSOLE_TIMEOUT_S):
        await trio.lowlevel.wait_readable(console)
        connection, _ = console.accept()
        with connection:
            connection.setblocking(False)
            await trio.lowlevel.wait_readable(connection)
            _, descriptors, flags, _ = socket.recv_fds(connection, 4096, 1)
        if flags & socket.MSG_CTRUNC and not descriptors:  # it was sent, but there is no place
            number = errno.EMFILE
            raise OSError(number, f"recvmsg of a terminal: {os.strerror(number)}")
        if descriptors:
            os.set_inheritable(descriptors[0], False)
            return descriptors[0]
    raise DeadlineError(f"no terminal came from the runtime within {_CONSOLE_TIMEOUT_S:g} s")
