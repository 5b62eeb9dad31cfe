"""Programs that live no longer than the process that started them.

trio starts programs from a cached worker thread, and the kernel's parent-death signal is bound
to the thread, not to the process: a program would die when that thread has been idle for a
while. So these programs are started by the main thread, with posix_spawn, through setpriv(1),
which asks for the signal and then becomes the program. SIGKILL of the service thus ends them at
once; the later clean-up by recorded pid (state.py) is for what even that misses.

Will not hold: programs whose output is read; trio's own run_process is right for those.

Source: prctl(2) PR_SET_PDEATHSIG, pidfd_open(2), posix_spawn(3).
"""

import logging
import os
import shlex
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from gcs.errors import GcsError

__all__ = ["Child", "ChildError", "end_process", "is_running", "spawn", "start_time"]

_log = logging.getLogger("gcs.host.child")

#: How long SIGTERM may take before SIGKILL. QEMU and vhost-device-vsock have no state to save,
#: and were seen to end within 0.1 s; ten times that is for a busy machine.
TERM_GRACE_S = 1.0
#: How long the kernel may take to end a process after SIGKILL. Freeing a VM's memory takes part
#: of a second; longer than this means that it hangs in the kernel.
KILL_GRACE_S = 10.0


class ChildError(GcsError):
    """A program can't be started."""


@dataclass(slots=True)
class Child:
    """A running program."""

    name: str
    argv: tuple[str, ...]
    pid: int
    #: clock ticks after boot, as /proc tells it: with the pid it names the process for good
    start_time: int
    pidfd: int
    _lock: trio.Lock = field(default_factory=trio.Lock)
    #: negative: the number of the signal that ended it; None while it runs
    exit_status: int | None = None
    #: whether it goes on when the block that started it ends
    is_released: bool = False

    async def wait(self) -> int:
        """Wait for the end and return the exit status."""
        # trio lets one task wait for a descriptor; the others queue for the lock.
        async with self._lock:
            if self.exit_status is None:
                await trio.lowlevel.wait_readable(self.pidfd)
                self.exit_status = _reap(self.pidfd)
        return self.exit_status

    def describe_end(self) -> str:
        """Return "ended with status N" or "was killed by SIGNAL"."""
        if self.exit_status is None:
            return "is running"
        if self.exit_status < 0:
            return f"was killed by {signal.Signals(-self.exit_status).name}"
        return f"ended with status {self.exit_status}"


def _reap(pidfd: int) -> int:
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    assert result is not None, "without WNOHANG there is a result"
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


@asynccontextmanager
async def spawn(
    name: str,
    argv: Sequence[str],
    *,
    output: int,
    inherit: Sequence[int] = (),
    is_leashed: bool = True,
) -> AsyncIterator[Child]:
    """Run a program for the length of the block, in a session of its own.

    Args:
        name: What to call it in errors.
        argv: The program, looked up in PATH, and its arguments.
        output: The descriptor that becomes its stdout and stderr.
        inherit: Descriptors that it gets under the same numbers.
        is_leashed: Whether the kernel is to end it when we die without a word.

    Raises ChildError when it can't be started. Leaves nothing, unless the child is released: at
    the end of the block it gets SIGTERM, and SIGKILL when that does not help.
    """
    child = _start(name, argv, output, inherit, _leash() if is_leashed else ())
    try:
        yield child
    finally:
        if not child.is_released:
            with trio.CancelScope(shield=True):
                await _end(child)
        os.close(child.pidfd)


def _start(
    name: str, argv: Sequence[str], output: int, inherit: Sequence[int], leash: Sequence[str]
) -> Child:
    program = shutil.which(argv[0])
    if program is None:
        raise ChildError(f"start {name}: {argv[0]}: not found, or not executable")
    whole = [*leash, program, *argv[1:]]
    actions: list[tuple[int, ...]] = [
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
        # Onto itself: posix_spawn then clears the close-on-exec flag in the child.
        *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in inherit),
    ]
    with Path(os.devnull).open("rb") as devnull:
        actions.insert(0, (os.POSIX_SPAWN_DUP2, devnull.fileno(), 0))
        try:
            pid = os.posix_spawn(whole[0], whole, os.environ, file_actions=actions, setsid=True)
        except OSError as error:
            raise ChildError(f"start {name}: {whole[0]}: {error.strerror}") from error
    _log.debug("started", extra={"program": name, "pid": pid, "argv": shlex.join(argv)})
    # A child of ours can't be reaped by anybody else, so the pid is still its own here.
    return Child(
        name=name,
        argv=tuple(argv),
        pid=pid,
        start_time=start_time(pid),
        pidfd=os.pidfd_open(pid),
    )


def _leash() -> tuple[str, ...]:
    """Return the command that ties the program to our life, where there is one (util-linux)."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()


async def _end(child: Child) -> None:
    for number, grace_s in ((signal.SIGTERM, TERM_GRACE_S), (signal.SIGKILL, KILL_GRACE_S)):
        if child.exit_status is not None:
            return
        signal.pidfd_send_signal(child.pidfd, number)
        with trio.move_on_after(grace_s):
            await child.wait()


# -- processes that are not ours ---------------------------------------------------------------


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks after boot; 0 when there is none.

    Source: proc(5), /proc/pid/stat field 22, counted after the command name, which may hold
    blanks and parentheses.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat[stat.rindex(")") + 2 :].split()[19])


def is_running(pid: int, started: int) -> bool:
    """Tell whether the process with this pid is the one that was recorded, and not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = stat[stat.rindex(")") + 2 :].split()
    return int(fields[19]) == started and fields[0] != "Z"


async def end_process(pid: int, started: int) -> None:
    """End a recorded process, not a child of ours: SIGTERM, then SIGKILL, each bounded."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor names one process for good, so a check after opening it can't go stale.
        for number, grace_s in (
            (signal.SIGTERM, TERM_GRACE_S),
            (signal.SIGKILL, KILL_GRACE_S),
        ):
            if not is_running(pid, started):
                return
            signal.pidfd_send_signal(pidfd, number)
            with trio.move_on_after(grace_s):
                await trio.lowlevel.wait_readable(pidfd)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)
