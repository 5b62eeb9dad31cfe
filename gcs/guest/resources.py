"""OCI resources as the files of cgroup v2, for the cgroups that the agent makes itself.

The OCI runtime does the same for its containers; only a pod's cgroup is ours. What a member
lacks, or what is no number, is left as the kernel has it.

Source: the runtime-spec's config-linux.md; Documentation/admin-guide/cgroup-v2.rst.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["SWAP_LIMIT", "cgroup_settings"]

Tree = Mapping[str, object]

#: Not there on a kernel without swap.
SWAP_LIMIT = "memory.swap.max"

#: What the runtime-spec takes for "no limit".
_NO_LIMIT = -1
#: The kernel's own default period, in microseconds.
_PERIOD = 100_000
#: A list of processors or of memory nodes, as "0-3,7".
_LIST = re.compile(r"[0-9,-]+")
#: Shares of cgroup v1 go from 2 to 262,144, weights of v2 from 1 to 10,000.
_MIN_SHARES, _MAX_SHARES, _MAX_WEIGHT = 2, 262_144, 10_000


def cgroup_settings(resources: Tree) -> Mapping[str, str]:
    """Return which of a cgroup's files get which text."""
    memory, cpu, pids = (_map(resources, name) for name in ("memory", "cpu", "pids"))
    found = {**_memory(memory), **_cpu(cpu)}
    limit = _number(pids, "limit")
    if limit is not None and limit != 0:
        found["pids.max"] = _limit(limit)
    return MappingProxyType(found | _hugepages(resources))


def _memory(memory: Tree) -> dict[str, str]:
    found = {}
    limit, swap = _number(memory, "limit"), _number(memory, "swap")
    low = _number(memory, "reservation")
    if limit is not None and limit != 0:
        found["memory.max"] = _limit(limit)
    if low is not None and low != 0:
        found["memory.low"] = _limit(low)
    if swap is not None and swap != 0:
        # The spec's number is memory and swap together, the kernel's is swap alone.
        is_bounded = swap > 0 and limit is not None and limit > 0
        found[SWAP_LIMIT] = _limit(max(0, swap - (limit or 0)) if is_bounded else swap)
    return found


def _cpu(cpu: Tree) -> dict[str, str]:
    found = {}
    shares, quota, period = (_number(cpu, name) for name in ("shares", "quota", "period"))
    if shares:
        scaled = (min(max(shares, _MIN_SHARES), _MAX_SHARES) - _MIN_SHARES) * (_MAX_WEIGHT - 1)
        found["cpu.weight"] = str(1 + scaled // (_MAX_SHARES - _MIN_SHARES))
    if quota or period:
        found["cpu.max"] = f"{_limit(quota or _NO_LIMIT)} {period or _PERIOD}"
    for name in ("cpus", "mems"):
        value = cpu.get(name)
        if isinstance(value, str) and _LIST.fullmatch(value):
            found[f"cpuset.{name}"] = value
    return found


def _hugepages(resources: Tree) -> dict[str, str]:
    found = {}
    limits = resources.get("hugepageLimits")
    for item in limits if isinstance(limits, list) else []:
        if isinstance(item, dict):
            size, limit = item.get("pageSize"), _number(item, "limit")
            if (
                isinstance(size, str)
                and size.isascii()
                and size.isalnum()
                and limit is not None
            ):
                found[f"hugetlb.{size}.max"] = _limit(limit)
    return found


def _limit(number: int) -> str:
    return "max" if number < 0 else str(number)


def _map(tree: Tree, name: str) -> Tree:
    value = tree.get(name)
    return value if isinstance(value, dict) else {}


def _number(tree: Tree, name: str) -> int | None:
    value = tree.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
