"""Property tests may take minutes: they draw as many examples as the profile says."""

import os
from pathlib import Path

import pytest

#: Seconds for one property. The slowest of 500 examples took 30 s on a quiet machine; a failing
#: one is shrunk, which takes several times that, and a limit that strikes meanwhile hides it.
_LIMIT_S = 3600 if os.environ.get("GCS_SOAK") else 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.timeout(_LIMIT_S))
