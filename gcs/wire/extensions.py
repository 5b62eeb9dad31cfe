"""What version 4 lacks: requests in a message category of our own, on the same bridge.

Each is announced by a capability of its own in the reply to NegotiateProtocol; a host that does
not know it never sends it.

Source: PROTOCOL.md, "Extensions".
"""

from enum import IntEnum

from gcs.wire.frame import Category
from gcs.wire.schema import Catalogue, Message, Reply, Request, Row, UInt32, UInt64

__all__ = [
    "EXTENSIONS",
    "Extension",
    "MountReport",
    "OutOfMemory",
    "ReportMounts",
    "ReportMountsReply",
    "WaitForOutOfMemory",
    "WaitForOutOfMemoryReply",
]


class Extension(IntEnum):
    """Message numbers of the extension category."""

    REPORT_MOUNTS = 1
    WAIT_FOR_OUT_OF_MEMORY = 2


class MountReport(Message, frozen=True, kw_only=True):
    """One thing that a host has had mounted, and what the kernel says of it now."""

    mount_path: str = ""
    #: as ModifySettings has it, or "Bundle" for what comes along with CombinedLayers
    resource_type: str = ""
    #: the device, the folder, or the port and the name of a share
    source: str = ""
    #: empty: the kernel has it not, or it is a link
    filesystem: str = ""
    #: of the mount, not those of the file system: these may be long
    options: tuple[str, ...] = ()
    #: whether its files are read by DAX; null where that makes no sense
    dax: bool | None = None
    #: how a share is cached
    cache: str = ""
    #: the mounts that stand on it, by path
    users: tuple[str, ...] = ()


class ReportMountsReply(Reply, frozen=True, kw_only=True):
    """A part of the table, by path."""

    mounts: tuple[MountReport, ...] = ()
    #: there are more, after the last of these
    is_partial: bool = False


class ReportMounts(Request[ReportMountsReply], frozen=True, kw_only=True):
    """Tell what is mounted for the host. Always legal."""

    #: only paths after this one; empty: from the first
    after: str = ""


class OutOfMemory(Message, frozen=True, kw_only=True):
    """The kernel has killed processes of a container for want of memory."""

    #: counts up from 1, over all containers
    number: UInt64 = 0
    container_id: str = ""
    #: when it was seen (RFC 3339)
    time: str = ""
    #: processes killed in the container so far
    oom_kill: UInt64 = 0
    #: of the container's own memory, in bytes; 2**64 - 1: none, as in statistics
    limit: UInt64 = 0


class WaitForOutOfMemoryReply(Reply, frozen=True, kw_only=True):
    """What has come since; nothing in the time given."""

    events: tuple[OutOfMemory, ...] = ()


class WaitForOutOfMemory(Request[WaitForOutOfMemoryReply], frozen=True, kw_only=True):
    """Wait for the kernel to kill processes of any container for want of memory."""

    #: number of the last one that is known already
    after: UInt64 = 0
    #: 0: not at all
    timeout_in_ms: UInt32 = 0


#: All that a host of ours can ask beyond version 4.
EXTENSIONS = Catalogue(
    category=Category.EXTENSION,
    rows=(
        Row(Extension.REPORT_MOUNTS, ReportMounts, ReportMountsReply),
        Row(Extension.WAIT_FOR_OUT_OF_MEMORY, WaitForOutOfMemory, WaitForOutOfMemoryReply),
    ),
    notifications={},
)
