"""Whether figures have got worse than those that are committed.

A machine that does other work makes a ratio worse for a while, or better; a regression makes it
worse each time. So what misses is measured again, and of each figure the best counts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from tests.bench.figures import Report, complaints, with_the_best

__all__ = ["TRIES", "check"]

#: Measurements of what misses, at the most. Each takes as long as the first, and a suite that
#: passes measures next to nothing twice.
TRIES = 4


def check(
    committed: Mapping[str, Report],
    measure: Callable[[Sequence[str]], Iterable[Report]],
    *,
    is_quick: bool = False,
) -> list[str]:
    """Return a sentence for each ratio that is worse in every measurement, or not measured.

    Args:
        committed: The reports to compare with, by name.
        measure: Gives a report for each name that it is called with.
        is_quick: Whether a report may have a part of the committed figures only.
    """

    def missed(name: str) -> list[str]:
        return list(complaints(best[name], committed[name], is_quick=is_quick))

    best: dict[str, Report] = {}
    names = list(committed)
    for _ in range(TRIES):
        for report in measure(names):
            before = best.get(report.name)
            best[report.name] = with_the_best(before, report) if before else report
        names = [name for name in names if missed(name)]
        if not names:
            break
    return [each for name in names for each in missed(name)]
