"""What hosts can ask beyond version 4: what is mounted for them, and who ran out of memory."""

from collections.abc import Mapping
from typing import Final

import trio

from gcs.guest.agent import Agent, MountRecord
from gcs.linux import mounts
from gcs.linux.mounts import Mount
from gcs.wire.extensions import (
    MountReport,
    ReportMounts,
    ReportMountsReply,
    WaitForOutOfMemory,
    WaitForOutOfMemoryReply,
)

__all__ = ["report_mounts", "wait_for_out_of_memory"]

#: Characters of all texts of a reply. JSON can make six bytes of one in the worst case, a frame
#: has 65,536, and the names of members take their share: a usual reply is a sixth of a frame.
_MAX_TEXT: Final = 8192
#: Below the limit of every request; a host asks again.
_MAX_WAIT_S: Final = 240.0


async def report_mounts(agent: Agent, request: ReportMounts) -> ReportMountsReply:
    """Return as much of the table as fits; one that is too long by itself is sent alone."""
    table = await trio.to_thread.run_sync(mounts.read)
    live = {mount.mount_id: mount for mount in table}
    targets = sorted(t for t, m in agent.mounts.items() if m.settled and t > request.after)
    found, size = list[MountReport](), 0
    for target in targets:
        report = _report(agent, agent.mounts[target], live)
        size += sum(map(len, (target, report.source, *report.options, *report.users)))
        if found and size > _MAX_TEXT:
            break
        found.append(report)
    return ReportMountsReply(mounts=tuple(found), is_partial=len(found) < len(targets))


def _report(agent: Agent, record: MountRecord, live: Mapping[int, Mount]) -> MountReport:
    mount = live.get(record.mount_id) if record.mount_id is not None else None
    users = (other.target for other in agent.mounts.values() if record.target in other.uses)
    return MountReport(
        mount_path=record.target,
        resource_type=record.kind,
        source=record.source,
        filesystem=mount.fstype if mount else "",
        options=mount.options if mount else (),
        dax=record.has_dax,
        cache=record.cache,
        users=tuple(sorted(users)),
    )


async def wait_for_out_of_memory(
    agent: Agent, request: WaitForOutOfMemory
) -> WaitForOutOfMemoryReply:
    """Return the kills that the host does not know of, as soon as there are any, or none."""
    with trio.move_on_after(min(request.timeout_in_ms / 1000, _MAX_WAIT_S)):
        return WaitForOutOfMemoryReply(events=await agent.kills.after(request.after))
    return WaitForOutOfMemoryReply()
