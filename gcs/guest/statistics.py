"""A cgroup's files as the statistics document that hosts read.

Missing files count as zeros: which there are depends on the kernel's controllers. All of it is
read-only. What is read of a container's cgroup blocks, so that runs in threads of its own, and
may be given up. The VM's own counters never do: nobody adds to them but the kernel, which holds
no lock for longer than it counts.

Source: PROTOCOL.md, "Metrics"; Documentation/admin-guide/cgroup-v2.rst.
Needs: CONFIG_CGROUP_HUGETLB
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice

from gcs.linux import cgroup, procfs
from gcs.linux.kept import KeptFiles
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

__all__ = ["memory_limit", "metrics", "of_vm", "oom_kills"]

#: A device's line in io.stat.
_DEVICE = re.compile(rb"^([0-9]{1,10}:[0-9]{1,10}) (.+)$", re.MULTILINE)
_NANOSECONDS = 1000  # per microsecond, cgroup v2's unit of time
#: A reply is one frame of 65,536 bytes. A device has up to six entries of 110 bytes each and an
#: interface takes 230, quotes doubled: 40 of each are 36,000.
_MAX_DEVICES = 40
_MAX_INTERFACES = 40

#: Member of MemoryStat ← key of memory.stat.
_MEMORY_KEYS = {
    "cache": b"file",
    "rss": b"anon",
    "rss_huge": b"anon_thp",
    "mapped_file": b"file_mapped",
    "dirty": b"file_dirty",
    "writeback": b"file_writeback",
    "pg_fault": b"pgfault",
    "pg_maj_fault": b"pgmajfault",
    "inactive_anon": b"inactive_anon",
    "active_anon": b"active_anon",
    "inactive_file": b"inactive_file",
    "active_file": b"active_file",
    "unevictable": b"unevictable",
}
#: Key of io.stat → (member of BlkioStat, operation).
_BYTES = ((b"rbytes", "Read"), (b"wbytes", "Write"), (b"dbytes", "Discard"))
_OPERATIONS = ((b"rios", "Read"), (b"wios", "Write"), (b"dios", "Discard"))

#: Returns what a file of a cgroup has, nothing when there is none.
Read = Callable[[str], bytes]


def metrics(group: str, pid: int | None) -> Metrics:
    """Return the statistics of a cgroup, and of the network namespace that a process is in."""
    interfaces = procfs.interfaces(pid) if pid is not None else ()
    return _metrics(partial(cgroup.read, group), interfaces, _hugetlb(group))


def of_vm(kept: KeptFiles) -> Metrics:
    """Return the statistics of all cgroups together, and of the VM's own network."""
    root = str(cgroup.ROOT)  # it has no files for huge pages
    return _metrics(lambda name: kept.read(f"{root}/{name}"), procfs.own_interfaces(kept), ())


def _metrics(
    read: Read, interfaces: Iterable[procfs.Interface], hugetlb: Iterable[HugetlbStat]
) -> Metrics:
    events = _table(read("memory.events"))
    return Metrics(
        hugetlb=tuple(hugetlb),
        pids=PidsStat(
            current=_number(read("pids.current")),
            limit=_number(read("pids.max")),
        ),
        cpu=_cpu(_table(read("cpu.stat"))),
        memory=_memory(read, events),
        blkio=_blkio(read("io.stat")),
        network=_network(interfaces),
        memory_oom_control=(
            MemoryOomControl(oom_kill=_count(events, b"oom_kill")) if events else None
        ),
    )


def oom_kills(group: str) -> int:
    """Return how many processes the kernel has killed in a cgroup for want of memory."""
    return _count(_table(cgroup.read(group, "memory.events")), b"oom_kill")


def memory_limit(group: str) -> int:
    """Return the limit of a cgroup's memory in bytes, UNLIMITED without one."""
    return _number(cgroup.read(group, "memory.max"))


def _number(text: bytes) -> int:
    """Return the number that a file has; 0 where it has none, or there is no file."""
    word = text.strip()
    if word.isdigit():
        return min(int(word), UNLIMITED)
    return UNLIMITED if word == b"max" else 0


