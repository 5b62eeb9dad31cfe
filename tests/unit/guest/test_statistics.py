"""Files of cgroup v2 become the document of cgroup v1 that hosts read."""

import os
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from gcs.guest import statistics
from gcs.linux import cgroup
from gcs.linux.kept import KeptFiles
from gcs.wire.codec import Encoding
from gcs.wire.connection import Pending, encode_reply
from gcs.wire.frame import MAX_GUEST_FRAME, Category, Kind, MessageType
from gcs.wire.messages import GetPropertiesReply, Rpc
from gcs.wire.metrics import UNLIMITED, BlkioStat, CpuStat, MemoryStat, PidsStat
from gcs.wire.properties import ProcessDetails, Properties
from tests.support.cgroups import MIB, make_cgroup


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that stands for the cgroup file system."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    return tmp_path


def as_json(group: str) -> object:
    return msgspec.json.decode(msgspec.json.encode(statistics.metrics(group, None)))


def test_every_number_goes_to_its_member(root: Path) -> None:
    """The names are containerd's, the times in nanoseconds, "max" the largest number."""
    make_cgroup(root / "pods/c")
    counters = {
        "cache": 1002,
        "rss": 1001,
        "rss_huge": 1008,
        "mapped_file": 1005,
        "dirty": 1006,
        "writeback": 1007,
        "pg_fault": 1014,
        "pg_maj_fault": 1015,
        "inactive_anon": 1009,
        "active_anon": 1010,
        "inactive_file": 1011,
        "active_file": 1012,
        "unevictable": 1013,
    }
    bytes_of_disk = {"Read": 100, "Write": 200, "Discard": 300}
    operations = {"Read": 1, "Write": 2, "Discard": 3}
    assert as_json("/pods/c") == {
        "hugetlb": [{"usage": 2097152, "max": 4194304, "failcnt": 6, "pagesize": "2MB"}],
        "pids": {"current": 9, "limit": UNLIMITED},
        "cpu": {
            "usage": {"total": 30_000, "kernel": 10_000, "user": 20_000},
            "throttling": {"periods": 5, "throttled_periods": 4, "throttled_time": 3000},
        },
        "memory": {
            **counters,
            **{f"total_{name}": value for name, value in counters.items()},
            "hierarchical_memory_limit": 64 * MIB,
            "hierarchical_swap_limit": UNLIMITED,
            "usage": {"limit": 64 * MIB, "usage": 2001, "max": 2002, "failcnt": 7},
            "swap": {"limit": UNLIMITED, "usage": 2003, "max": 2004},
            "kernel": {"usage": 1003},
            "kernel_tcp": {"usage": 1004},
        },
        "blkio": {
            "io_service_bytes_recursive": [
                {"op": op, "major": 259, "value": value} for op, value in bytes_of_disk.items()
            ],
            "io_serviced_recursive": [
                {"op": op, "major": 259, "value": value} for op, value in operations.items()
            ],
        },
        "memory_oom_control": {"oom_kill": 1},
    }


def test_what_is_not_there_is_zero(root: Path) -> None:
    """A cgroup that has gone, or a kernel without controllers, is no error."""
    found = statistics.metrics("/pods/gone", None)
    assert (found.cpu, found.memory, found.pids) == (CpuStat(), MemoryStat(), PidsStat())
    assert (found.blkio, found.hugetlb, found.network) == (BlkioStat(), (), ())
    assert found.memory_oom_control is None
    make_cgroup(root / "pods/odd", memory_stat="anon\nfile x\n\nanon 1 2\n", pids_max="?\n")
    odd = statistics.metrics("/pods/odd", None)
    assert odd.memory is not None
    assert odd.memory.rss == odd.memory.cache == 0
    assert odd.pids == PidsStat(current=9)


def test_the_vm_s_are_those_of_the_root_cgroup(root: Path) -> None:
    """And of the agent's own network. It has the files that count, and none with limits."""
    make_cgroup(root / "all")
    kept = KeptFiles()
    for name in ("cpu.stat", "memory.stat", "io.stat"):
        (root / name).write_text((root / "all" / name).read_text())
    for usage in (30, 31):
        (root / "cpu.stat").write_text(f"usage_usec {usage}\n")
        found = statistics.of_vm(kept)
        assert found.cpu is not None
        assert found.cpu.usage.total == usage * 1000
        expected = statistics.metrics("/", os.getpid())
        assert expected.memory is not None
        assert expected.memory.total_rss == 1001
        assert [one.name for one in found.network] == [one.name for one in expected.network]
        assert replace(found, network=()) == replace(expected, network=())
    kept.close()


def test_the_network_is_that_of_the_process(root: Path) -> None:
    """One's own has interfaces; a process that is not there has none. `lo` is left out."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    expected = {line.rpartition(":")[0].strip() for line in lines} - {"lo"}
    assert {one.name for one in statistics.metrics("/", os.getpid()).network} == expected
    assert statistics.metrics("/", 2**22 + 1).network == ()


def test_the_largest_answer_fits_into_a_frame(root: Path) -> None:
    """More devices than are told of, with large numbers, beside the longest list of pids."""
    line = f"259:%d rbytes={2**63} wbytes={2**63} rios={2**63} wios={2**63} dbytes=1 dios=1\n"
    io_stat = "".join(line % minor for minor in range(500))
    make_cgroup(root / "pods/c", io_stat=io_stat)
    listed = tuple(ProcessDetails(process_id=2**22 - n) for n in range(1000))
    properties = Properties(
        process_list=listed, lcow_metrics=statistics.metrics("/pods/c", os.getpid())
    )
    kind = MessageType(Kind.REQUEST, Category.COMPUTE_SYSTEM, Rpc.GET_PROPERTIES)
    pending = Pending(kind, Encoding.JSON, "")
    frame = encode_reply(1, pending, GetPropertiesReply(properties=properties))
    assert len(frame) <= MAX_GUEST_FRAME
    assert b"LCOWMetrics" in frame


@pytest.mark.parametrize(("events", "kills"), [("", 0), ("oom 1\noom_kill 3\n", 3)])
def test_kills_are_counted(root: Path, events: str, kills: int) -> None:
    """By the kernel's own counter."""
    make_cgroup(root / "pods/c", memory_events=events)
    assert statistics.oom_kills("/pods/c") == kills
