"""The documents of GetProperties: which properties are wanted, and what they are.

Source: PROTOCOL.md, "GetProperties"; member names are hcsshim's where it has them.
"""

from enum import StrEnum

from msgspec import field

from gcs.wire.metrics import Metrics
from gcs.wire.schema import Message, UInt32, UInt64

__all__ = [
    "ProcessDetails",
    "Properties",
    "PropertyQuery",
    "PropertyType",
    "VmLoad",
    "VmMemory",
]


class PropertyType(StrEnum):
    """The properties that this guest knows."""

    PROCESS_LIST = "ProcessList"
    STATISTICS = "Statistics"
    #: Ours, of the VM only.
    MEMORY = "Memory"
    #: Ours, of the VM only.
    LOAD = "Load"


class PropertyQuery(Message, frozen=True, kw_only=True):
    """The names of the properties wanted; unknown ones are left out of the answer."""

    property_types: tuple[str, ...] = ()


class ProcessDetails(Message, frozen=True, kw_only=True):
    """One process of a container or of the VM; all but the pid are left out of a long list."""

    process_id: UInt32 = 0
    image_name: str = ""
    #: RFC 3339
    create_timestamp: str = ""
    kernel_time_100ns: UInt64 = field(default=0, name="KernelTime100ns")
    user_time_100ns: UInt64 = field(default=0, name="UserTime100ns")
    memory_commit_bytes: UInt64 = 0
    memory_working_set_private_bytes: UInt64 = 0
    memory_working_set_shared_bytes: UInt64 = 0


class VmMemory(Message, frozen=True, kw_only=True):
    """The memory of the VM, in bytes."""

    total_bytes: UInt64 = 0
    available_bytes: UInt64 = 0
    free_bytes: UInt64 = 0
    cached_bytes: UInt64 = 0
    swap_total_bytes: UInt64 = 0
    swap_free_bytes: UInt64 = 0
    #: what all containers together may have; 0: no limit
    containers_limit_bytes: UInt64 = 0


class VmLoad(Message, frozen=True, kw_only=True):
    """How many tasks ran or waited for the disk on average, in hundredths."""

    one_minute: UInt32 = 0
    five_minutes: UInt32 = 0
    fifteen_minutes: UInt32 = 0
    processors: UInt32 = 0


class Properties(Message, frozen=True, kw_only=True):
    """The properties document of the reply."""

    process_list: tuple[ProcessDetails, ...] = ()
    lcow_metrics: Metrics | None = field(default=None, name="LCOWMetrics")
    memory: VmMemory | None = None
    load: VmLoad | None = None
