"""What the agent takes for itself beyond what it was started with, and gives to no child.

Its own limit of open descriptors is raised, and the kernel, short of memory, ends anything else
before it: its end is the VM's. A child starts with what the agent was started with.

Source: setrlimit(2), proc_pid_oom_score_adj(5).
"""

import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Inherited", "claim_memory", "claim_open_files", "inherited"]

#: Each process with three streams takes seven: three pipes, three sockets and a pidfd. So this
#: is for nine thousand of them, four times what a bridge can ask for at once.
_OPEN_FILES = 65_536
#: As low as it goes but for "never": with nothing left to end the kernel would panic.
_OOM_SCORE_ADJ = -999
_OOM_FILE = "/proc/self/oom_score_adj"
_SCRIPT = f"""\
echo "$3" >{_OOM_FILE} && ulimit -S -n "$1" && ulimit -H -n "$2" && shift 3 && exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the agent was started with."""

    #: soft and hard limit
    open_files: tuple[int, int]
    oom_score_adj: int

    def wrapped(self, argv: Sequence[str]) -> tuple[str, ...]:
        """Return a command that takes it back and becomes the given one.

        A shell is started five times as fast as this process forks, which `restore` takes; but
        shells add variables to the environment.
        """
        numbers = (*map(str, self.open_files), str(self.oom_score_adj))
        return ("/bin/sh", "-c", _SCRIPT, "sh", *numbers, *argv)

    def restore(self) -> None:
        """Take it back; for a child between fork and exec, so nothing here may take a lock."""
        _write(_OOM_FILE, str(self.oom_score_adj))
        # Last: the parent's descriptors are still open, and may be more than that already.
        resource.setrlimit(resource.RLIMIT_NOFILE, self.open_files)


def inherited() -> Inherited:
    """Return what this process has now."""
    with open(_OOM_FILE, "rb") as file:  # noqa: PTH123 - as below
        score = int(file.read())
    return Inherited(resource.getrlimit(resource.RLIMIT_NOFILE), score)


def claim_open_files() -> int:
    """Raise the limit of open descriptors; return what it is now.

    The hard one stays where only root may raise it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(hard, _OPEN_FILES)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (ValueError, OSError):  # setrlimit(2) EPERM is a ValueError here
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return wanted


def claim_memory() -> None:
    """Have the kernel end other processes first. Raises OSError where only root may."""
    _write(_OOM_FILE, str(_OOM_SCORE_ADJ))


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
