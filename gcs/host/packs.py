"""Put an image's layers into few files, because a VM gets a device for each.

Up to MAX_DEVICES layers keep their own files, which all images and VMs share. Of more, the
largest keep theirs, and the others are copied into one file, a pack: what is stored twice, and
not shared with other images, is the least that it can be. Copying is left to the kernel, which
may share the blocks where the file system has reflinks. A pack is kept and known by the layers
that are in it, so all images and VMs with the same ones share it.

The guest maps the parts by dm-linear, with DAX. They begin at multiples of 2 MiB, as layers
do, so that large pages stay possible.
"""

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import trio

from gcs.errors import GcsError
from gcs.host import layer_cache
from gcs.host.layer_cache import Leases
from gcs.host.layers import sums_of
from gcs.host.place import Place, whole

__all__ = ["MAX_DEVICES", "PackError", "Part", "device_count", "note_of", "pack", "pack_of"]

#: Each costs the guest a root port and part of its boot; hosts in use have as many for layers.
MAX_DEVICES = 8
#: Part of a pack's name: raise it with any change to what is where.
PACK_VERSION = 1
#: Copied in one call, after which a cancellation is seen: a slow disk takes a second.
_CHUNK = 64 << 20
#: What a kernel answers that can't copy from file to file by itself.
_NO_COPY = frozenset({errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class PackError(GcsError):
    """Layers can't be put into one file."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A layer in a pack, as the note beside it says."""

    layer: str
    offset: int
    size: int
    #: as hexadecimal digits
    sha256: str


def device_count(layer_count: int) -> int:
    """Return how many devices an image of so many layers takes."""
    return min(layer_count, MAX_DEVICES)


def note_of(pack: Path) -> Path:
    """Return where it says what is in a pack."""
    return pack.with_name(f"{pack.name}.json")


def pack_of(layers: Sequence[Path]) -> tuple[Path, tuple[Path, ...]] | None:
    """Return the pack that an image of these layers has, and the layers in it, or None.

    Raises OSError when a layer is not there.
    """
    packed = _packed(layers)
    if not packed:
        return None
    names = "\n".join(path.name for path in packed)
    key = hashlib.sha256(names.encode()).hexdigest()
    return packed[0].with_name(f"{key}-v{PACK_VERSION}.pack"), packed


def _packed(layers: Sequence[Path]) -> tuple[Path, ...]:
    """Return the layers that share a file: all but the largest."""
    distinct = tuple(dict.fromkeys(layers))
    if len(distinct) <= MAX_DEVICES:
        return ()
    # By name where sizes are equal, so that two images choose alike.
    by_size = sorted(distinct, key=lambda path: (-path.stat().st_size, path.name))
    alone = frozenset(by_size[: MAX_DEVICES - 1])
    return tuple(path for path in distinct if path not in alone)


async def pack(
    layers: Sequence[Path],
    *,
    leases: Leases | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Place, ...]:
    """Return where each layer lies, bottom first, on at most MAX_DEVICES files.

    The layers must not be removed meanwhile; the pack is kept from that by the leases.

    Leaves:
        After success the pack and its note, both read-only and on disk; after failure nothing.

    Raises:
        PackError: it can't be written.
        DeadlineError: another process has been making it for too long.
    """
    found = pack_of(layers)
    if found is None:
        return whole(layers)
    target, packed = found
    while True:
        if not _is_there(target):
            progress(f"putting {len(packed)} layers into one file")
            await _make(target, packed)
        if leases is None or await leases.hold(target):
            break
    places = {path: Place(path) for path in layers}
    places |= {path: Place(target, offset, size) for path, offset, size in _arranged(packed)}
    return tuple(places[path] for path in layers)


def _is_there(target: Path) -> bool:
    # A pack gets its name last, so its presence is all that needs asking.
    return target.exists()


def _arranged(packed: Sequence[Path]) -> Iterator[tuple[Path, int, int]]:
    """Yield each layer with its offset and size."""
    offset = 0
    for path in packed:
        size = path.stat().st_size
        yield path, offset, size
        offset += size


async def _make(target: Path, packed: Sequence[Path]) -> None:
    file = await layer_cache.claim(target)
    with ExitStack() as undo:
        undo.callback(file.raw.close)
        with ExitStack() as failed:
            failed.callback(layer_cache.temporary_of(target).unlink, missing_ok=True)
            if not _is_there(target):
                await trio.to_thread.run_sync(_write, target, file, packed)
                # The temporary file is the pack now; its old name may be another's.
                failed.pop_all()


def _write(target: Path, file: io.BufferedRandom, packed: Sequence[Path]) -> None:
    """Fill the pack and give it its name; runs in a thread."""
    parts = []
    try:
        for path, offset, size in _arranged(packed):
            digest = sums_of(path).read_text().partition(" ")[0]
            parts.append(Part(layer=path.name, offset=offset, size=size, sha256=digest))
            with path.open("rb", buffering=0) as layer:
                _copy(layer.fileno(), file.fileno(), offset)
        os.ftruncate(file.fileno(), parts[-1].offset + parts[-1].size)
        note = msgspec.json.format(msgspec.json.encode(parts)).decode()
        layer_cache.publish(file, target, note_of(target), f"{note}\n")
    except OSError as error:
        raise PackError(f"write {target}: {error.strerror}") from error


def _copy(source: int, sink: int, shift: int) -> None:
    """Copy what a file holds, and not its holes, to an offset of another."""
    for start, end in _data(source):
        at = start
        while at < end:
            trio.from_thread.check_cancelled()
            at += _copy_some(source, sink, min(_CHUNK, end - at), at, at + shift)


def _data(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a file that are no holes."""
    end = 0
    while True:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def _copy_some(source: int, sink: int, count: int, start: int, to: int) -> int:
    """Copy up to count bytes, by the kernel itself if it can; return how many."""
    try:
        copied = os.copy_file_range(source, sink, count, start, to)
    except OSError as error:
        if error.errno not in _NO_COPY:
            raise
        copied = os.pwrite(sink, os.pread(source, min(count, 1 << 20), start), to)
    if not copied:
        raise OSError(errno.EIO, "a layer ends before its size")
    return copied
