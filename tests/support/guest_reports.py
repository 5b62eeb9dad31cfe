"""What a guest without a VM says of itself: made up, but in order and in parts."""

from collections.abc import Mapping, Sequence

from gcs.wire.extensions import MountReport, ReportMountsReply
from gcs.wire.messages import GetPropertiesReply
from gcs.wire.metrics import CpuStat, CpuUsage, MemoryEntry, MemoryStat, Metrics, PidsStat
from gcs.wire.properties import Properties, VmMemory
from gcs.wire.schema import NULL_CONTAINER_ID

__all__ = ["properties_of", "report_mounts"]


def report_mounts(
    after: str, layers: Mapping[str, int], roots: Sequence[str]
) -> ReportMountsReply:
    """Tell of one mount at a time, so that a host has to ask on."""
    of_layers = [
        MountReport(
            mount_path=path,
            resource_type="VPMemDevice",
            source=f"/dev/pmem{number}",
            filesystem="ext4",
            options=("ro",),
            dax=True,
            users=tuple(roots),
        )
        for path, number in layers.items()
    ]
    of_roots = [
        MountReport(
            mount_path=path,
            resource_type="CombinedLayers",
            source="overlay",
            filesystem="overlay",
        )
        for path in roots
    ]
    mounts = sorted((*of_layers, *of_roots), key=lambda mount: mount.mount_path)
    left = [mount for mount in mounts if mount.mount_path > after]
    return ReportMountsReply(mounts=tuple(left[:1]), is_partial=len(left) > 1)


def properties_of(cid: str) -> GetPropertiesReply:
    """Tell of the VM's memory, or of a container's statistics."""
    if cid == NULL_CONTAINER_ID:
        memory = VmMemory(total_bytes=200_000_000, available_bytes=150_000_000)
        return GetPropertiesReply(properties=Properties(memory=memory))
    metrics = Metrics(
        memory=MemoryStat(usage=MemoryEntry(usage=5_000_000)),
        cpu=CpuStat(usage=CpuUsage(total=30_000_000)),
        pids=PidsStat(current=2),
    )
    return GetPropertiesReply(properties=Properties(lcow_metrics=metrics))
