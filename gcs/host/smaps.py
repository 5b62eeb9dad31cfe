"""What processes have in memory, by what backs it: the guest's RAM, layer files, the rest.

A page that several processes have mapped counts in each of them with its share (Pss), so sums
over processes are the memory that the host really spends, and a layer that two VMs use is there
once. It will not say what is cached of a file and mapped by nobody.

Source: proc(5), "smaps".
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ANONYMOUS", "Backing", "Usage", "by_backing", "parse", "total"]

_KIB = 1024
#: A file that has no name any more; memfds never had one.
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Backing:
    """A file, by its identity; two names of one file are the same."""

    device: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Backing":
        """Return the identity of a file. Raises OSError."""
        status = path.stat()
        return cls(status.st_dev, status.st_ino)


#: Heap, stack and all that no file backs.
ANONYMOUS = Backing(0, 0)


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes in memory."""

    #: as the kernel names the mapping: a path, "/memfd:NAME", or "" for anonymous memory
    name: str
    #: all pages that are mapped, counted in full
    rss: int = 0
    #: the same, each page divided by the number of processes that have it mapped
    pss: int = 0

    def plus(self, other: "Usage") -> "Usage":
        """Return the sum of two, with the first one's name."""
        return Usage(self.name, self.rss + other.rss, self.pss + other.pss)


def by_backing(pids: Iterable[int]) -> dict[Backing, Usage]:
    """Return what these processes together have in memory.

    One that lets nobody but root look, as passt does, is left out. Raises OSError when one has
    ended.
    """
    found: dict[Backing, Usage] = {}
    for pid in pids:
        try:
            # Names are bytes to the kernel.
            text = Path(f"/proc/{pid}/smaps").read_text(errors="surrogateescape")
        except PermissionError:
            continue
        for backing, usage in parse(text):
            found[backing] = found[backing].plus(usage) if backing in found else usage
    return found


def total(table: Mapping[Backing, Usage], name_prefix: str) -> int:
    """Return the Pss of all that is backed by something of this name."""
    return sum(usage.pss for usage in table.values() if usage.name.startswith(name_prefix))


def parse(text: str) -> Iterator[tuple[Backing, Usage]]:
    """Yield each mapping of a smaps file."""
    backing, name = ANONYMOUS, ""
    sizes: dict[str, int] = {}
    for line in text.split("\n"):
        head, _, rest = line.partition(" ")
        if head.endswith(":"):
            if head in ("Rss:", "Pss:"):
                sizes[head] = int(rest.split()[0]) * _KIB
        elif rest:
            if sizes:
                yield backing, Usage(name, sizes.get("Rss:", 0), sizes.get("Pss:", 0))
            backing, name = _header(rest)
            sizes = {}
    if sizes:
        yield backing, Usage(name, sizes.get("Rss:", 0), sizes.get("Pss:", 0))


def _header(rest: str) -> tuple[Backing, str]:
    """Return what backs a mapping, from its line without the addresses."""
    _, _, device, inode, *name = rest.split(maxsplit=4)
    if inode == "0":
        return ANONYMOUS, ""
    major, _, minor = device.partition(":")
    identity = Backing(os.makedev(int(major, 16), int(minor, 16)), int(inode))
    # A newline is the one character that is escaped.
    return identity, name[0].removesuffix(_DELETED).replace("\\012", "\n") if name else ""
