"""A cgroup's files as the statistics document that hosts read.

Missing files count as zeros: which there are depends on the kernel's controllers. Everything
here blocks and is read-only, so it runs in threads of its own, and may be given up.

Source: PROTOCOL.md, "Metrics"; Documentation/admin-guide/cgroup-v2.rst.
Needs: CONFIG_CGROUP_HUGETLB
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from gcs.linux import cgroup, procfs
from gcs.wire.metrics import (
    UNLIMITED,
    BlkioEntry,
    BlkioStat,
    CpuStat,
    CpuUsage,
    HugetlbStat,
    MemoryEntry,
    MemoryOomControl,
    MemoryStat,
    Metrics,
    NetworkStat,
    PidsStat,
    Throttling,
)

__all__ = ["memory_limit", "metrics", "oom_kills"]

#: As io.stat names a device.
_DEVICE = re.compile(r"[0-9]{1,10}:[0-9]{1,10}")
_NANOSECONDS = 1000  # per microsecond, cgroup v2's unit of time
#: A reply is one frame of 65,536 bytes. A device has up to six entries of 110 bytes each and an
#: interface takes 230, quotes doubled: 40 of each are 36,000.
_MAX_DEVICES = 40
_MAX_INTERFACES = 40

#: Member of MemoryStat ← key of memory.stat.
_MEMORY_KEYS = {
    "cache": "file",
    "rss": "anon",
    "rss_huge": "anon_thp",
    "mapped_file": "file_mapped",
    "dirty": "file_dirty",
    "writeback": "file_writeback",
    "pg_fault": "pgfault",
    "pg_maj_fault": "pgmajfault",
    "inactive_anon": "inactive_anon",
    "active_anon": "active_anon",
    "inactive_file": "inactive_file",
    "active_file": "active_file",
    "unevictable": "unevictable",
}
#: Key of io.stat → (member of BlkioStat, operation).
_BYTES = {"rbytes": "Read", "wbytes": "Write", "dbytes": "Discard"}
_OPERATIONS = {"rios": "Read", "wios": "Write", "dios": "Discard"}


def metrics(group: str, pid: int | None) -> Metrics:
    """Return the statistics of a cgroup, and of the network namespace that a process is in."""
    return Metrics(
        hugetlb=tuple(_hugetlb(group)),
        pids=PidsStat(current=_number(group, "pids.current"), limit=_number(group, "pids.max")),
        cpu=_cpu(_table(group, "cpu.stat")),
        memory=_memory(group),
        blkio=_blkio(group),
        network=_network(pid) if pid is not None else (),
        memory_oom_control=_oom_control(group),
    )


def oom_kills(group: str) -> int:
    """Return how many processes the kernel has killed in a cgroup for want of memory."""
    return _table(group, "memory.events").get("oom_kill", 0)


def memory_limit(group: str) -> int:
    """Return the limit of a cgroup's memory in bytes, UNLIMITED without one."""
    return _number(group, "memory.max")


def _number(group: str, name: str) -> int:
    return _parse(cgroup.read(group, name).strip())


def _parse(text: str) -> int:
    if text == "max":
        return UNLIMITED
    return min(int(text), UNLIMITED) if text.isascii() and text.isdigit() else 0


def _table(group: str, name: str) -> Mapping[str, int]:
    """Return a file of lines `key number`; a line that is something else is passed over."""
    pairs = (line.split() for line in cgroup.read(group, name).splitlines())
    return {pair[0]: _parse(pair[1]) for pair in pairs if len(pair) == 2}


def _cpu(stat: Mapping[str, int]) -> CpuStat:
    def time(key: str) -> int:
        return min(stat.get(key, 0) * _NANOSECONDS, UNLIMITED)

    return CpuStat(
        usage=CpuUsage(
            total=time("usage_usec"), kernel=time("system_usec"), user=time("user_usec")
        ),
        throttling=Throttling(
            periods=stat.get("nr_periods", 0),
            throttled_periods=stat.get("nr_throttled", 0),
            throttled_time=time("throttled_usec"),
        ),
    )


def _memory(group: str) -> MemoryStat:
    stat = _table(group, "memory.stat")
    counters = {member: stat.get(key, 0) for member, key in _MEMORY_KEYS.items()}
    # cgroup v2 counts with everything below, so v1's two sets are one.
    both = counters | {f"total_{member}": value for member, value in counters.items()}
    usage, swap = _entry(group, "memory"), _entry(group, "memory.swap")
    return MemoryStat(
        **both,
        hierarchical_memory_limit=usage.limit,
        hierarchical_swap_limit=swap.limit,
        usage=usage,
        swap=swap,
        kernel=MemoryEntry(usage=stat.get("kernel_stack", 0)),
        kernel_tcp=MemoryEntry(usage=stat.get("sock", 0)),
    )


def _entry(group: str, prefix: str) -> MemoryEntry:
    return MemoryEntry(
        limit=_number(group, f"{prefix}.max"),
        usage=_number(group, f"{prefix}.current"),
        max=_number(group, f"{prefix}.peak"),
        failcnt=_table(group, f"{prefix}.events").get("max", 0),
    )


def _oom_control(group: str) -> MemoryOomControl | None:
    events = _table(group, "memory.events")
    return MemoryOomControl(oom_kill=events.get("oom_kill", 0)) if events else None


def _hugetlb(group: str) -> Iterator[HugetlbStat]:
    for path in sorted(cgroup.folder(group).glob("hugetlb.*.current")):
        size = path.name.split(".")[1]
        prefix = f"hugetlb.{size}"
        yield HugetlbStat(
            usage=_number(group, f"{prefix}.current"),
            max=_number(group, f"{prefix}.max"),
            failcnt=_table(group, f"{prefix}.events").get("max", 0),
            pagesize=size,
        )


def _blkio(group: str) -> BlkioStat:
    """Read io.stat: lines `major:minor key=number…`."""
    lines = [line.split() for line in cgroup.read(group, "io.stat").splitlines()]
    named = (line for line in lines if len(line) > 1 and _DEVICE.fullmatch(line[0]))
    devices = list(islice(named, _MAX_DEVICES))
    return BlkioStat(
        io_service_bytes_recursive=tuple(_io_entries(devices, _BYTES)),
        io_serviced_recursive=tuple(_io_entries(devices, _OPERATIONS)),
    )


def _io_entries(devices: list[list[str]], names: Mapping[str, str]) -> Iterator[BlkioEntry]:
    for number, *words in devices:
        major, _, minor = number.partition(":")
        counters = dict(word.split("=", 1) for word in words if "=" in word)
        for key, operation in names.items():
            yield BlkioEntry(
                op=operation,
                device=_device(number),
                major=_parse(major),
                minor=_parse(minor),
                value=_parse(counters.get(key, "")),
            )


def _device(number: str) -> str:
    try:
        return f"/dev/{(Path('/sys/dev/block') / number).readlink().name}"
    except OSError:  # unplugged meanwhile, or no device at all
        return ""


def _network(pid: int) -> tuple[NetworkStat, ...]:
    return tuple(
        NetworkStat(
            name=one.name,
            rx_bytes=one.received[0],
            rx_packets=one.received[1],
            rx_errors=one.received[2],
            rx_dropped=one.received[3],
            tx_bytes=one.sent[0],
            tx_packets=one.sent[1],
            tx_errors=one.sent[2],
            tx_dropped=one.sent[3],
        )
        for one in procfs.interfaces(pid)[:_MAX_INTERFACES]
        if one.name != "lo"
    )
