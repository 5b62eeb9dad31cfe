"""Out-of-memory kills that were seen, for hosts that wait for them. State only."""

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

import trio

from gcs.wire.extensions import OutOfMemory

__all__ = ["Kills"]

#: Kept for a host that comes later; 64 take 12 KB of a reply, quotes and all.
_MAX_KEPT = 64


@dataclass(slots=True)
class Kills:
    """The newest events of all containers, in their order."""

    _newest: deque[OutOfMemory] = field(default_factory=lambda: deque(maxlen=_MAX_KEPT))
    _count: int = 0
    _changed: trio.Event = field(default_factory=trio.Event)

    def add(self, container_id: str, oom_kill: int, limit: int) -> None:
        """Enter that so many processes of a container have been killed by now."""
        self._count += 1
        self._newest.append(
            OutOfMemory(
                number=self._count,
                container_id=container_id,
                time=datetime.now(UTC).isoformat(),
                oom_kill=oom_kill,
                limit=limit,
            )
        )
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def after(self, number: int) -> tuple[OutOfMemory, ...]:
        """Return what came after the event of this number; wait while that is nothing."""
        while not (found := self._since(number)):
            await self._changed.wait()
        return found

    def _since(self, number: int) -> tuple[OutOfMemory, ...]:
        known = number if number <= self._count else 0  # else it is of an earlier agent
        return tuple(event for event in self._newest if event.number > known)
