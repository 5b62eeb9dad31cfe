"""A result that one task makes and others wait for."""

from typing import Generic, TypeVar

import trio

from gcs.errors import GcsError

__all__ = ["Outcome"]

T = TypeVar("T")


class Outcome(Generic[T]):
    """A value or an error, set once."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._value: T | None = None
        self._error: GcsError | None = None

    @property
    def is_set(self) -> bool:
        """Tell whether it is there."""
        return self._event.is_set()

    @property
    def value(self) -> T | None:
        """The value; None when there is none, yet or at all."""
        return self._value

    def succeed(self, value: T) -> None:
        """Set the value; no effect when something is set already."""
        if not self.is_set:
            self._value = value
            self._event.set()

    def fail(self, error: GcsError) -> None:
        """Set the error; no effect when something is set already."""
        if not self.is_set:
            self._error = error
            self._event.set()

    async def wait(self) -> None:
        """Wait until something is set, be it an error."""
        await self._event.wait()

    async def get(self) -> T:
        """Wait for it, and return the value or raise the error."""
        await self._event.wait()
        if self._error is not None:
            raise self._error
        assert self._value is not None, "set by succeed"
        return self._value
