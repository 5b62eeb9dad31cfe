"""Statistics of any cgroup, whatever its files hold."""

import tempfile
from pathlib import Path

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from gcs.guest import statistics
from gcs.linux import cgroup
from gcs.wire.metrics import Metrics
from tests.support.cgroups import make_cgroup

_NAMES = (
    "memory_stat",
    "memory_current",
    "memory_max",
    "memory_events",
    "cpu_stat",
    "pids_max",
    "io_stat",
)
_WORDS = st.sampled_from(
    [
        "anon",
        "oom_kill",
        "usage_usec",
        "8:0",
        "rbytes=",
        "rbytes=5",
        "max",
        "=",
        ":",
        "-1",
        "\n",
    ]
)
_texts = st.lists(_WORDS | st.integers(0, 2**70).map(str) | st.text(max_size=4)).map(" ".join)


@given(st.dictionaries(st.sampled_from(_NAMES), _texts))
@example({"memory_stat": "", "io_stat": "\x00 anon"})
def test_any_content_gives_a_document(files: dict[str, str]) -> None:
    """Odd lines are passed over, and every number is one that the wire can carry."""
    root = cgroup.ROOT
    with tempfile.TemporaryDirectory() as folder:
        cgroup.ROOT = Path(folder)
        try:
            make_cgroup(Path(folder) / "c", **files)
            found = statistics.metrics("/c", None)
        finally:
            cgroup.ROOT = root
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(found)), Metrics) == found
