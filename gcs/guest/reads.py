"""Reads of properties, which block, and may hang in the kernel.

A thread that hangs keeps its place until the kernel lets it go, long after it was given up. So
each property of a container, or of the VM, has one place of its own: what hangs delays nothing
but further reads of the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from gcs.errors import DeadlineError

__all__ = ["Reads"]

T = TypeVar("T")

#: Hosts ask every few seconds, and take a VM for dead after five minutes without an answer.
_TIMEOUT_S = 20.0


@dataclass(slots=True)
class Reads:
    """The places of one container, or of the VM."""

    #: what they are about, for errors
    subject: str
    _threads: dict[str, trio.CapacityLimiter] = field(default_factory=dict)

    async def run(self, name: str, function: Callable[[], T]) -> T:
        """Read a property in a thread. Raises DeadlineError when that takes too long."""
        threads = self._threads.setdefault(name, trio.CapacityLimiter(1))
        with trio.move_on_after(_TIMEOUT_S):
            return await trio.to_thread.run_sync(
                function, limiter=threads, abandon_on_cancel=True
            )
        raise DeadlineError(f"{name} of {self.subject}: not read within {_TIMEOUT_S:g} s")
