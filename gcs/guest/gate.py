"""Who is at work on a container: a deletion must leave nobody who would meet the next one.

The runtime knows containers by their ids alone: a call that waited for its turn while its
container was deleted, and another made of that id, would be about the other one.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import trio

from gcs.errors import ContainerNotFoundError

__all__ = ["Gate"]


@dataclass(slots=True)
class Gate:
    """Open as long as the container is there, and counting who is inside."""

    container_id: str
    _is_open: bool = True
    _inside: int = 0
    _left: trio.Event = field(default_factory=trio.Event)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside for the block. Raises ContainerNotFoundError when the gate is closed."""
        if not self._is_open:
            raise ContainerNotFoundError(f"container {self.container_id} is being deleted")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            left, self._left = self._left, trio.Event()
            left.set()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Let nobody in, and begin the block when all are out; open again only if it fails."""
        self._is_open = False
        try:
            while self._inside:
                await self._left.wait()
            yield
        except BaseException:
            self._is_open = True
            raise
