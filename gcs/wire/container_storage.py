"""What gcsctl asks a service to give a container for storage: volumes, and a scratch.

Records of control.py's requests; closed as those are.
"""

from enum import StrEnum

from gcs.wire.schema import Message, UInt32

__all__ = ["CacheMode", "Scratch", "ScratchKind", "Volume"]


class CacheMode(StrEnum):
    """How a container's VM may cache a volume; the bridge's own names.

    What each gives up is in PROTOCOL.md, "MappedDirectory".
    """

    NONE = "none"
    READAHEAD = "readahead"
    MMAP = "mmap"
    LOOSE = "loose"


class Volume(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A folder or a file of this machine, and where a container has it."""

    #: absolute, and without links in it
    source: str
    #: absolute
    target: str
    read_only: bool = False
    cache: CacheMode = CacheMode.NONE


class ScratchKind(StrEnum):
    """What a container's root is written to."""

    #: a disk
    SCSI = "scsi"
    #: the VM's memory
    TMPFS = "tmpfs"
    #: persistent memory, which is a file of this machine that the VM maps
    PMEM = "pmem"


class Scratch(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a VM keeps what its containers write to their roots."""

    kind: ScratchKind = ScratchKind.SCSI
    #: 0: as its file has it, or what that kind has by default
    size_mib: UInt32 = 0
    #: a file that stays, absolute; empty: gone with the VM
    path: str = ""
