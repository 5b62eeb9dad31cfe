"""Where a layer lies: in a file of its own, or in a part of one that it shares with others."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Place", "whole"]


@dataclass(frozen=True, slots=True)
class Place:
    """A layer's ext4 image in a file that a VM gets as one device."""

    file: Path
    #: of its first byte; both are multiples of 2 MiB
    offset: int = 0
    #: 0: all of the file
    size: int = 0


def whole(files: Iterable[Path]) -> tuple[Place, ...]:
    """Return the places of layers that have a file each."""
    return tuple(map(Place, files))
