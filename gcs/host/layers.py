"""Turn an image's layers into ext4 images, once each, in a cache that every VM shares.

Key: diff id and CONVERTER_VERSION, so that one layer is one file whatever compressed it; beside
it lies its sha256. A layer is converted in one pass and in one thread: read, hash, unpack,
hash, write. Only when both digests are right does the file get its name; before that it is a
locked temporary file, removed on every failure and on cancellation.

It does not know folders or archives of images: that is `images`.

Source: OCI image-spec layer.md and config.md (diff ids).
"""

import fcntl
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

from gcs.errors import DeadlineError, GcsError
from gcs.host.ext4_image import ImageWriter
from gcs.host.images import Image, Layer
from gcs.host.layer_tar import TarReader
from gcs.host.layer_tree import LayerTree
from gcs.host.unpack import Unpacked

__all__ = ["CONVERTER_VERSION", "LayerError", "convert", "default_cache_dir", "ensure_layers"]

#: Part of every cache key: raise it with any change that makes another image of the same tar.
CONVERTER_VERSION = 1

#: How long to wait for another process that converts the same layer: MAX_UNPACKED_BYTES at a
#: slow disk's 40 MB/s take 14 minutes.
LOCK_DEADLINE_S = 900.0

#: Most layers take less, and so say nothing; who reads a log wants few lines.
REPORT_INTERVAL_S = 2.0

_CHUNK = 1 << 20


class LayerError(GcsError):
    """A layer can't be converted; the text names it and, where there is one, the entry."""


def default_cache_dir() -> Path:
    """Return the folder of converted layers: gcs/layers in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if cache.startswith("/") else Path.home() / ".cache"
    return base / "gcs" / "layers"


async def ensure_layers(
    image: Image, cache_dir: Path, *, progress: Callable[[str], None]
) -> tuple[Path, ...]:
    """Return the ext4 image of each layer, bottom first; converts what the cache lacks.

    Raises:
        LayerError: a layer is damaged, hostile or beyond a limit.
    """
    paths = []
    for number, layer in enumerate(image.layers, 1):
        label = f"layer {number} of {len(image.layers)} {layer.diff_id.partition(':')[2][:12]}"
        say = functools.partial(_labelled, progress, label)
        if _is_there(_image_path(layer, cache_dir)):
            say("in the cache")
        else:
            say(f"converting {layer.blob.size / 1e6:.1f} MB")
        paths.append(await convert(layer, cache_dir, progress=say))
    return tuple(paths)


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
    target = _image_path(layer, cache_dir)
    if _is_there(target):
        return target
    temporary = cache_dir / f".{target.name}.tmp"
    file = await _claim(temporary)
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


def _image_path(layer: Layer, cache_dir: Path) -> Path:
    return cache_dir / f"{layer.diff_id.partition(':')[2]}-v{CONVERTER_VERSION}.ext4"


def _is_there(target: Path) -> bool:
    # An image gets its name last, so its presence is all that needs asking.
    return target.exists()


async def _claim(temporary: Path) -> io.BufferedRandom:
    """Open a temporary file and lock it against other conversions of the same layer.

    The file is its own lock, so a lock can't be left behind: the system drops it with its
    process, and what a killed process wrote is overwritten by the next. Waiting is polling,
    since a thread blocked in flock(2) could not be cancelled.
    """
    with trio.move_on_after(LOCK_DEADLINE_S):
        while True:
            file = _try_claim(temporary)
            if file is not None:
                return file
            await trio.sleep(0.1)
    raise DeadlineError(f"lock {temporary}: not free after {LOCK_DEADLINE_S:.0f} s")


def _try_claim(temporary: Path) -> io.BufferedRandom | None:
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as undo:
        descriptor = os.open(
            temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        undo.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have renamed or removed the file that is locked now.
            same = os.path.samestat(os.fstat(descriptor), temporary.stat())
        except (BlockingIOError, FileNotFoundError):
            return None
        if not same:
            return None
        os.ftruncate(descriptor, 0)
        undo.pop_all()
        return io.BufferedRandom(io.FileIO(descriptor, "r+b"), _CHUNK)


def _make(
    layer: Layer,
    file: io.BufferedRandom,
    target: Path,
    progress: Callable[[str], None] | None,
) -> None:
    """Write the layer's image into its temporary file and rename that; runs in a thread."""
    try:
        _fill(layer, file, _Checkpoint(progress))
        _publish(file, target.with_name(f".{target.name}.tmp"), target)
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


def _publish(file: io.BufferedRandom, temporary: Path, target: Path) -> None:
    """Give a finished image its name, its sha256 first: an image in place is a whole one."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    os.fchmod(file.fileno(), 0o444)
    os.fsync(file.fileno())
    sums = target.with_name(f"{target.name}.sha256")
    with ExitStack() as undo:
        draft = temporary.with_name(f".{sums.name}.tmp")
        undo.callback(draft.unlink, missing_ok=True)
        with draft.open("w") as text:
            text.write(f"{digest}  {target.name}\n")
            os.fchmod(text.fileno(), 0o444)
            text.flush()
            os.fsync(text.fileno())
        draft.rename(sums)
    temporary.rename(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
