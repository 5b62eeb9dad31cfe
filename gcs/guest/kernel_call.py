"""Work in the kernel that may hang: waited for up to a limit, and then left to end by itself.

A thread that is in a system call can't be cancelled: a disk that does not answer keeps it. What
was given up is undone by the thread itself, should it ever come back.
"""

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from gcs.errors import DeadlineError
from gcs.guest.log import fields
from gcs.linux.undo import Undo, on_failure

__all__ = ["in_kernel"]

_log = logging.getLogger("gcs.kernel")

T = TypeVar("T")

#: The longest known is an ext4 that replays a large journal: tens of seconds on a slow disk.
#: Hosts wait 300 s for the answer.
_TIMEOUT_S = 60.0


class _Work(Generic[T]):
    """One call, and who has the last word on it: the thread or who waits."""

    def __init__(self, function: Callable[[Undo], T], outer: Undo | None, what: str) -> None:
        self._function = function
        self._outer = outer
        self._what = what
        self._lock = threading.Lock()
        self._is_done = False
        self._is_given_up = False
        self.result: list[T] = []

    def run(self) -> None:
        """Do the work, in a thread; take it back if nobody waits any more."""
        with on_failure(self._outer) as undo:
            result = self._function(undo)
            with self._lock:
                self._is_done = not self._is_given_up
                self.result = [result]
            if not self._is_done:
                _log.warning("late: undone", extra=fields(what=self._what))
                undo.run(DeadlineError(self._what))

    def give_up(self) -> bool:
        """Wait no more; return False if it is done after all."""
        with self._lock:
            self._is_given_up = not self._is_done
            return self._is_given_up


async def in_kernel(
    threads: trio.CapacityLimiter,
    what: str,
    function: Callable[[Undo], T],
    outer: Undo | None = None,
) -> T:
    """Run a function in a thread; it undoes what it did when it fails.

    What it has registered with its `Undo` is undone when it ends too late. Raises DeadlineError
    that says what was waited for.
    """
    work = _Work(function, outer, what)
    with trio.move_on_after(_TIMEOUT_S, shield=True) as scope:
        await trio.to_thread.run_sync(work.run, abandon_on_cancel=True, limiter=threads)
    if scope.cancelled_caught and work.give_up():
        raise DeadlineError(f"{what}: the kernel has not answered within {_TIMEOUT_S:g} s")
    return work.result[0]
