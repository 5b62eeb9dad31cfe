"""Claims about time and about other processes fail when they are wrong, and not before."""

import pytest

from tests.support.patience import is_soon, nothing_grows


@pytest.mark.parametrize(
    ("seconds", "is_so", "tries"),
    [([1.0], True, 1), ([9.0, 9.0, 1.0], True, 3), ([9.0] * 5, False, 3)],
)
def test_a_limit_is_tried_three_times(seconds: list[float], is_so: bool, tries: int) -> None:
    """As few as it takes; what never keeps to it does not."""
    left = list(seconds)
    assert is_soon(lambda: left.pop(0), 5.0) is is_so
    assert len(seconds) - len(left) == tries


def test_what_goes_again_has_not_grown() -> None:
    """Nor has what there is less of, nor what is not named."""
    counts = iter([{"a": 3, "b": 1, "c": 0}, {"a": 2, "b": 0, "c": 9}])
    nothing_grows({"a": 2, "b": 1}, lambda: next(counts))


def test_what_stays_has_grown() -> None:
    """Both counts are told."""
    with pytest.raises(AssertionError, match=r"\{'a': \(1, 2\)\}"):
        nothing_grows({"a": 1}, lambda: {"a": 2}, patience_s=0)
