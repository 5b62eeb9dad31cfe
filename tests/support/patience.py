"""Claims about time and about other processes, on a machine that has other things to do."""

import time
from collections.abc import Callable, Mapping

__all__ = ["is_soon", "nothing_grows"]

#: Measurements at the most: whatever else the machine does, it does not do each time.
_TRIES = 3
_LOOK_S = 0.5


def is_soon(measure: Callable[[], float], limit_s: float) -> bool:
    """Tell whether something takes less than a limit, in one of a few measurements."""
    return any(measure() < limit_s for _ in range(_TRIES))


def nothing_grows(
    before: Mapping[str, int], count: Callable[[], Mapping[str, int]], patience_s: float = 60
) -> None:
    """Wait until there is no more of anything than before; what is not named there may grow."""
    until = time.monotonic() + patience_s
    while grown := _grown(before, count()):
        assert time.monotonic() < until, grown
        time.sleep(_LOOK_S)


def _grown(
    before: Mapping[str, int], after: Mapping[str, int]
) -> Mapping[str, tuple[int, int]]:
    """Return what there is more of, with both counts."""
    return {name: (count, after[name]) for name, count in before.items() if after[name] > count}
