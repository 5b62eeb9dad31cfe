"""Who waits for which child: every pid has one owner, and orphans have the reaper.

The agent is a subreaper, so whatever a container or the OCI runtime leaves behind becomes its
child. A blanket waitpid(-1) would steal the statuses that others wait for, so children are
listed and only those that nobody owns are reaped.

A new child can't be owned before its pid is known. `hold` covers that gap: while it lasts,
nothing is reaped that started after it began.

Source: PR_SET_CHILD_SUBREAPER in prctl(2); waitid(2).
"""

import errno
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from subprocess import DEVNULL  # noqa: TID251 - a constant for trio
from typing import IO

import trio

from gcs.errors import GcsError
from gcs.guest.log import fields
from gcs.linux import abi, procfs, syscall
from gcs.linux.limits import Inherited

__all__ = ["Children"]

_log = logging.getLogger("gcs.reaper")

#: Of a helper program's output: its last words are what is wanted, and they are short.
_MAX_OUTPUT = 64 * 1024

#: How long a helper program has to end after SIGKILL. One that a device keeps in the kernel
#: may take for ever, and is the reaper's then.
_KILL_GRACE_S = 5.0

Redirect = int | IO[bytes]


@dataclass(slots=True)
class Children:
    """The children of the agent, and which of them have an owner."""

    #: for the children, in place of what is the agent's alone
    limits: Inherited | None = None
    _owned: set[int] = field(default_factory=set)
    #: when each hold began, in clock ticks since boot
    _holds: list[int] = field(default_factory=list)
    #: pid namespaces in which there may be strays
    _suspect: set[str] = field(default_factory=set)

    def own(self, pid: int) -> None:
        """Leave the status of this child to the caller."""
        self._owned.add(pid)

    def disown(self, pid: int) -> None:
        """Forget a child whose status has been taken."""
        self._owned.discard(pid)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Reap nothing that starts from here on, until its owner had time to claim it."""
        began = procfs.clock_ticks()
        self._holds.append(began)
        try:
            yield
        finally:
            self._holds.remove(began)
            self._kill_suspects()
            self.reap()

    def reap(self) -> None:
        """Take the status of every exited child that nobody owns.

        When the children can't be listed (the agent is out of descriptors) they stay for the
        next time: whoever calls this has done its own work.
        """
        try:
            if not _has_exited():
                return
            for pid in procfs.children():
                if pid not in self._owned and not self._is_held(pid):
                    self._reap_one(pid)
        except OSError as error:
            _log.warning("orphans not reaped", extra=fields(error=error))

    def kill_unowned(self, pid: int) -> None:
        """Kill a child that started under a hold and has no owner; any other is left alone.

        The hold keeps it from being reaped, so that the number is still its own.
        """
        if pid in self._listed() and pid not in self._owned and self._is_held(pid):
            os.kill(pid, signal.SIGKILL)

    def kill_strays(self, init: int) -> None:
        """Kill children beside a container's init that nobody owns, once no hold is left.

        What loses its parent in another pid namespace goes to the init of that one. So a child
        of ours in there comes from a runtime that ended before it could say what it had
        started. In our own namespace it may be what an exec left running on purpose, which
        nothing tells apart: there none is killed.

        While a hold lasts, one may be what a runtime is about to tell of: crun's is our child
        before its pid is in a file.
        """
        namespace = procfs.pid_namespace(init)
        if namespace is None or namespace == procfs.pid_namespace(os.getpid()):
            return
        self._suspect.add(namespace)
        self._kill_suspects()

    def _kill_suspects(self) -> None:
        if self._holds or not self._suspect:
            return
        suspect, self._suspect = self._suspect, set()
        for pid in self._listed():
            if pid not in self._owned and procfs.pid_namespace(pid) in suspect:
                os.kill(pid, signal.SIGKILL)  # nobody else reaps, so the number is its own
                _log.warning("stray process killed", extra=fields(pid=pid))

    def _listed(self) -> tuple[int, ...]:
        """Return all children; none, and say so, when they can't be listed."""
        try:
            return procfs.children()
        except OSError as error:
            _log.warning("children not listed", extra=fields(error=error))
            return ()

    def _is_held(self, pid: int) -> bool:
        if not self._holds:
            return False
        started = procfs.start_time(pid)
        return started is None or started >= min(self._holds)

    def _reap_one(self, pid: int) -> None:
        try:
            result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return
        if result is not None:
            _log.debug("orphan reaped", extra=fields(pid=pid, status=result.si_status))

    async def run(self) -> None:
        """Reap orphans until cancelled."""
        syscall.prctl(abi.PR_SET_CHILD_SUBREAPER, 1)
        with trio.open_signal_receiver(signal.SIGCHLD) as signals:
            self.reap()
            async for _ in signals:
                self.reap()

    async def spawn(  # noqa: PLR0913 - subprocess's own parameters
        self,
        argv: Sequence[str],
        *,
        stdin: Redirect,
        stdout: Redirect,
        stderr: Redirect,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        new_session: bool = False,
    ) -> trio.Process:
        """Start a program and own it; the caller disowns it when it has waited for it.

        With an environment it has exactly that, which takes longer.
        """
        restore = None
        if self.limits is not None and env is not None:
            restore = self.limits.restore
        elif self.limits is not None:
            argv = self.limits.wrapped((_found(argv[0]), *argv[1:]))
        with self.hold():
            try:
                process = await trio.lowlevel.open_process(
                    list(argv),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    env=env,
                    cwd=cwd,
                    start_new_session=new_session,
                    preexec_fn=restore,
                )
            except OSError as error:
                error.add_note(f"starting {argv[0]}")
                raise
            self.own(process.pid)
        return process

    async def run_to_end(
        self, argv: Sequence[str], *, stdin: Redirect, stdout: Redirect, stderr: Redirect
    ) -> int:
        """Run a program and return its exit status.

        When cancelled, kill it and what it has started in its session.
        """
        process = await self.spawn(
            argv, stdin=stdin, stdout=stdout, stderr=stderr, new_session=True
        )
        try:
            return await process.wait()
        finally:
            await self.end(process)

    async def end(self, process: trio.Process) -> None:
        """Forget a program that leads a session, and kill all of that if it still runs."""
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            deadline = trio.current_time() + _KILL_GRACE_S
            with trio.CancelScope(shield=True, deadline=deadline):
                await process.wait()
        self.disown(process.pid)

    async def check_output(self, argv: Sequence[str], *, stdin: bytes = b"") -> bytes:
        """Run a program to its end and return what it printed, on either stream.

        What it is to read, at most a page, goes through a pipe and is in no file. Raises
        GcsError with its last words when its exit status is not 0.
        """
        with tempfile.TemporaryFile() as output, _readable(stdin) as source:
            status = await self.run_to_end(argv, stdin=source, stdout=output, stderr=output)
            output.seek(0)
            printed = output.read(_MAX_OUTPUT)
        if status != 0:
            words = printed.decode(errors="replace").strip()
            raise GcsError(f"{' '.join(argv)}: exit status {status}: {words}")
        return printed


@contextmanager
def _readable(content: bytes) -> Iterator[int]:
    """Give a descriptor from which this can be read, and then the end."""
    if not content:
        yield DEVNULL
        return
    reader, writer = os.pipe()
    try:
        try:
            os.write(writer, content)  # a pipe takes a page at once, with nobody reading
        finally:
            os.close(writer)
        yield reader
    finally:
        os.close(reader)


def _has_exited() -> bool:
    """Tell whether any child has exited and not been waited for: whoever owns it."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # there is none at all
        return False


def _found(program: str) -> str:
    """Return the program's path. Raises FileNotFoundError, which a shell could only print."""
    found = shutil.which(program)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    return found
