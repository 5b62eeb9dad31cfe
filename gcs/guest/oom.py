"""Say which container ran out of memory, as the kernel tells of it.

The counters of `/pods` go up with those of every cgroup below, so one file is watched, and the
containers' own are read when it has changed.

Source: Documentation/admin-guide/cgroup-v2.rst, memory.events.
Needs: CONFIG_MEMCG
"""

import logging

import trio

from gcs.guest import statistics
from gcs.guest.agent import Agent
from gcs.guest.log import fields
from gcs.guest.memory import PODS
from gcs.linux import cgroup

__all__ = ["report", "run"]

_log = logging.getLogger("gcs.oom")

#: The counters go up, up to a hundred times a second, while a container merely meets its limit.
_PAUSE_S = 0.5


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
            report(agent)
            await trio.sleep(_PAUSE_S)
    finally:
        watch.close()


def report(agent: Agent) -> None:
    """Log each container in which the kernel has killed more processes than were known of."""
    for container in agent.containers.values():
        kills = statistics.oom_kills(container.cgroup) if container.cgroup else 0
        if kills > container.oom_kills:
            members = fields(
                cid=container.container_id,
                oom_kill=kills,
                limit=cgroup.read(container.cgroup, "memory.max").strip(),
            )
            _log.warning("container ran out of memory", extra=members)
        container.oom_kills = kills
