"""Look after a cache of images: tell what is damaged in it, and remove what nobody needs.

It reads and removes whole files; who may when is `layer_cache`'s.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import trio

from gcs.errors import GcsError
from gcs.host import layer_cache
from gcs.host.image_records import Record, load_all, remove_drafts
from gcs.host.layer_cache import Leases
from gcs.host.layers import image_path, sums_of
from gcs.host.packs import Part, note_of, pack_of

__all__ = ["Findings", "Pruned", "check", "prune"]

#: A layer or a pack, and with what is around it: its note, and both in the making.
_TARGET = re.compile(r"([0-9a-f]{64,128}-v[0-9]+\.(?:ext4|pack))")
_AROUND = re.compile(rf"\.?{_TARGET.pattern}(?:\.sha256|\.json)?(?:\.tmp)?")
_CHUNK = 1 << 20


def _note_of(target: Path) -> Path:
    return note_of(target) if target.suffix == ".pack" else sums_of(target)


# -- removing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed."""

    #: names of layers and packs
    names: Sequence[str]
    #: of the disk
    freed_bytes: int


async def prune(cache: Path) -> Pruned:
    """Remove the layers that no image has and nobody uses, and leftovers of who died.

    Raises GcsError when the record of an image is damaged: which layers it needs is not known.
    """
    async with layer_cache.locked(cache, exclusively=True):
        records = load_all(cache)
        if records.damaged:
            error = next(iter(records.damaged.values()))
            raise GcsError(f"{error}; remove that image first")
        needed = (_needed(record, cache) for record in records.whole.values())
        kept = {path.name for paths in needed for path in paths}
        return await trio.to_thread.run_sync(_prune, cache, kept)


def _needed(record: Record, cache: Path) -> Iterator[Path]:
    """Yield the layers of an image and the pack that it has."""
    layers = [image_path(layer.diff_id, cache) for layer in record.layers]
    yield from layers
    if all(path.exists() for path in layers):
        packed = pack_of(layers)
        if packed:
            yield packed[0]


def _prune(cache: Path, kept: set[str]) -> Pruned:
    """Do what `prune` does, in a thread and under the lock; cancelled between two files."""
    remove_drafts(cache)
    names, freed = [], 0
    for name in _matches(_AROUND, cache):
        trio.from_thread.check_cancelled()
        target = cache / name
        was_there = target.exists()
        freed += layer_cache.sweep(target, _note_of(target), is_kept=name in kept)
        if was_there and not target.exists():
            names.append(name)
    return Pruned(names, freed)


def _matches(pattern: re.Pattern[str], cache: Path) -> list[str]:
    """Return the targets among the names of a folder, each once."""
    found = (pattern.fullmatch(path.name) for path in cache.iterdir())
    return sorted({match[1] for match in found if match})


# -- checking ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Findings:
    """What was looked at, and what is wrong, a sentence each."""

    images: int = 0
    layers: int = 0
    packs: int = 0
    damages: list[str] = field(default_factory=list)


async def check(cache: Path, tell: Callable[[str], Awaitable[None]]) -> Findings:
    """Compare all that is in a cache with its digests; `tell` hears of each file.

    What others remove meanwhile is passed over; what is looked at is kept from that.
    """
    found = Findings()
    async with layer_cache.locked(cache, exclusively=False):
        records = load_all(cache)
        targets = _matches(_TARGET, cache)
        claims = _claims(records.whole.values(), cache)
        for name in sorted(claims.keys() - set(targets)):
            found.damages.append(f"{cache / name}{_of(claims[name])}: is missing")
    found.images = len(records.whole) + len(records.damaged)
    found.damages += map(str, records.damaged.values())
    for number, name in enumerate(targets, 1):
        await tell(f"{number} of {len(targets)}: {name}")
        with Leases() as leases:
            if await leases.hold(cache / name):
                await _look_at(cache / name, claims.get(name, {}), found)
    return found


#: The images that have a layer, and the sha256 that each has noted of it.
_Claims = Mapping[str, str]


def _claims(records: Iterable[Record], cache: Path) -> dict[str, dict[str, str]]:
    """Return the claims to each layer by the name of its file."""
    claims: dict[str, dict[str, str]] = {}
    for record in records:
        for layer in record.layers:
            file = image_path(layer.diff_id, cache)
            claims.setdefault(file.name, {})[record.name] = layer.sha256
    return claims


def _of(claims: _Claims) -> str:
    return f" (of {', '.join(claims)})" if claims else ""


async def _look_at(target: Path, claims: _Claims, found: Findings) -> None:
    if target.suffix == ".pack":
        found.packs += 1
        work = partial(_damages_of_pack, target)
    else:
        found.layers += 1
        work = partial(_damages_of_layer, target, claims)
    try:
        found.damages += await trio.to_thread.run_sync(work)
    except OSError as error:
        found.damages.append(f"{error.filename or target}: {error.strerror}")


def _damages_of_layer(target: Path, claims: _Claims) -> list[str]:
    """Compare a layer and its note with what the images say, or else one with the other."""
    found, noted = _digest(target, 0, target.stat().st_size), _noted(target)
    complaints = []
    wanted = next(iter(claims.values()), noted)
    if found != wanted:
        complaints.append(f"{target}{_of(claims)}: has the sha256 {found}, not {wanted}")
    if noted != wanted or not noted:
        complaints.append(f"{sums_of(target)}{_of(claims)}: says {noted or 'nothing'}")
    return complaints


def _noted(target: Path) -> str:
    """Return the digest in a layer's note, or nothing when that is damaged or not there."""
    try:
        digest, _, name = sums_of(target).read_text(errors="replace").partition("  ")
    except FileNotFoundError:
        return ""
    return digest if name == f"{target.name}\n" else ""


def _damages_of_pack(target: Path) -> list[str]:
    try:
        parts = msgspec.json.decode(note_of(target).read_bytes(), type=list[Part])
    except msgspec.MsgspecError as error:
        return [f"{note_of(target)}: is damaged: {error}"]
    complaints = [
        f"{target}: the part of {part.layer} has the sha256 {found}, not {part.sha256}"
        for part in parts
        if (found := _digest(target, part.offset, part.size)) != part.sha256
    ]
    end = max(part.offset + part.size for part in parts) if parts else 0
    if target.stat().st_size != end:
        complaints.append(f"{target}: has {target.stat().st_size} bytes, not {end}")
    return complaints


def _digest(path: Path, offset: int, size: int) -> str:
    """Return the sha256 of a part of a file; of less when it ends before."""
    digest, left = hashlib.sha256(), size
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while chunk := file.read(min(left, _CHUNK)):
            trio.from_thread.check_cancelled()
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()
