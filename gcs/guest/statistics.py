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

#: Key of memory.stat → members of MemoryStat. cgroup v2 counts with everything below, so v1's
#: two sets are one.
_MEMORY_KEYS = tuple(
    (key, member, f"total_{member}")
    for key, member in (
        (b"file", "cache"),
        (b"anon", "rss"),
        (b"anon_thp", "rss_huge"),
        (b"file_mapped", "mapped_file"),
        (b"file_dirty", "dirty"),
        (b"file_writeback", "writeback"),
        (b"pgfault", "pg_fault"),
        (b"pgmajfault", "pg_maj_fault"),
        (b"inactive_anon", "inactive_anon"),
        (b"active_anon", "active_anon"),
        (b"inactive_file", "inactive_file"),
        (b"active_file", "active_file"),
        (b"unevictable", "unevictable"),
    )
)
#: Key of io.stat → (member of BlkioStat, operation).
_BYTES = ((b"rbytes", "Read"), (b"wbytes", "Write"), (b"dbytes", "Discard"))
_OPERATIONS = ((b"rios", "Read"), (b"wios", "Write"), (b"dios", "Discard"))

#: Returns what a file of a cgroup has, nothing when there is none.
Read = Callable[[str], bytes]


def metrics(group: str, pid: int | None) -> Metrics:
    """Return the statistics of a cgroup, and of the network namespace that a process is in."""
    read = partial(cgroup.read, group)
    events = _table(read("memory.events"))
    usage = _entry(read, "memory", events)
    swap = _entry(read, "memory.swap", _table(read("memory.swap.events")))
    return Metrics(
        hugetlb=tuple(_hugetlb(group)),
        pids=PidsStat(
            current=_number(read("pids.current")),
            limit=_number(read("pids.max")),
        ),
        cpu=_cpu(_table(read("cpu.stat"))),
        memory=_memory(_table(read("memory.stat")), usage, swap),
        blkio=_blkio(read("io.stat")),
        network=_network(procfs.interfaces(pid) if pid is not None else ()),
        memory_oom_control=(
            MemoryOomControl(oom_kill=_count(events, b"oom_kill")) if events else None
        ),
    )


def of_vm(kept: KeptFiles) -> Metrics:
    """Return the statistics of all cgroups together, and of the VM's own network.

    Of the files above the root cgroup has three: nothing limits it.
    """
    root = str(cgroup.ROOT)
    return Metrics(
        pids=PidsStat(),
        cpu=_cpu(_table(kept.read(f"{root}/cpu.stat"))),
        memory=_memory(_table(kept.read(f"{root}/memory.stat")), MemoryEntry(), MemoryEntry()),
        blkio=_blkio(kept.read(f"{root}/io.stat")),
        network=_network(procfs.own_interfaces(kept)),
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
    number = int(word) if word.isdigit() else 0
    return number if number <= UNLIMITED else UNLIMITED


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


def _memory(stat: Mapping[bytes, bytes], usage: MemoryEntry, swap: MemoryEntry) -> MemoryStat:
    counters = dict[str, int]()
    for key, member, total in _MEMORY_KEYS:
        counters[member] = counters[total] = _count(stat, key)
    return MemoryStat(
        **counters,
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
        words = line.replace(b"=", b" ").split()
        counters = dict(zip(words[::2], words[1::2], strict=False))
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
    )
