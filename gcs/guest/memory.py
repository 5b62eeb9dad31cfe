"""What all containers together may have of the VM's memory, and what is kept for the rest.

The agent and the kernel must outlive a container that takes all it can get: so the containers'
cgroups are below one, `/pods`, whose limit is the VM's memory without a reserve.

Source: PROTOCOL.md, "Memory".
"""

import logging
import os
from dataclasses import dataclass, field

import trio

from gcs.guest.log import fields
from gcs.linux import cgroup

__all__ = ["PODS", "PodMemory", "enter_own_cgroup", "reserve_of", "total", "watch_own"]

_log = logging.getLogger("gcs.memory")

#: The cgroup above all containers.
PODS = "/pods"
#: The agent's own, with the programs that it starts in the VM itself.
_OWN = "/gcs"

#: What hosts in use keep away from containers, 75 MiB.
_RESERVE = 75 * 1024 * 1024
#: The largest share of a small VM that is kept: before the first container a VM of 64 MiB with
#: its root on pmem was seen to use 23 to 30 MiB, and one of 128 MiB with an initrd 63 to 83, a
#: third of which is the initrd's own files.
_LARGEST_SHARE = 2
#: How often the memory is looked at: it may be plugged in without a word.
_REFRESH_S = 60.0
#: A usage that goes up and down around the threshold is told of once.
_REARM = 0.9


def total() -> int:
    """Return the VM's memory in bytes, without what the kernel took for itself at boot."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def reserve_of(memory: int, asked: int | None) -> int:
    """Return what to keep of so much memory, in bytes.

    What was asked for counts if it leaves anything; else it is 75 MiB, but at most half.
    """
    if asked is not None and 0 <= asked < memory:
        return asked
    return min(_RESERVE, memory // _LARGEST_SHARE)


@dataclass(slots=True)
class PodMemory:
    """The limit of `/pods`, kept in step with the VM's memory."""

    #: bytes asked for by the host, or None
    asked: int | None = None
    #: the last limit that was written, None before the first
    limit: int | None = None
    _lock: trio.Lock = field(default_factory=trio.Lock)
    _failure: str = ""

    async def refresh(self) -> None:
        """Write the limit if it is another one by now. Raises OSError; the old one stays."""
        async with self._lock:
            memory = total()
            reserve = reserve_of(memory, self.asked)
            limit = memory - reserve
            if limit == self.limit:
                return
            # The kernel frees memory first if the new limit is below what is in use.
            await trio.to_thread.run_sync(_set_limit, limit)
            self.limit = limit
        if self.asked is not None and reserve != self.asked:
            _log.warning(
                "reserve not below memory", extra=fields(asked=self.asked, kept=reserve)
            )
        _log.info("limit of all containers", extra=fields(limit=limit, memory=memory))

    async def settle(self) -> None:
        """Refresh, and say what fails, but not again and again."""
        try:
            await self.refresh()
        except OSError as error:
            if str(error) != self._failure:
                _log.warning("no limit of all containers", extra=fields(error=error))
            self._failure = str(error)

    async def run(self) -> None:
        """Keep the limit in step until cancelled."""
        while True:
            await self.settle()
            await trio.sleep(_REFRESH_S)


def _set_limit(limit: int) -> None:
    cgroup.create(PODS)
    cgroup.delegate(PODS)
    cgroup.write(PODS, {"memory.max": str(limit)})


def enter_own_cgroup() -> None:
    """Move the agent into its cgroup; that this is not possible is said."""
    try:
        cgroup.create(_OWN)
        cgroup.add(_OWN, 0)
    except OSError as error:
        _log.warning("no cgroup for the agent", extra=fields(error=error))


async def watch_own(threshold: int) -> None:
    """Say each time the agent's cgroup comes to have more memory than this; until cancelled."""
    above = False
    while threshold > 0:
        number = cgroup.read(_OWN, "memory.current").strip()
        usage = int(number) if number.isdigit() else 0
        if usage > threshold and not above:
            members = fields(cgroup=_OWN, thresholdBytes=threshold, memoryUsage=usage)
            _log.warning("memory usage for cgroup exceeded threshold", extra=members)
        above = usage > threshold * (_REARM if above else 1)
        await trio.sleep(_REFRESH_S)
