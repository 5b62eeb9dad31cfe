"""Turn an image's layers into ext4 images, once each, in a cache that every VM shares.

Key: diff id and CONVERTER_VERSION, so that one layer is one file whatever compressed it; beside
it lies its sha256. A layer is converted in one pass and in one thread: read, hash, unpack,
hash, write. Only when both digests are right does the file get its name; before that it is a
locked temporary file, removed on every failure and on cancellation.

It does not know folders or archives of images: that is `images`.

Source: OCI image-spec layer.md and config.md (diff ids).
"""

import functools
import hashlib
import io
import os
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import trio

from gcs.errors import GcsError
from gcs.host import layer_cache
from gcs.host.ext4_image import ImageWriter
from gcs.host.images import Image, Layer
from gcs.host.layer_cache import Leases
from gcs.host.layer_tar import TarReader
from gcs.host.layer_tree import LayerTree
from gcs.host.unpack import Unpacked

__all__ = [
    "CONVERTER_VERSION",
    "LayerError",
    "convert",
    "default_cache_dir",
    "ensure_layers",
    "image_path",
    "sums_of",
]

#: Part of every cache key: raise it with any change that makes another image of the same tar.
CONVERTER_VERSION = 1

#: Most layers take less, and so say nothing; who reads a log wants few lines.
REPORT_INTERVAL_S = 2.0


class LayerError(GcsError):
    """A layer can't be converted; the text names it and, where there is one, the entry."""


def default_cache_dir() -> Path:
    """Return the folder of converted layers: gcs/layers in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if cache.startswith("/") else Path.home() / ".cache"
    return base / "gcs" / "layers"


async def ensure_layers(
    image: Image,
    cache_dir: Path,
    *,
    progress: Callable[[str], None],
    leases: Leases | None = None,
) -> tuple[Path, ...]:
    """Return the ext4 image of each layer, bottom first; converts what the cache lacks.

    With leases they are kept from being removed; without, `images prune` may take them.

    Raises:
        LayerError: a layer is damaged, hostile or beyond a limit.
    """
    paths = []
    for number, layer in enumerate(image.layers, 1):
        label = f"layer {number} of {len(image.layers)} {layer.diff_id.partition(':')[2][:12]}"
        say = functools.partial(_labelled, progress, label)
        if _is_there(image_path(layer.diff_id, cache_dir)):
            say("in the cache")
        else:
            say(f"converting {layer.blob.size / 1e6:.1f} MB")
        paths.append(await _hold(layer, cache_dir, say, leases))
    return tuple(paths)


async def _hold(
    layer: Layer, cache_dir: Path, say: Callable[[str], None], leases: Leases | None
) -> Path:
    while True:
        path = await convert(layer, cache_dir, progress=say)
        # Else it was removed at this moment, and is made anew.
        if leases is None or await leases.hold(path):
            return path


def _labelled(progress: Callable[[str], None], label: str, text: str) -> None:
    progress(f"{label}: {text}")


async def convert(
    layer: Layer, cache_dir: Path, *, progress: Callable[[str], None] | None = None
) -> Path:
    """Return the ext4 image of one layer, converting it if the cache lacks it.

    `progress` hears a percentage every REPORT_INTERVAL_S, in the caller's own thread.

    Leaves:
        After success the image and its `.sha256`, both read-only and on disk; after failure
        nothing.

    Raises:
        LayerError: the layer is damaged, hostile or beyond a limit, or can't be written.
        DeadlineError: another process has been converting it for LOCK_DEADLINE_S.
    """
    target = image_path(layer.diff_id, cache_dir)
    if _is_there(target):
        return target
    temporary = layer_cache.temporary_of(target)
    file = await layer_cache.claim(target)
    with ExitStack() as undo:
        # The raw file: closing the buffered one would write what it holds, and on a full disk
        # that fails once more, over the first error.
        undo.callback(file.raw.close)
        with ExitStack() as failed:
            failed.callback(temporary.unlink, missing_ok=True)
            if not _is_there(target):
                await trio.to_thread.run_sync(_make, layer, file, target, progress)
                # The temporary file has become the image; its old name may be another's by now.
                failed.pop_all()
    return target


def image_path(diff_id: str, cache_dir: Path) -> Path:
    """Return where the image of a layer is or will be."""
    return cache_dir / f"{diff_id.partition(':')[2]}-v{CONVERTER_VERSION}.ext4"


def sums_of(image: Path) -> Path:
    """Return where the sha256 of an image is."""
    return image.with_name(f"{image.name}.sha256")


def _is_there(target: Path) -> bool:
    # An image gets its name last, so its presence is all that needs asking.
    return target.exists()


def _make(
    layer: Layer,
    file: io.BufferedRandom,
    target: Path,
    progress: Callable[[str], None] | None,
) -> None:
    """Write the layer's image into its temporary file and rename that; runs in a thread."""
    try:
        _fill(layer, file, _Checkpoint(progress))
        _publish(file, target)
    except GcsError as error:
        raise LayerError(f"layer {layer.digest}: {error}") from error
    except OSError as error:
        raise LayerError(f"layer {layer.digest}: write {target}: {error.strerror}") from error


class _Checkpoint:
    """What the thread does between chunks: end if cancelled, report if it is time."""

    def __init__(self, progress: Callable[[str], None] | None) -> None:
        self._progress = progress
        self._reported = time.monotonic()

    def __call__(self, part: float) -> None:
        """Raise trio.Cancelled in the thread if the task that waits for it is cancelled."""
        trio.from_thread.check_cancelled()
        now = time.monotonic()
        if self._progress is not None and now - self._reported > REPORT_INTERVAL_S:
            self._reported = now
            trio.from_thread.run_sync(self._progress, f"{part:.0%}")


def _fill(layer: Layer, file: io.BufferedRandom, checkpoint: Callable[[float], None]) -> None:
    with layer.blob.open() as blob:
        unpacked = Unpacked(blob, layer.diff_id, checkpoint)
        reader = TarReader(unpacked.read)
        tree = LayerTree()
        writer = ImageWriter(file)
        for entry in reader:
            node = tree.add(entry)
            if node is not None:
                writer.store(node, entry.pieces, reader.data())
        unpacked.verify()
    # The layer's own id, so that two images are never taken for one another.
    identity = uuid.UUID(hex=layer.diff_id.partition(":")[2][:32], version=4)
    writer.finish(tree.seal(), identity.bytes)


def _publish(file: io.BufferedRandom, target: Path) -> None:
    """Give a finished image its name, its sha256 first: an image in place is a whole one."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    layer_cache.publish(file, target, sums_of(target), f"{digest}  {target.name}\n")
