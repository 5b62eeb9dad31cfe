"""What a service asks its guest for those who only look: mounts, memory, statistics."""

from gcs.host.bridge import call
from gcs.host.client import Client
from gcs.host.container import Container
from gcs.wire.control import ListMounts, ListMountsReply, Measure, MeasureReply
from gcs.wire.extensions import ReportMounts
from gcs.wire.messages import GetProperties
from gcs.wire.metrics import Metrics
from gcs.wire.properties import Properties, PropertyQuery, PropertyType, VmMemory
from gcs.wire.schema import NULL_CONTAINER_ID, Reply

__all__ = ["observe"]


async def observe(container: Container, request: ListMounts | Measure) -> Reply:
    """Answer what is asked of a container that runs, or of its VM."""
    if isinstance(request, ListMounts):
        # A part of the guest's report, as it comes.
        part = await call(container.client, ReportMounts(after=request.after))
        return ListMountsReply(mounts=part.mounts, is_partial=part.is_partial)
    client = container.client
    of_vm = await _properties(client, NULL_CONTAINER_ID, PropertyType.MEMORY)
    of_container = await _properties(client, container.cid, PropertyType.STATISTICS)
    memory = of_vm.memory or VmMemory()
    metrics = of_container.lcow_metrics or Metrics()
    return MeasureReply(
        memory_bytes=metrics.memory.usage.usage if metrics.memory else 0,
        cpu_nanoseconds=metrics.cpu.usage.total if metrics.cpu else 0,
        tasks=metrics.pids.current if metrics.pids else 0,
        total_bytes=memory.total_bytes,
        available_bytes=memory.available_bytes,
        mapped_files=tuple(map(str, container.vm.mapped_files)),
    )


async def _properties(client: Client, cid: str, wanted: PropertyType) -> Properties:
    query = PropertyQuery(property_types=(wanted,))
    return (await call(client, GetProperties(container_id=cid, query=query))).properties
