"""Say which container ran out of memory, as the kernel tells of it: in the log and to hosts.

The counters of `/pods` go up with those of every cgroup below, so one file is watched, and the
containers' own are read when it has changed.

Source: Documentation/admin-guide/cgroup-v2.rst, memory.events.
Needs: CONFIG_MEMCG
"""

import logging
from collections.abc import Sequence

import trio

from gcs.errors import DeadlineError
from gcs.guest import statistics
from gcs.guest.agent import Agent, Container
from gcs.guest.kills import Kills
from gcs.guest.log import fields
from gcs.guest.memory import PODS
from gcs.guest.reads import Reads
from gcs.linux import cgroup

__all__ = ["report", "run"]

_log = logging.getLogger("gcs.oom")

#: The counters go up, up to a hundred times a second, while a container merely meets its limit.
_PAUSE_S = 0.5
#: Its place among other reads.
_READ = "memory.events"


async def run(agent: Agent) -> None:
    """Watch until cancelled; return, and say so, where the kernel does not count."""
    try:
        cgroup.create(PODS)
        watch = cgroup.Watch(PODS, "memory.events")
    except OSError as error:
        _log.warning("out-of-memory kills are not seen", extra=fields(error=error))
        return
    try:
        while True:
            await trio.lowlevel.wait_readable(watch)
            watch.clear()
            is_told = False
            while not is_told:  # the kernel does not say again what could not be read
                containers = tuple(agent.containers.values())
                is_told = await report(agent.kills, agent.reads, containers)
                await trio.sleep(_PAUSE_S)
    finally:
        watch.close()


async def report(kills: Kills, reads: Reads, containers: Sequence[Container]) -> bool:
    """Tell of each container in which the kernel has killed more than was known of.

    There may be hundreds of files to read, while others wait for the event loop. Returns False,
    and says why, when they can't be read.
    """
    made = [container for container in containers if container.cgroup]
    try:
        found = await reads.run(_READ, lambda: [_look(one.cgroup) for one in made])
    except (DeadlineError, OSError) as error:
        _log.warning("out-of-memory kills not read", extra=fields(error=error))
        return False
    for container, (count, limit) in zip(made, found, strict=True):
        if count > container.oom_kills:
            container.oom_kills = count
            members = fields(cid=container.container_id, oom_kill=count, limit=limit)
            _log.warning("container ran out of memory", extra=members)
            kills.add(container.container_id, count, limit)
    return True


def _look(group: str) -> tuple[int, int]:
    """Return how many processes were killed in a cgroup, and its limit."""
    return statistics.oom_kills(group), statistics.memory_limit(group)
