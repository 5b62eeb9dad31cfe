"""An OCI runtime without containers: real processes, the rules about states, and failures.

Each process waits for a line on its stdin, which is its exit status.
"""

import os
import signal
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from gcs.errors import (
    ContainerExistsError,
    ContainerNotFoundError,
    ContainerStoppedError,
    RuncError,
    WrongStateError,
)
from gcs.guest.process import Process
from gcs.guest.runc import Runc, StandardStreams, Turn

__all__ = ["FakeRuntime"]

_PROGRAM = ("/bin/sh", "-c", "read status; exit $status")


@dataclass
class _Made:
    pid: int
    is_started: bool = False


@dataclass(slots=True)
class FakeRuntime(Runc):
    """What the runtime knows, whatever the agent thinks."""

    made: dict[str, _Made] = field(default_factory=dict)
    #: our end of each process's stdin, by pid
    stdins: dict[int, int] = field(default_factory=dict)
    #: "before": the next call does nothing and fails; "after": it does all, and fails
    failure: str = ""

    def end(self, pid: int, status: int) -> None:
        """Have a process exit."""
        os.write(self.stdins.pop(pid), b"%d\n" % status)

    def close(self) -> None:
        """End what still runs."""
        for descriptor in self.stdins.values():
            os.close(descriptor)

    async def create(
        self, container_id: str, bundle: str, streams: StandardStreams, *, tty: bool
    ) -> tuple[Process, int | None]:
        failure = self._next_failure()
        if container_id in self.made:
            raise ContainerExistsError("container with given ID already exists")
        assert _has_spec(bundle)
        pid = self._spawn()
        self.made[container_id] = _Made(pid)
        process = Process.adopt(self.children, pid)
        if failure:
            process.abandon(self.children)
            raise RuncError("failed late")
        return process, None

    async def exec(
        self,
        container_id: str,
        process: Mapping[str, object],
        streams: StandardStreams,
        *,
        tty: bool,
        turn: Turn = nullcontext,
    ) -> tuple[Process, int | None]:
        failure = self._next_failure()
        with turn():
            if not self._is_alive(container_id):
                raise ContainerStoppedError("cannot exec in a stopped container")
            found = Process.adopt(self.children, self._spawn())
        if failure:
            found.abandon(self.children)
            raise RuncError("failed late")
        return found, None

    async def start(self, container_id: str, turn: Turn = nullcontext) -> None:
        failure = self._next_failure()
        with turn():
            if not self._is_alive(container_id):
                raise ContainerStoppedError("cannot start a container that has stopped")
            if self.made[container_id].is_started:
                raise WrongStateError("cannot start an already running container")
            self.made[container_id].is_started = not failure
        if failure:
            raise RuncError("failed late")

    async def delete(self, container_id: str) -> None:
        failure = self._next_failure()
        if container_id not in self.made:
            raise ContainerNotFoundError("container does not exist")
        if self._is_alive(container_id):
            if self.made[container_id].is_started:
                raise WrongStateError("cannot delete container that is not stopped")
            os.kill(self.made[container_id].pid, signal.SIGKILL)
        del self.made[container_id]
        if failure:
            raise RuncError("failed late")

    async def destroy(self, container_id: str) -> None:
        if self._is_alive(container_id):
            os.kill(self.made[container_id].pid, signal.SIGKILL)
        self.made.pop(container_id, None)

    def _next_failure(self) -> bool:
        failure, self.failure = self.failure, ""
        if failure == "before":
            raise RuncError("failed early")
        return bool(failure)

    def _is_alive(self, container_id: str) -> bool:
        if container_id not in self.made:
            return False
        try:
            how = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.made[container_id].pid, how) is None
        except ChildProcessError:
            return False

    def _spawn(self) -> int:
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        actions = [(os.POSIX_SPAWN_DUP2, theirs, 0)]
        pid = os.posix_spawn(_PROGRAM[0], _PROGRAM, {}, file_actions=actions)
        os.close(theirs)
        self.stdins[pid] = ours
        return pid


def _has_spec(bundle: str) -> bool:
    return Path(bundle, "config.json").is_file()
