"""One process that the host asked for: its exit, and when that may be reported.

Source: pidfd_open(2), waitid(2).
"""

import errno
import os
import signal as signals
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from gcs.errors import InvalidArgumentError, NotFoundError
from gcs.guest.reaper import Children
from gcs.guest.stdio import Stdio

__all__ = ["Process"]

#: What shells and OCI runtimes add to the number of the signal that killed a process.
_SIGNALLED = 128


@dataclass(slots=True)
class Process:
    """A child of the agent, from its creation to the deletion of what it belongs to."""

    pid: int
    pidfd: int
    #: for a child that the agent started itself. Its owner must keep it: subprocess takes the
    #: status of a child whose object was dropped.
    handle: trio.Process | None = None
    #: its streams, as soon as it has any
    stdio: Stdio | None = None
    #: the status as a shell would say it, once it is known
    exit_status: int | None = None
    #: set when the status has been taken
    exited: trio.Event = field(default_factory=trio.Event)
    #: set when its output has been handed over as well: now its exit may be reported
    finished: trio.Event = field(default_factory=trio.Event)

    @classmethod
    def adopt(
        cls, children: Children, pid: int, handle: trio.Process | None = None
    ) -> "Process":
        """Take over a child by its pid, and own it; a zombie will do.

        Raises OSError; then the child is killed and left to the reaper.
        """
        children.own(pid)
        try:
            return cls(pid, os.pidfd_open(pid), handle)
        except OSError as error:
            os.kill(pid, signals.SIGKILL)  # not reaped yet, so the number is still its own
            children.disown(pid)
            number = error.errno or errno.EIO
            raise OSError(number, f"pidfd_open {pid}: {error.strerror}") from error

    async def watch(
        self, children: Children, on_exit: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Take the process's status when it exits, then see its output off.

        `on_exit` is called between the two; what it does before its first await is done in the
        same breath as the status is known.
        """
        self.exit_status = await self._take_status()
        children.disown(self.pid)
        pidfd, self.pidfd = self.pidfd, -1
        os.close(pidfd)
        self.exited.set()
        try:
            if on_exit is not None:
                await on_exit()
            if self.stdio is not None:
                await self.stdio.drain()
        finally:
            self.finished.set()

    async def _take_status(self) -> int:
        if self.handle is not None:
            code = await self.handle.wait()
            return code if code >= 0 else _SIGNALLED - code
        await trio.lowlevel.wait_readable(self.pidfd)
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)  # noqa: ASYNC222 - has exited
        assert result is not None, "without WNOHANG there is a result"
        is_exit = result.si_code == os.CLD_EXITED
        return result.si_status if is_exit else _SIGNALLED + result.si_status

    def kill(self, signal: int) -> None:
        """Send a signal. Raises NotFoundError when the process has exited."""
        if self.exit_status is not None:
            raise NotFoundError(f"process {self.pid} has exited")
        try:
            signals.pidfd_send_signal(self.pidfd, signal)
        except ProcessLookupError as error:
            raise NotFoundError(f"process {self.pid} has exited") from error
        except OSError as error:
            raise InvalidArgumentError(
                f"signal {signal} to process {self.pid}: {error.strerror}"
            ) from error

    def abandon(self, children: Children) -> None:
        """Kill a process that nobody watches, and leave it to the reaper."""
        with suppress(NotFoundError):
            self.kill(signals.SIGKILL)
        os.close(self.pidfd)
        children.disown(self.pid)
        children.reap()

    @property
    def is_over(self) -> bool:
        """True when its exit may be reported, and its streams have ended too."""
        return self.finished.is_set() and (self.stdio is None or self.stdio.is_over)

    def close(self) -> None:
        """Give up its streams."""
        if self.stdio is not None:
            self.stdio.close()
