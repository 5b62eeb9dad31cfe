"""The tables of tests/README.md name tests that exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", (TESTS / "README.md").read_text())


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED)))
def test_each_test_that_is_named_exists(file: str, name: str) -> None:
    """A test that was renamed or removed is not counted on any longer."""
    defined = re.findall(
        r"^(?:(?:async )?def )?(\w+)(?:\(| = )", (TESTS / file).read_text(), re.M
    )
    assert name in defined