def _table(text: bytes) -> Mapping[bytes, bytes]:
    """Return a file of lines `key number`; a line that is something else is passed over."""
    pairs = map(bytes.split, text.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _count(table: Mapping[bytes, bytes], key: bytes) -> int:
    word = table.get(key, b"")
    return min(int(word), UNLIMITED) if word.isdigit() else 0


def _cpu(stat: Mapping[bytes, bytes]) -> CpuStat:
    def time(key: bytes) -> int:
        return min(_count(stat, key) * _NANOSECONDS, UNLIMITED)

    return CpuStat(
        usage=CpuUsage(
            total=time(b"usage_usec"), kernel=time(b"system_usec"), user=time(b"user_usec")
        ),
        throttling=Throttling(
            periods=_count(stat, b"nr_periods"),
            throttled_periods=_count(stat, b"nr_throttled"),
            throttled_time=time(b"throttled_usec"),
        ),
    )


def _memory(read: Read, events: Mapping[bytes, bytes]) -> MemoryStat:
    stat = _table(read("memory.stat"))
    counters = {member: _count(stat, key) for member, key in _MEMORY_KEYS.items()}
    # cgroup v2 counts with everything below, so v1's two sets are one.
    both = counters | {f"total_{member}": value for member, value in counters.items()}
    usage = _entry(read, "memory", events)
    swap = _entry(read, "memory.swap", _table(read("memory.swap.events")))
    return MemoryStat(
        **both,
        hierarchical_memory_limit=usage.limit,
        hierarchical_swap_limit=swap.limit,
        usage=usage,
        swap=swap,
        kernel=MemoryEntry(usage=_count(stat, b"kernel_stack")),
        kernel_tcp=MemoryEntry(usage=_count(stat, b"sock")),
    )


def _entry(read: Read, prefix: str, events: Mapping[bytes, bytes]) -> MemoryEntry:
    return MemoryEntry(
        limit=_number(read(f"{prefix}.max")),
        usage=_number(read(f"{prefix}.current")),
        max=_number(read(f"{prefix}.peak")),
        failcnt=_count(events, b"max"),
    )


def _hugetlb(group: str) -> Iterator[HugetlbStat]:
    for path in sorted(cgroup.folder(group).glob("hugetlb.*.current")):
        size = path.name.split(".")[1]
        prefix = f"hugetlb.{size}"
        yield HugetlbStat(
            usage=_number(cgroup.read(group, f"{prefix}.current")),
            max=_number(cgroup.read(group, f"{prefix}.max")),
            failcnt=_count(_table(cgroup.read(group, f"{prefix}.events")), b"max"),
            pagesize=size,
        )


def _blkio(text: bytes) -> BlkioStat:
    """Read io.stat: lines `major:minor key=number…`."""
    moved, done = list[BlkioEntry](), list[BlkioEntry]()
    for number, line in islice(_DEVICE.findall(text), _MAX_DEVICES):
        device = _device(number.decode())
        major, minor = map(int, number.split(b":"))
        counters = dict(word.split(b"=", 1) for word in line.split() if b"=" in word)
        for names, entries in ((_BYTES, moved), (_OPERATIONS, done)):
            for key, op in names:
                value = _count(counters, key)
                entries.append(
                    BlkioEntry(op=op, device=device, major=major, minor=minor, value=value)
                )
    return BlkioStat(io_service_bytes_recursive=tuple(moved), io_serviced_recursive=tuple(done))


def _device(number: str) -> str:
    try:
        return f"/dev/{os.readlink(f'/sys/dev/block/{number}').rpartition('/')[2]}"  # noqa: PTH115
    except OSError:  # unplugged meanwhile, or no device at all
        return ""


def _network(interfaces: Iterable[procfs.Interface]) -> tuple[NetworkStat, ...]:
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
        for one in islice(interfaces, _MAX_INTERFACES)
        if one.name != "lo"
    )
