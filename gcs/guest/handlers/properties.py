"""GetProperties, of containers and of the VM itself.

The VM's own counters are read at once, from files that are kept open. Lists of processes, and
what a container's cgroup has, are read in threads that nothing else uses, and a read that takes
too long is given up: it changes nothing, and must keep no container from being killed, and no
other property from being read.
"""

import os
from collections.abc import Awaitable, Collection
from datetime import UTC, datetime

from msgspec.structs import replace

from gcs.guest import statistics
from gcs.guest.agent import Agent, Container
from gcs.linux import cgroup, procfs
from gcs.linux.kept import KeptFiles
from gcs.wire.messages import GetProperties, GetPropertiesReply
from gcs.wire.properties import (
    ProcessDetails,
    Properties,
    PropertyType,
    VmLoad,
    VmMemory,
)
from gcs.wire.schema import NULL_CONTAINER_ID

__all__ = ["get_properties"]

#: A process takes at most 26 bytes of the properties (`{"ProcessId":4294967295},`), and its
#: four quotes double inside a string: 1,000 of them take 30,000, and statistics beside them
#: 36,000 at the most.
_MAX_PROCESSES = 1000
#: With all members a process takes up to 330 bytes, quotes doubled, and its name four for each
#: character: 64 of them take 30,000.
_MAX_DETAILED = 64
_MAX_NAME = 32
#: Units of 100 ns in a second, as hosts count processor time.
_TICKS = 10_000_000


def get_properties(
    agent: Agent, request: GetProperties
) -> GetPropertiesReply | Awaitable[GetPropertiesReply]:
    """Return the properties that were asked for; unknown names are left out."""
    wanted = request.query.property_types
    if request.container_id != NULL_CONTAINER_ID:
        return _of_container(agent.container(request.container_id), wanted)
    if PropertyType.PROCESS_LIST in wanted:
        return _of_vm(agent, wanted)
    return GetPropertiesReply(properties=_counters(agent, wanted))


async def _of_container(container: Container, wanted: Collection[str]) -> GetPropertiesReply:
    read, group = container.reads.run, container.cgroup
    listed: tuple[ProcessDetails, ...] = ()
    metrics = None
    if PropertyType.PROCESS_LIST in wanted:
        listed = await read(
            PropertyType.PROCESS_LIST, lambda: _process_list(cgroup.processes(group))
        )
    if PropertyType.STATISTICS in wanted:
        init = container.init
        pid = init.pid if init is not None and init.exit_status is None else None
        metrics = await read(PropertyType.STATISTICS, lambda: statistics.metrics(group, pid))
    return GetPropertiesReply(properties=Properties(process_list=listed, lcow_metrics=metrics))


async def _of_vm(agent: Agent, wanted: Collection[str]) -> GetPropertiesReply:
    listed = await agent.reads.run(
        PropertyType.PROCESS_LIST, lambda: _bounded(procfs.processes())
    )
    properties = replace(_counters(agent, wanted), process_list=listed)
    return GetPropertiesReply(properties=properties)


def _counters(agent: Agent, wanted: Collection[str]) -> Properties:
    """Read what the kernel has at hand: a thread would cost more than that does."""
    kept, limit = agent.kept, agent.pod_memory.limit or 0
    return Properties(
        lcow_metrics=statistics.of_vm(kept) if PropertyType.STATISTICS in wanted else None,
        memory=_memory(kept, limit) if PropertyType.MEMORY in wanted else None,
        load=_load() if PropertyType.LOAD in wanted else None,
    )


def _process_list(pids: tuple[int, ...]) -> tuple[ProcessDetails, ...]:
    if len(pids) > _MAX_DETAILED:
        return tuple(ProcessDetails(process_id=pid) for pid in pids[:_MAX_PROCESSES])
    return _bounded(procfs.processes(pids))


def _bounded(processes: tuple[procfs.Process, ...]) -> tuple[ProcessDetails, ...]:
    if len(processes) > _MAX_DETAILED:
        return tuple(ProcessDetails(process_id=p.pid) for p in processes[:_MAX_PROCESSES])
    return tuple(map(_details, processes))


def _details(process: procfs.Process) -> ProcessDetails:
    return ProcessDetails(
        process_id=process.pid,
        image_name=_printable(process.name[:_MAX_NAME]),
        create_timestamp=datetime.fromtimestamp(process.created, UTC).isoformat(),
        kernel_time_100ns=round(process.system * _TICKS),
        user_time_100ns=round(process.user * _TICKS),
        memory_commit_bytes=process.data,
        memory_working_set_private_bytes=max(0, process.resident - process.shared),
        memory_working_set_shared_bytes=process.shared,
    )


def _printable(text: str) -> str:
    """Return the text with a question mark for what can't be shown: a process names itself."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _memory(kept: KeptFiles, limit: int) -> VmMemory:
    now = procfs.memory(kept)
    return VmMemory(
        total_bytes=now.total,
        available_bytes=now.available,
        free_bytes=now.free,
        cached_bytes=now.cached,
        swap_total_bytes=now.swap_total,
        swap_free_bytes=now.swap_free,
        containers_limit_bytes=limit,
    )


def _load() -> VmLoad:
    one, five, fifteen = (round(average * 100) for average in os.getloadavg())
    return VmLoad(
        one_minute=one,
        five_minutes=five,
        fifteen_minutes=fifteen,
        # Of the agent, which may use all of them: cpu_count() would read a file of sysfs.
        processors=len(os.sched_getaffinity(0)),
    )
