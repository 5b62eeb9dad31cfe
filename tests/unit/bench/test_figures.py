"""Ratios, their comparison with those that are committed, and the files of docs/bench."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.figures import Figure, Report, complaints, figure, load, rounded, store
from tests.bench.machine import ROOT
from tests.support.machine import MACHINE

BENCH = ROOT / "docs" / "bench"


def _figure(pairs: Sequence[tuple[float, float]], *, is_rate: bool = False) -> Figure:
    return figure("exec", "exec of true", "s", "by hand", pairs, is_rate=is_rate)


def _report(*figures: Figure) -> Report:
    return Report(name="exec", machine=MACHINE, figures=figures)


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    """A pair that was measured in a slow moment says as much as one of a fast one."""
    assert _figure([(2.0, 1.0), (40.0, 16.0), (9.0, 3.0)]).ratio == 2.5


@pytest.mark.parametrize(
    ("ratio", "is_rate", "is_worse"),
    [
        (1.3, False, False),
        (1.4, False, True),
        (0.1, False, False),
        (0.75, True, False),
        (0.7, True, True),
        (9.0, True, False),
    ],
)
def test_what_is_worse_by_more_than_the_tolerance_is_said(
    ratio: float, is_rate: bool, is_worse: bool
) -> None:
    """More time is worse, and less of a rate; what has got better is let pass."""
    committed = _report(_figure([(1.0, 1.0)], is_rate=is_rate))
    found = list(complaints(_report(_figure([(ratio, 1.0)], is_rate=is_rate)), committed))
    assert bool(found) == is_worse
    assert all("exec: ratio" in each and "by hand" in each for each in found)


def test_the_tolerance_is_the_committed_one() -> None:
    """The measurement can't bring its own."""
    strict = msgspec.structs.replace(_figure([(1.0, 1.0)]), tolerance=0.01)
    assert list(complaints(_report(_figure([(1.02, 1.0)])), _report(strict)))


def test_a_figure_that_is_not_committed_is_said() -> None:
    """It would never be compared."""
    (sentence,) = complaints(_report(_figure([(1.0, 1.0)])), _report())
    assert "no such figure" in sentence


def test_a_figure_that_is_not_measured_any_more_is_said() -> None:
    """Unless the measurement is quick, which takes a part of them; but none at all is said."""
    one = _figure([(1.0, 1.0)])
    committed = _report(one, msgspec.structs.replace(one, name="exec, streams"))
    (sentence,) = complaints(_report(one), committed)
    assert "exec, streams: docs/bench has it, and it is not measured" in sentence
    assert not list(complaints(_report(one), committed, is_quick=True))
    assert len(list(complaints(_report(), committed, is_quick=True))) == 2


def test_a_new_measurement_keeps_the_tolerance_of_its_file(tmp_path: Path) -> None:
    """It changes by hand only."""
    path = tmp_path / "bench" / "exec.json"
    store(_report(_figure([(1.0, 1.0)])), path)
    changed = path.read_text().replace('"tolerance": 0.35', '"tolerance": 0.2')
    assert changed != path.read_text()
    path.write_text(changed)
    store(_report(_figure([(3.0, 1.0)])), path)
    (kept,) = load(path).figures
    assert (kept.ratio, kept.tolerance) == (3.0, 0.2)


@given(st.floats(1e-6, 1e9))
def test_four_digits_are_kept(value: float) -> None:
    """More would be noise in every diff."""
    assert abs(rounded(value) - value) <= value / 1000


@pytest.mark.parametrize("path", sorted(BENCH.glob("*.json")), ids=lambda path: path.stem)
def test_each_committed_report_is_whole(path: Path) -> None:
    """It names its machine, its ratios are those of its samples, and it has a picture."""
    report = load(path)
    assert report.name == path.stem
    assert report.machine.processor
    for each in report.figures:
        again = _figure(list(zip(each.ours, each.floor, strict=True)))
        assert each.ratio == pytest.approx(again.ratio, rel=0.01)
        assert 0 < each.tolerance <= 1
    pictures = [BENCH / f"{path.stem}.svg", BENCH.parent / f"{path.stem}.svg"]
    assert any(picture.exists() for picture in pictures)
