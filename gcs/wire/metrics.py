"""The statistics document of GetProperties: a cgroup's numbers in the layout of cgroup v1.

Hosts in use read this layout whatever the guest's kernel has. Member names are containerd's for
cgroup v1, in snake case; every member is left out when it is 0. Not here, because no kernel
that this agent runs on counts them: `rdma`, `cgroup_stats`, and what cgroup v1 alone has.

Source: PROTOCOL.md, "Metrics"; metrics.proto of containerd/cgroups, package cgroup1.
"""

from gcs.wire.schema import Message, UInt64

__all__ = [
    "UNLIMITED",
    "BlkioEntry",
    "BlkioStat",
    "CpuStat",
    "CpuUsage",
    "HugetlbStat",
    "MemoryEntry",
    "MemoryOomControl",
    "MemoryStat",
    "Metrics",
    "NetworkStat",
    "PidsStat",
    "Throttling",
]

#: The limit of what has none: cgroup v2's "max" as a number.
UNLIMITED = 2**64 - 1


class HugetlbStat(Message, frozen=True, kw_only=True, rename="lower"):
    """Huge pages of one size, in bytes."""

    usage: UInt64 = 0
    max: UInt64 = 0
    failcnt: UInt64 = 0
    #: as "2MB"
    pagesize: str = ""


class PidsStat(Message, frozen=True, kw_only=True, rename="lower"):
    """How many tasks there are, and may be."""

    current: UInt64 = 0
    limit: UInt64 = 0


class CpuUsage(Message, frozen=True, kw_only=True, rename="lower"):
    """Processor time in nanoseconds."""

    total: UInt64 = 0
    kernel: UInt64 = 0
    user: UInt64 = 0
    #: not known to cgroup v2
    per_cpu: tuple[UInt64, ...] = ()


class Throttling(Message, frozen=True, kw_only=True, rename="lower"):
    """How a processor quota held."""

    periods: UInt64 = 0
    throttled_periods: UInt64 = 0
    #: nanoseconds
    throttled_time: UInt64 = 0


class CpuStat(Message, frozen=True, kw_only=True, rename="lower"):
    """Processor time."""

    usage: CpuUsage = CpuUsage()
    throttling: Throttling = Throttling()


class MemoryEntry(Message, frozen=True, kw_only=True, rename="lower"):
    """One kind of memory, in bytes; `failcnt` counts how often its limit was met."""

    limit: UInt64 = 0
    usage: UInt64 = 0
    max: UInt64 = 0
    failcnt: UInt64 = 0


class MemoryStat(Message, frozen=True, kw_only=True, rename="lower"):
    """Memory in bytes. The `total_` members are with the cgroups below; v2 has no others."""

    cache: UInt64 = 0
    rss: UInt64 = 0
    rss_huge: UInt64 = 0
    mapped_file: UInt64 = 0
    dirty: UInt64 = 0
    writeback: UInt64 = 0
    pg_pg_in: UInt64 = 0
    pg_pg_out: UInt64 = 0
    pg_fault: UInt64 = 0
    pg_maj_fault: UInt64 = 0
    inactive_anon: UInt64 = 0
    active_anon: UInt64 = 0
    inactive_file: UInt64 = 0
    active_file: UInt64 = 0
    unevictable: UInt64 = 0
    hierarchical_memory_limit: UInt64 = 0
    hierarchical_swap_limit: UInt64 = 0
    total_cache: UInt64 = 0
    total_rss: UInt64 = 0
    total_rss_huge: UInt64 = 0
    total_mapped_file: UInt64 = 0
    total_dirty: UInt64 = 0
    total_writeback: UInt64 = 0
    total_pg_pg_in: UInt64 = 0
    total_pg_pg_out: UInt64 = 0
    total_pg_fault: UInt64 = 0
    total_pg_maj_fault: UInt64 = 0
    total_inactive_anon: UInt64 = 0
    total_active_anon: UInt64 = 0
    total_inactive_file: UInt64 = 0
    total_active_file: UInt64 = 0
    total_unevictable: UInt64 = 0
    usage: MemoryEntry = MemoryEntry()
    swap: MemoryEntry = MemoryEntry()
    kernel: MemoryEntry = MemoryEntry()
    kernel_tcp: MemoryEntry = MemoryEntry()


class MemoryOomControl(Message, frozen=True, kw_only=True, rename="lower"):
    """What happened when memory was short."""

    oom_kill_disable: UInt64 = 0
    under_oom: UInt64 = 0
    #: processes that the kernel has killed
    oom_kill: UInt64 = 0


class BlkioEntry(Message, frozen=True, kw_only=True, rename="lower"):
    """One operation of one block device."""

    #: "Read", "Write" or "Discard"
    op: str = ""
    #: as "/dev/sda"
    device: str = ""
    major: UInt64 = 0
    minor: UInt64 = 0
    value: UInt64 = 0


class BlkioStat(Message, frozen=True, kw_only=True, rename="lower"):
    """Bytes and operations of block devices, with the cgroups below."""

    io_service_bytes_recursive: tuple[BlkioEntry, ...] = ()
    io_serviced_recursive: tuple[BlkioEntry, ...] = ()


class NetworkStat(Message, frozen=True, kw_only=True, rename="lower"):
    """One interface of the container's network namespace."""

    name: str = ""
    rx_bytes: UInt64 = 0
    rx_packets: UInt64 = 0
    rx_errors: UInt64 = 0
    rx_dropped: UInt64 = 0
    tx_bytes: UInt64 = 0
    tx_packets: UInt64 = 0
    tx_errors: UInt64 = 0
    tx_dropped: UInt64 = 0


class Metrics(Message, frozen=True, kw_only=True, rename="lower"):
    """The document; a part that is absent is not known."""

    hugetlb: tuple[HugetlbStat, ...] = ()
    pids: PidsStat | None = None
    cpu: CpuStat | None = None
    memory: MemoryStat | None = None
    blkio: BlkioStat | None = None
    network: tuple[NetworkStat, ...] = ()
    memory_oom_control: MemoryOomControl | None = None
