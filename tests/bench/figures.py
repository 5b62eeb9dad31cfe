"""A figure and its floor, the file that it is kept in, and whether it has got worse.

Absolute times depend on the machine and on what else it does. So each of our samples is taken
beside one of a floor, a program without our code that does the same, and what is compared with
earlier is the median of the pairs' ratios.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import msgspec

from tests.bench.machine import Machine

__all__ = [
    "Figure",
    "Report",
    "complaints",
    "figure",
    "kept_tolerances",
    "load",
    "store",
    "with_the_best",
]

#: How much worse a ratio may be than the one that is committed, where its file says nothing
#: else: under emulation on two busy cores, medians of runs differ by about as much.
_TOLERANCE = 0.35
#: Digits that are kept; more are noise, and would be in every diff.
_DIGITS = 4


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """Samples of ours and of its floor, in pairs."""

    name: str
    what: str
    unit: str
    floor_is: str
    ours: tuple[float, ...]
    floor: tuple[float, ...]
    #: more is better
    is_rate: bool = False
    #: the ratio that is aimed at
    wanted: float | None = None
    ratio: float
    tolerance: float = _TOLERANCE

    def worse_than(self, other: "Figure") -> float:
        """Return by which factor the ratio is worse than another's; below 1 it is better."""
        return other.ratio / self.ratio if self.is_rate else self.ratio / other.ratio

    def meets_aim(self) -> bool:
        """Tell whether the ratio is as good as wanted."""
        if self.wanted is None:
            return True
        return self.ratio >= self.wanted if self.is_rate else self.ratio <= self.wanted

    def line(self) -> str:
        """Return the figure in one line, for a terminal."""
        aim = (
            "" if self.wanted is None else f" (wanted {'≥≤'[not self.is_rate]} {self.wanted:g})"
        )
        ours, floor = median(self.ours), median(self.floor)
        missed = "" if self.meets_aim() else "  MISSED"
        return (
            f"{self.name}: {ours:.4g} {self.unit} beside {floor:.4g} {self.unit}, "
            f"ratio {self.ratio:.3g}{aim}{missed}"
        )


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one file of docs/bench holds."""

    name: str
    machine: Machine
    figures: tuple[Figure, ...] = ()
    #: what has no floor: name → samples
    values: dict[str, tuple[float, ...]] = {}


def figure(
    name: str,
    what: str,
    unit: str,
    floor_is: str,
    pairs: Sequence[tuple[float, float]],
    *,
    is_rate: bool = False,
    wanted: float | None = None,
) -> Figure:
    """Return the figure of some pairs (ours, floor)."""
    ratio = median(ours / floor for ours, floor in pairs)
    return Figure(
        name=name,
        what=what,
        unit=unit,
        floor_is=floor_is,
        ours=tuple(rounded(ours) for ours, _ in pairs),
        floor=tuple(rounded(floor) for _, floor in pairs),
        is_rate=is_rate,
        wanted=wanted,
        ratio=rounded(ratio),
    )


def rounded(value: float) -> float:
    """Return a value with the digits that are kept of it."""
    if value == 0:
        return 0.0
    return round(value, _DIGITS - 1 - math.floor(math.log10(abs(value))))


def load(path: Path) -> Report:
    """Return what a file of docs/bench holds. Raises msgspec.ValidationError."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def store(report: Report, path: Path) -> None:
    """Write a report, with the tolerances that its file had before."""
    kept = kept_tolerances(path)
    figures = tuple(
        msgspec.structs.replace(each, tolerance=kept.get(each.name, each.tolerance))
        for each in report.figures
    )
    data = msgspec.json.encode(msgspec.structs.replace(report, figures=figures))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(data, indent=1) + b"\n")


def kept_tolerances(path: Path) -> dict[str, float]:
    """Return the tolerance of each figure of a file; none where there is no file."""
    if not path.exists():
        return {}
    return {each.name: each.tolerance for each in load(path).figures}


def complaints(measured: Report, committed: Report, *, is_quick: bool = False) -> Iterator[str]:
    """Yield a sentence for each ratio that is worse than the committed one by its tolerance.

    So it does for each figure that only one of the two has: it would never be compared. A quick
    measurement has a part of them and is let miss the others, as long as it has any.
    """
    if not is_quick or not measured.figures:
        found = {each.name for each in measured.figures}
        for each in committed.figures:
            if each.name not in found:
                yield f"{measured.name}, {each.name}: docs/bench has it, and it is not measured"
    before = {each.name: each for each in committed.figures}
    for now in measured.figures:
        then = before.get(now.name)
        if then is None:
            yield f"{measured.name}, {now.name}: docs/bench has no such figure"
            continue
        worse = now.worse_than(then)
        if worse > 1 + then.tolerance:
            yield (
                f"{measured.name}, {now.name}: ratio {now.ratio:.3g} to its floor "
                f"({now.floor_is}), committed is {then.ratio:.3g}: worse by "
                f"{worse - 1:.0%}, and {then.tolerance:.0%} is let pass"
            )


def with_the_best(one: Report, other: Report) -> Report:
    """Return a report that has the better measurement of each figure of two."""
    before = {each.name: each for each in one.figures}
    figures = tuple(
        before[each.name]
        if each.name in before and each.worse_than(before[each.name]) > 1
        else each
        for each in other.figures
    )
    return msgspec.structs.replace(other, figures=figures)
