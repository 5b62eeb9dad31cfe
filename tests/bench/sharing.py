"""What one more VM of the same image costs the host: layer files shared, and copied for each.

Counted is what the guests have: their memory and the pages of the files that are mapped into
them, by Pss. QEMU's own memory is left out: under emulation it is mostly the code that it has
translated.
"""

import shutil
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from gcs.host.images import open_image
from gcs.host.layers import default_cache_dir, ensure_layers
from gcs.host.smaps import Backing, by_backing, total
from tests.bench import guest
from tests.bench.figures import Figure, figure
from tests.bench.guest import IMAGE, Guest, open_guest

__all__ = ["measure"]

_MIB = 1024 * 1024
#: As QEMU's memory-backend-memfd names itself.
_RAM = "/memfd:memory-backend-memfd"
#: Reads every file of every layer, so that all pages that there can be are there.
_READ = "find /run/layers -type f -exec cat {} + >/dev/null"
#: issue 8.
_WANTED = 0.6


async def measure(*, vms: int) -> tuple[list[Figure], dict[str, tuple[float, ...]]]:
    """Return the figure of the second VM, and MiB of memory and files for 1, 2, … VMs."""
    image = await open_image(IMAGE)
    layers = await ensure_layers(image, default_cache_dir(), progress=lambda _: None)
    values: dict[str, tuple[float, ...]] = {}
    totals: dict[str, list[float]] = {}
    for kind in ("shared", "copied"):
        found = await _series(layers, vms, is_copied=kind == "copied")
        values[f"{kind}, memory"] = tuple(round(memory, 1) for memory, _ in found)
        values[f"{kind}, layers"] = tuple(round(files, 1) for _, files in found)
        totals[kind] = [memory + files for memory, files in found]
    first, second = totals["shared"][:2]
    return [
        figure(
            *("second VM", "memory and layer pages that a second VM of an image adds", "MiB"),
            *("those of the first VM", [(second - first, first)]),
            wanted=_WANTED,
        )
    ], values


async def _series(
    layers: tuple[Path, ...], vms: int, *, is_copied: bool
) -> list[tuple[float, float]]:
    """Start one VM after the other; return the sums, in MiB, after each."""
    found = []
    async with AsyncExitStack() as running:
        with ExitStack() as places:
            guests: list[Guest] = []
            files: set[Path] = set(layers)
            for _ in range(vms):
                own = layers
                if is_copied:
                    own = _copies(layers, places.enter_context(guest.folder()))
                    files.update(own)
                one = await running.enter_async_context(open_guest(guest.config(), layers=own))
                guests.append(one)
                await one.output("sh", "-c", _READ)
                found.append(_sums(guests, files))
            await running.aclose()
    return found


def _copies(layers: tuple[Path, ...], place: Path) -> tuple[Path, ...]:
    copies = tuple(place / layer.name for layer in layers)
    for layer, copy in zip(layers, copies, strict=True):
        shutil.copyfile(layer, copy)
    return copies


def _sums(guests: list[Guest], files: set[Path]) -> tuple[float, float]:
    """Return the MiB of the guests' memory, and of the layer files."""
    table = by_backing(pid for one in guests for pid in one.pids)
    backings = {Backing.of(path) for path in files}
    shared = sum(table[backing].pss for backing in backings if backing in table)
    return total(table, _RAM) / _MIB, shared / _MIB
