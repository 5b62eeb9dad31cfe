"""`gcsctl images`: what is done with the images of a user's cache, and what is said of it."""

import argparse
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec

from gcs.errors import GcsError, InvalidArgumentError
from gcs.host import image_records, image_upkeep
from gcs.host.contents import prepare
from gcs.host.display import (
    ProgressDisplay,
    ago,
    say_failure,
    show_table,
    size_text,
    write_line,
)
from gcs.host.image_records import Record
from gcs.host.images import open_image
from gcs.host.layer_cache import Leases
from gcs.host.layers import default_cache_dir
from gcs.host.steps import Steps
from gcs.wire.control import Progress

__all__ = ["act_on_images", "named_image"]

_COLUMNS = ("NAME", "IMAGE ID", "LAYERS", "SIZE", "IMPORTED")
#: Of an id, as everywhere.
_SHORT = 12
_FAILED = 1


def named_image(text: str, cache: Path) -> str:
    """Return the absolute path of an image, or the name of one in the cache.

    Raises InvalidArgumentError when it is neither.
    """
    path = Path(text)
    if path.exists():
        return str(path.absolute())
    if image_records.is_known(cache, text):
        return text
    raise InvalidArgumentError(f"image {text}: no such file or folder, and no imported image")


async def act_on_images(options: argparse.Namespace) -> int:
    """Do what `gcsctl images` was told; return the exit status."""
    cache = default_cache_dir()
    match options.action:
        case "ls":
            return _list(options, cache)
        case "import":
            return await _import(options, cache)
        case "check":
            return await _check(options, cache)
        case "rm":
            return await _remove(options.images, cache)
        case _:
            return await _prune(cache)


# -- ls ----------------------------------------------------------------------------------------


class _LayerOfLine(msgspec.Struct, frozen=True, rename="pascal"):
    """A layer in it."""

    diff_id: str
    #: as a file system
    size: int


class _Line(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A line of `ls --json`."""

    name: str
    image_id: str
    digest: str
    #: each layer once
    size: int
    #: bottom first
    layers: Sequence[_LayerOfLine]
    source: str
    imported_at: int


def _list(options: argparse.Namespace, cache: Path) -> int:
    found = image_records.load_all(cache)
    records = found.whole.values()
    if options.quiet:
        for record in records:
            write_line(record.name)
    elif options.json:
        for record in records:
            write_line(msgspec.json.encode(_line(record)).decode())
    else:
        _show(records)
    for error in found.damaged.values():
        say_failure(str(error))
    return _FAILED if found.damaged else 0


def _line(record: Record) -> _Line:
    return _Line(
        name=record.name,
        image_id=record.config_digest,
        digest=record.digest,
        size=sum(_sizes([record]).values()),
        layers=[_LayerOfLine(layer.diff_id, layer.size) for layer in record.layers],
        source=record.source,
        imported_at=record.imported_at,
    )


def _show(records: Iterable[Record]) -> None:
    rows = [
        (
            record.name,
            record.config_digest.partition(":")[2][:_SHORT],
            str(len(record.layers)),
            size_text(sum(_sizes([record]).values())),
            ago(record.imported_at),
        )
        for record in records
    ]
    layers = _sizes(records)
    # What several images share is stored once, and counts once here.
    total = ("total", "", str(len(layers)), size_text(sum(layers.values())), "")
    show_table(_COLUMNS, [*rows, total])


def _sizes(records: Iterable[Record]) -> dict[str, int]:
    """Return the size of each layer, by its diff id."""
    return {layer.diff_id: layer.size for record in records for layer in record.layers}


# -- import ------------------------------------------------------------------------------------


async def _import(options: argparse.Namespace, cache: Path) -> int:
    path, step = Path(options.path), f"import {options.path}"
    async with _shown(step, is_verbose=options.verbose) as tell:
        image = await open_image(path, options.choose)
        name = options.name or _own_name(image.name) or _name_of(path)
        with Leases() as leases:
            await prepare(image, cache, leases, tell)
            await image_records.store(image, name, path, cache)
    write_line(name)
    return 0


@asynccontextmanager
async def _shown(
    step: str, *, is_verbose: bool
) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Show a step for the length of the block; yields what tells more about it."""
    display = ProgressDisplay(verbose=is_verbose)

    async def show(progress: Progress) -> None:
        display.show(progress)

    steps = Steps(show)
    try:
        async with steps.step(step):
            yield partial(steps.advance, step)
    finally:
        display.stop()


def _own_name(text: str) -> str:
    """Return what an image calls itself, unless it is but a tag, as layouts often have it."""
    return image_records.check_name(text) if re.search("[/:]", text) else ""


def _name_of(path: Path) -> str:
    try:
        return image_records.check_name(path.absolute().name.removesuffix(".tar"))
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{error}; give one with --name") from error


# -- check, rm, prune --------------------------------------------------------------------------


async def _check(options: argparse.Namespace, cache: Path) -> int:
    async with _shown("check", is_verbose=options.verbose) as tell:
        found = await image_upkeep.check(cache, tell)
    for sentence in found.damages:
        say_failure(sentence)
    write_line(f"{found.images} images, {found.layers} layers, {found.packs} packs")
    return _FAILED if found.damages else 0


async def _remove(names: Sequence[str], cache: Path) -> int:
    """Remove images in their order, whatever fails."""
    status = 0
    for name in names:
        try:
            await image_records.remove(cache, name)
            write_line(name)
        except GcsError as error:
            say_failure(str(error))
            status = _FAILED
    return status


async def _prune(cache: Path) -> int:
    pruned = await image_upkeep.prune(cache)
    for name in pruned.names:
        write_line(name)
    write_line(f"{len(pruned.names)} files, {size_text(pruned.freed_bytes)}")
    return 0
