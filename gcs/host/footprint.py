"""What VMs take of this machine's memory: the guests' own, the layers, and all else.

The root image of a VM that boots from one counts as a layer. A page of a layer that several VMs
have mapped is there once. In each VM's resident set it counts in full, in its proportional set
(Pss) by its share; so the sum of the shares is what the machine has spent, as long as nobody
else has the file mapped.

Not here: what the page cache has of files that nobody has mapped, as of scratch disks.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from gcs.host.smaps import Backing, Usage, by_backing, total

__all__ = ["Footprint", "footprint", "summed"]

#: As QEMU's memory-backend-memfd names itself.
_GUEST_MEMORY = "/memfd:memory-backend-memfd"


class Footprint(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Bytes of one VM or of several."""

    #: pages that the guest has touched
    guest_bytes: int = 0
    #: pages of layers that are mapped, in full
    layers_resident_bytes: int = 0
    #: the same, shared ones by the share
    layers_bytes: int = 0
    #: QEMU's own, and that of the programs beside it
    other_bytes: int = 0

    @property
    def bytes(self) -> int:
        """What it takes of the machine."""
        return self.guest_bytes + self.layers_bytes + self.other_bytes


def footprint(pids: Iterable[int], mapped_files: Sequence[Path]) -> Footprint:
    """Return what the processes of a VM have in memory.

    A file that has gone is known by the name that it was mapped under. Raises OSError when one
    of the processes has ended or is another user's.
    """
    table, names = by_backing(pids), set(map(str, mapped_files))
    backings = {Backing.of(path) for path in mapped_files if path.exists()}
    backings |= {backing for backing, usage in table.items() if usage.name in names}
    return _footprint(table, backings)


def _footprint(table: Mapping[Backing, Usage], backings: set[Backing]) -> Footprint:
    guest = total(table, _GUEST_MEMORY)
    layers = [table[backing] for backing in backings if backing in table]
    shares = sum(usage.pss for usage in layers)
    return Footprint(
        guest_bytes=guest,
        layers_resident_bytes=sum(usage.rss for usage in layers),
        layers_bytes=shares,
        other_bytes=sum(usage.pss for usage in table.values()) - guest - shares,
    )


def summed(parts: Sequence[Footprint]) -> Footprint:
    """Return what several VMs take together."""
    return Footprint(
        guest_bytes=sum(each.guest_bytes for each in parts),
        layers_resident_bytes=sum(each.layers_resident_bytes for each in parts),
        layers_bytes=sum(each.layers_bytes for each in parts),
        other_bytes=sum(each.other_bytes for each in parts),
    )
