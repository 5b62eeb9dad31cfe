"""What a figure that has got worse does to `python -m tests.bench --check`."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench import __main__ as program
from tests.bench.check import TRIES, check
from tests.bench.figures import Figure, Report, figure, store
from tests.support.machine import MACHINE


def _figure(name: str, ratio: float, *, is_rate: bool = False) -> Figure:
    return figure(name, "exec of true", "s", "by hand", [(ratio, 1.0)], is_rate=is_rate)


def _report(name: str, *figures: Figure) -> Report:
    return Report(name=name, machine=MACHINE, figures=figures)


class Measurements:
    """Ratios of a bench `NAME`, in the order in which they are measured; the last stays."""

    def __init__(self, **ratios: Sequence[float]) -> None:
        self._ratios = ratios
        self.asked: list[Sequence[str]] = []

    def __call__(self, names: Sequence[str]) -> list[Report]:
        self.asked.append(tuple(names))
        turn = len(self.asked) - 1
        return [_report(each, _figure("f", self._ratio(each, turn))) for each in names]

    def _ratio(self, name: str, turn: int) -> float:
        return self._ratios[name][min(turn, len(self._ratios[name]) - 1)]


_COMMITTED = {name: _report(name, _figure("f", 1.0)) for name in ("exec", "boot")}


def test_what_is_as_good_is_measured_once() -> None:
    """And all of it at once."""
    measure = Measurements(exec=[1.1], boot=[0.9])
    assert check(_COMMITTED, measure) == []
    assert measure.asked == [("exec", "boot")]


def test_what_misses_is_measured_again_alone() -> None:
    """One good measurement is enough: a machine that is busy makes no regression."""
    measure = Measurements(exec=[1.1], boot=[2.0, 1.5, 1.2])
    assert check(_COMMITTED, measure) == []
    assert measure.asked == [("exec", "boot"), ("boot",), ("boot",)]


def test_what_is_worse_each_time_is_said() -> None:
    """With the best of what was measured."""
    measure = Measurements(exec=[1.1], boot=[3.0, 2.0, 2.5])
    (sentence,) = check(_COMMITTED, measure)
    assert "boot, f: ratio 2 to its floor" in sentence
    assert len(measure.asked) == TRIES


@pytest.mark.parametrize(("is_rate", "ratios"), [(False, (2.0, 1.0)), (True, (0.5, 1.0))])
def test_each_figure_has_a_best_of_its_own(is_rate: bool, ratios: tuple[float, float]) -> None:
    """Two that are well at different times are well."""
    committed = {"b": _report("b", *(_figure(n, 1.0, is_rate=is_rate) for n in "xy"))}
    turns = [
        _report("b", _figure("x", x, is_rate=is_rate), _figure("y", y, is_rate=is_rate))
        for x, y in (ratios, ratios[::-1])
    ]
    assert check(committed, lambda _: [turns.pop(0)]) == []
    assert turns == []


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for figures, with a bench that takes twice as long as its floor."""

    async def measure(is_quick: bool) -> program.Measured:
        return [_figure("f", 1.9 if is_quick else 2.0)], {}

    monkeypatch.setattr(program, "DOCS", tmp_path)
    monkeypatch.setattr(program, "ALONE", {"boot": measure})
    monkeypatch.setattr(program, "IN_A_VM", {})
    monkeypatch.setattr(program, "describe", lambda _: MACHINE)
    return tmp_path


@pytest.mark.parametrize(("ratio", "status"), [(2.5, 0), (1.9, 0), (1.3, 1)])
def test_a_ratio_that_is_worse_than_the_committed_one_is_a_failure(
    docs: Path, capsys: pytest.CaptureFixture[str], ratio: float, status: int
) -> None:
    """By more than the file lets pass; and nothing is written."""
    path = docs / "bench" / "boot.json"
    store(_report("boot", _figure("f", ratio)), path)
    before = path.read_text()
    assert program.main(["--check", "--quick"]) == status
    assert ("worse by" in capsys.readouterr().err) == bool(status)
    assert path.read_text() == before


@pytest.mark.parametrize(("options", "status"), [((), 1), (("--quick",), 0)])
def test_a_committed_figure_that_is_not_measured_is_a_failure(
    docs: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], status: int
) -> None:
    """A bench that has lost one, or its name, passes no whole check."""
    committed = _report("boot", _figure("f", 2.0), _figure("lost", 1.0))
    store(committed, docs / "bench" / "boot.json")
    assert program.main(["--check", *options]) == status
    assert ("boot, lost:" in capsys.readouterr().err) == bool(status)


def test_figures_that_are_not_committed_are_an_error(
    docs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until they are measured: then they are there, with a picture."""
    with pytest.raises(SystemExit, match="2"):
        program.main(["--check"])
    assert "no figures to compare with: boot" in capsys.readouterr().err
    assert program.main([]) == 0
    assert sorted(path.name for path in (docs / "bench").iterdir()) == ["boot.json", "boot.svg"]
    assert program.main(["--check"]) == 0
