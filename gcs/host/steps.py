"""The steps towards a running container, told to the client and to the log as they pass."""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gcs.wire.control import Progress, ProgressState

__all__ = ["Steps"]

_log = logging.getLogger("gcs.host.steps")


class Steps:
    """Tells of steps; several may be under way at once."""

    def __init__(self, tell: Callable[[Progress], Awaitable[None]]) -> None:
        self._tell = tell

    @asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[None]:
        """Tell that a step has begun, and, unless it fails, that it is done."""
        began = time.monotonic()
        await self._tell(Progress(step=name, state=ProgressState.BEGUN))
        yield
        milliseconds = round((time.monotonic() - began) * 1000)
        _log.info("step done", extra={"step": name, "milliseconds": milliseconds})
        await self._tell(
            Progress(step=name, state=ProgressState.DONE, milliseconds=milliseconds)
        )

    async def advance(self, name: str, detail: str) -> None:
        """Tell more about a step that is under way."""
        await self._tell(Progress(step=name, state=ProgressState.ADVANCED, detail=detail))
