"""The images of a cache, by name: a record each, which keeps the layers that it names.

A record is a file, `images/NAME.json` in the cache's folder, with the sha256 of its own
contents. It has the image's configuration as it came, which the image's id is the digest of, so
a damaged one is never taken for the image. What a layer was made of stands there too: one that
somebody has deleted is made again if that is still where it was.

Names are docker's references, and nothing is added to them: "debian" and "debian:latest" are
two. Locks are `layer_cache`'s.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
import trio

from gcs.errors import GcsError, InvalidArgumentError, NotFoundError
from gcs.host import layer_cache
from gcs.host.blob import Blob, check_digest
from gcs.host.document import parse
from gcs.host.images import Image, Layer, config_of
from gcs.host.layers import image_path, sums_of

__all__ = [
    "Record",
    "RecordError",
    "Records",
    "StoredLayer",
    "check_name",
    "image_of",
    "is_known",
    "load",
    "load_all",
    "remove",
    "remove_drafts",
    "store",
]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:/@+-]*")
#: A file's name has up to 255 bytes; ".NAME.json.tmp" is the longest.
_MAX_QUOTED = 240


class RecordError(GcsError):
    """The record of an image is damaged; the text names it."""


class StoredLayer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A layer, what it was made of, and what was made of it."""

    diff_id: str
    media_type: str
    #: of the blob: a file, or a part of one
    digest: str
    path: str
    offset: int
    blob_size: int
    #: of the layer as a file system, in bytes
    size: int
    #: the same, as hexadecimal digits
    sha256: str


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image of the cache."""

    name: str
    #: of its manifest
    digest: str
    #: of its configuration: what docker calls the image's id
    config_digest: str
    #: the configuration as it came
    config: bytes
    #: bottom first
    layers: tuple[StoredLayer, ...]
    #: the folder or file that it came from
    source: str
    #: seconds of the Unix epoch
    imported_at: int


class _Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in the file."""

    #: of the record as it stands here
    sha256: str
    record: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Records:
    """All images of a cache by name, and what is wrong with those that can't be read."""

    whole: Mapping[str, Record]
    damaged: Mapping[str, RecordError]


def check_name(name: str) -> str:
    """Return a name that an image can have, or raise InvalidArgumentError."""
    if not _is_name(name):
        raise InvalidArgumentError(
            f"image name {name[:80]!r}: expected letters, digits and any of ._:/@+-, "
            "a letter or digit first, and not too many"
        )
    return name


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and len(_quoted(text)) <= _MAX_QUOTED


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _folder(cache: Path) -> Path:
    return cache / "images"


def _file(cache: Path, name: str) -> Path:
    return _folder(cache) / f"{_quoted(check_name(name))}.json"


# -- reading -----------------------------------------------------------------------------------


def is_known(cache: Path, name: str) -> bool:
    """Tell whether a cache has an image of that name."""
    return _is_name(name) and _file(cache, name).exists()


def load(cache: Path, name: str) -> Record:
    """Return the record of an image.

    Raises NotFoundError when there is none, RecordError when it is damaged.
    """
    path = _file(cache, name)
    try:
        record = _unsealed(path.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(f"image {name}: not imported") from None
    except (msgspec.MsgspecError, GcsError) as error:
        raise RecordError(f"image {name}: its record {path} is damaged: {error}") from error
    if record.name != name:
        raise RecordError(f"image {name}: its record {path} is that of {record.name}")
    return record


def _unsealed(content: bytes) -> Record:
    """Return what a record's file holds, both digests checked."""
    sealed = msgspec.json.decode(content, type=_Sealed)
    _check("its content", sealed.record, f"sha256:{sealed.sha256}")
    record = msgspec.json.decode(sealed.record, type=Record)
    _check("the configuration", record.config, check_digest(record.config_digest))
    return record


def _check(what: str, content: bytes | msgspec.Raw, digest: str) -> None:
    algorithm, _, wanted = digest.partition(":")
    found = hashlib.new(algorithm, content).hexdigest()
    if found != wanted:
        raise RecordError(f"{what} has the {algorithm} {found}, not {wanted}")


def load_all(cache: Path) -> Records:
    """Return the images of a cache."""
    whole: dict[str, Record] = {}
    damaged: dict[str, RecordError] = {}
    for path in sorted(_folder(cache).glob("[!.]*.json")):
        name = unquote(path.name.removesuffix(".json"))
        try:
            whole[name] = load(cache, name)
        except RecordError as error:
            damaged[name] = error
        except (NotFoundError, InvalidArgumentError):
            continue  # it was removed at this moment, or is none of ours
    return Records(whole, damaged)


def image_of(record: Record) -> Image:
    """Return the image that a record stands for."""
    document = parse(record.config, f"config {record.config_digest}")
    return Image(
        name=record.name,
        digest=record.digest,
        config_digest=record.config_digest,
        document=record.config,
        config=config_of(document),
        layers=tuple(map(_layer, record.layers)),
    )


def _layer(stored: StoredLayer) -> Layer:
    blob = Blob(
        digest=stored.digest,
        path=Path(stored.path),
        offset=stored.offset,
        size=stored.blob_size,
    )
    return Layer(media_type=stored.media_type, diff_id=stored.diff_id, blob=blob)


# -- writing -----------------------------------------------------------------------------------


async def store(image: Image, name: str, source: Path, cache: Path) -> Record:
    """Record an image whose layers are in the cache, over one of the same name.

    The caller holds leases on the layers. Raises OSError when that can't be written.
    """
    path, whole_source = _file(cache, name), await trio.Path(source).absolute()
    record = Record(
        name=name,
        digest=image.digest,
        config_digest=image.config_digest,
        config=image.document,
        layers=tuple(_stored(layer, cache) for layer in image.layers),
        source=str(whole_source),
        imported_at=round(time.time()),
    )
    content = msgspec.json.encode(record)
    seal = _Sealed(sha256=hashlib.sha256(content).hexdigest(), record=msgspec.Raw(content))
    async with layer_cache.locked(cache, exclusively=True):
        path.parent.mkdir(exist_ok=True)
        layer_cache.write(path, msgspec.json.encode(seal))
    return record


def _stored(layer: Layer, cache: Path) -> StoredLayer:
    file = image_path(layer.diff_id, cache)
    return StoredLayer(
        diff_id=layer.diff_id,
        media_type=layer.media_type,
        digest=layer.blob.digest,
        path=str(layer.blob.path),
        offset=layer.blob.offset,
        blob_size=layer.blob.size,
        size=file.stat().st_size,
        sha256=sums_of(file).read_text().partition(" ")[0],
    )


async def remove(cache: Path, name: str) -> None:
    """Remove an image, damaged or not; its layers stay until they are pruned.

    Raises NotFoundError when there is none.
    """
    path = _file(cache, name)
    async with layer_cache.locked(cache, exclusively=True):
        try:
            path.unlink()
        except FileNotFoundError:
            raise NotFoundError(f"image {name}: not imported") from None


def remove_drafts(cache: Path) -> None:
    """Remove what writers of records that died have left; the caller holds the lock."""
    for path in _folder(cache).glob(".*.tmp"):
        path.unlink()
