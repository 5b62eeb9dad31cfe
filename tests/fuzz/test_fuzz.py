"""A short run of the fuzzer, and what it has to be able to see."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import targets

#: Seconds of fuzzing per side; `make fuzz` runs for minutes.
SHORT_S = 20
#: What Python, the instruments and a busy machine take on top.
_OVERHEAD_S = 60
_ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(SHORT_S + 2 * _OVERHEAD_S)
@pytest.mark.parametrize("side", sorted(targets.TARGETS))
def test_nothing_is_found_in_a_short_run(side: str) -> None:
    """The fuzzer's time goes by without a find."""
    argv = [sys.executable, "-m", "tests.fuzz", side, "--seconds", str(SHORT_S)]
    run = subprocess.run(
        argv, cwd=_ROOT, capture_output=True, text=True, timeout=SHORT_S + _OVERHEAD_S
    )
    assert run.returncode == 0, run.stderr[-8000:]
    assert "stat::number_of_executed_units" in run.stderr


@pytest.mark.parametrize("side", sorted(targets.TARGETS))
def test_the_seeds_are_no_finds(side: str) -> None:
    """Every golden frame is handled within the bounds."""
    seeds = list(targets.seeds(side))
    assert len(seeds) > 50
    for seed in seeds:
        assert len(seed) <= targets.MAX_INPUT
        targets.bounded(side, seed)


@pytest.mark.parametrize("length", [16, 100, targets.MAX_INPUT - 20])
def test_the_worst_known_inputs_are_no_finds(length: int) -> None:
    """What takes the most memory and time for its length stays within the bounds."""
    head = b"\xa1\x67NewName\x9a" + length.to_bytes(4, "big")
    payloads = [
        head + b"\xa0" * length,
        head + b"\xff" * length,
        b"[" * length,
        b'{"a":' * (length // 5),
        b'{"a":[' + b"{}," * (length // 3) + b"{}]}",
        b'{"a":' + b"9" * length + b"}",
    ]
    for payload in payloads:
        targets.bounded("guest", bytes([1, 2]) + payload)
        targets.bounded("host", bytes([1, 2]) + payload)


def _fail(_data: bytes) -> None:
    raise RecursionError


def _waste(_data: bytes) -> None:
    assert bytearray(2 * targets.MAX_GROWTH)


def _dawdle(_data: bytes) -> None:
    for _ in range(1_000_000):
        pass


@pytest.mark.parametrize(
    ("target", "kind"),
    [(_fail, RecursionError), (_waste, AssertionError), (_dawdle, AssertionError)],
)
def test_a_find_is_seen(
    target: Callable[[bytes], None],
    kind: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A strange exception, a waste of memory and a waste of time all raise."""
    monkeypatch.setitem(targets.TARGETS, "guest", target)
    monkeypatch.setattr(targets, "MAX_SECONDS", 0.001)
    with pytest.raises(kind):
        targets.bounded("guest", b"")
