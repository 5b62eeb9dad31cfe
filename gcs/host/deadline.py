"""Deadlines whose error says what was waited for."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from gcs.errors import DeadlineError

__all__ = ["deadline"]


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Bound the waits of a block. Raises DeadlineError that names what did not come in time."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise DeadlineError(f"{what}: not within {seconds:g} s") from None
