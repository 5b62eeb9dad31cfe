"""Tasks that serve a block of code, without changing what the block raises.

A plain nursery in a context manager wraps the block's own error into an ExceptionGroup, which
its callers would have to take apart at every level.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

__all__ = ["all_of", "open_background", "together"]


@asynccontextmanager
async def open_background() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that is cancelled when the block ends, however it ends.

    An error of the block leaves as it is. The tasks must not raise what callers are to catch:
    they set state that the block waits for.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:  # noqa: BLE001 - raised again below, outside the nursery
            failure = error
        finally:
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def together(*calls: Callable[[], Awaitable[object]]) -> None:
    """Make several calls at once; the first that fails cancels the others and is raised."""
    failures: list[Exception] = []

    async def make(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except Exception as error:  # noqa: BLE001 - raised again below, outside the nursery
            failures.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(make, call)
    if failures:
        raise failures[0]


async def all_of(*calls: Callable[[], Awaitable[object]]) -> None:
    """Make several calls at once; when all have ended, the first failure of any is raised.

    None of them is broken off half-way, so that what they have done can be told, and undone.
    """
    failures: list[Exception] = []

    async def make(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except Exception as error:  # noqa: BLE001 - raised again below, outside the nursery
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(make, call)
    if failures:
        raise failures[0]
