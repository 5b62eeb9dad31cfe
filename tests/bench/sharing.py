"""What one more VM of the same image costs the host: layer files shared, and copied for each.

It is counted as `gcsctl stats` does, when the VMs have come to rest: a guest gives back what it
does not use little by little. The figure leaves out QEMU's own memory, which is in the
picture: under emulation it is mostly the code that it has translated.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path

import trio

from gcs.host.footprint import Footprint, footprint, summed
from gcs.host.images import open_image
from gcs.host.layers import default_cache_dir, ensure_layers
from tests.bench import guest
from tests.bench.figures import Figure, figure
from tests.bench.guest import IMAGE, Guest, open_guest

__all__ = ["KINDS", "WITH_FIGURES", "measure"]

_MIB = 1024 * 1024
#: Reads every file of every layer, so that all pages that there can be are there.
_READ = "find /run/layers -type f -exec cat {} + >/dev/null"
#: How long VMs must have given back less than so many bytes to be at rest. Every two seconds
#: the kernel tells of a sixteenth of its free memory.
_REST_S, _STILL = 6.0, _MIB // 4
#: issue 8.
_WANTED = 0.6
#: Who has the layers, and how the VMs boot.
KINDS: Mapping[str, str] = {"copied": "initrd", "shared": "initrd", "shared, pmem": "pmem"}
#: Those that are not for the picture alone.
WITH_FIGURES = ("shared", "shared, pmem")


async def measure(
    *, vms: int, kinds: Sequence[str] = tuple(KINDS)
) -> tuple[list[Figure], dict[str, tuple[float, ...]]]:
    """Return the figures of the second VM, and MiB of each kind for 1, 2, … VMs."""
    image = await open_image(IMAGE)
    layers = await ensure_layers(image, default_cache_dir(), progress=lambda _: None)
    values: dict[str, tuple[float, ...]] = {}
    figures = []
    for kind in kinds:
        form = KINDS[kind]
        found = await _series(layers, vms, form, is_copied=kind == "copied")
        values[f"{kind}, memory"] = tuple(_mib(each.guest_bytes) for each in found)
        values[f"{kind}, layers"] = tuple(_mib(each.layers_bytes) for each in found)
        values[f"{kind}, QEMU"] = tuple(_mib(each.other_bytes) for each in found)
        if kind in WITH_FIGURES:
            figures.append(_second(form, found))
    return figures, values


def _second(form: str, found: Sequence[Footprint]) -> Figure:
    first, both = (_mib(each.guest_bytes + each.layers_bytes) for each in found[:2])
    # The aim is stated for the better form.
    wanted = _WANTED if form == "pmem" else None
    return figure(
        f"second VM, {form}",
        "memory and layer pages that a second VM of an image adds",
        *("MiB", "those of the first VM", [(both - first, first)]),
        wanted=wanted,
    )


def _mib(size: int) -> float:
    return round(size / _MIB, 1)


async def _series(
    layers: tuple[Path, ...], vms: int, form: str, *, is_copied: bool
) -> list[Footprint]:
    """Start one VM after the other; return what all of them take after each."""
    found = []
    async with AsyncExitStack() as running:
        with ExitStack() as places:
            guests: list[Guest] = []
            machine = guest.config(form)
            # Not those of the cache: another VM of this machine would share them, too.
            own = _copies(layers, places.enter_context(guest.folder()))
            files = [*own]
            if machine.root_image is not None:
                (root,) = _copies([machine.root_image], places.enter_context(guest.folder()))
                machine = replace(machine, root_image=root)
                files.append(root)
            for number in range(vms):
                if is_copied and number:
                    own = _copies(layers, places.enter_context(guest.folder()))
                    files += own
                one = await running.enter_async_context(open_guest(machine, layers=own))
                guests.append(one)
                await one.output("sh", "-c", _READ)
                found.append(await _at_rest(guests, files))
            await running.aclose()
    return found


async def _at_rest(guests: Sequence[Guest], files: Sequence[Path]) -> Footprint:
    """Return what the VMs take once they give back nothing more."""
    lowest, since = _all(guests, files), trio.current_time()
    while trio.current_time() - since < _REST_S:
        await trio.sleep(1)
        now = _all(guests, files)
        if now.guest_bytes < lowest.guest_bytes - _STILL:
            lowest, since = now, trio.current_time()
    return lowest


def _all(guests: Sequence[Guest], files: Sequence[Path]) -> Footprint:
    return summed([footprint(each.pids, files) for each in guests])


def _copies(layers: Sequence[Path], place: Path) -> tuple[Path, ...]:
    copies = tuple(place / layer.name for layer in layers)
    for layer, copy in zip(layers, copies, strict=True):
        shutil.copyfile(layer, copy)
    return copies
