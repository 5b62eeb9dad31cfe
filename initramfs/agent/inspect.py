"""Stand in for the standard library's inspect: trio asks for kinds and states of coroutines.

The real one is for sources and signatures, and imports what takes code apart. A dataclass asks
for its signature only when it has no documentation.
"""

from __future__ import annotations

from types import AsyncGeneratorType, CoroutineType

__all__ = [
    "CORO_CLOSED",
    "CORO_CREATED",
    "CORO_RUNNING",
    "CORO_SUSPENDED",
    "getcoroutinestate",
    "isasyncgen",
    "iscoroutine",
]

CORO_CREATED = "CORO_CREATED"
CORO_RUNNING = "CORO_RUNNING"
CORO_SUSPENDED = "CORO_SUSPENDED"
CORO_CLOSED = "CORO_CLOSED"


def iscoroutine(thing: object) -> bool:
    """Say whether it is what a function with `async` returns."""
    return isinstance(thing, CoroutineType)


def isasyncgen(thing: object) -> bool:
    """Say whether it is what such a function with `yield` returns."""
    return isinstance(thing, AsyncGeneratorType)


def getcoroutinestate(coroutine: CoroutineType[object, object, object]) -> str:
    """Return one of the four."""
    if coroutine.cr_running:
        return CORO_RUNNING
    if coroutine.cr_suspended:
        return CORO_SUSPENDED
    return CORO_CLOSED if coroutine.cr_frame is None else CORO_CREATED
