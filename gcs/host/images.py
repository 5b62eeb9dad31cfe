"""Read an image: from a layout or an archive to its configuration and layers, bottom first.

Every document is checked against the digest that names it before it is believed. Layers are
only located here; `layers` reads and checks them.

Source: OCI image-spec image-layout.md, image-index.md, manifest.md, config.md; Docker Registry
"Image Manifest V2, Schema 2" for Docker's media types.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from gcs.errors import GcsError
from gcs.host.blob import Blob, check_digest
from gcs.host.docker_archive import INDEX, Archived, read_archive
from gcs.host.document import Document, parse
from gcs.host.layout import Layout, LayoutError, check_layer_count, open_layout

__all__ = ["Image", "ImageConfig", "ImageError", "Layer", "config_of", "open_image"]

#: Indexes inside indexes: in use are two levels (index.json and one multi-platform index).
MAX_INDEX_DEPTH = 4

_INDEXES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
_MANIFESTS = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
_CONFIGS = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_OCI_LAYER = "application/vnd.oci.image.layer."
_LAYERS = frozenset(
    {
        *(f"{_OCI_LAYER}v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd")),
        *(f"{_OCI_LAYER}nondistributable.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd")),
        *(f"{_DOCKER_LAYER}{suffix}" for suffix in ("", ".gzip", ".zstd")),
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)
#: Where a layout keeps an image's name: containerd's full one, the OCI's, often but a tag.
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class ImageError(GcsError):
    """An image can't be read; the text names its path and what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: where its tar lies, and the digest of the tar itself (`diff_id`)."""

    media_type: str
    diff_id: str
    blob: Blob

    @property
    def digest(self) -> str:
        """Digest of the layer as it is stored, compressed or not."""
        return self.blob.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image says about the container made of it; absent members are empty."""

    env: tuple[str, ...]
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    working_dir: str
    #: `user`, `uid`, `user:group` …, as written; names are in the image's own /etc/passwd.
    user: str
    #: Name or number, as written.
    stop_signal: str
    labels: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image whose documents have been checked."""

    #: As the layout names it; may be empty.
    name: str
    #: Of the manifest; of the configuration where there is no manifest.
    digest: str
    #: What docker calls the image's id.
    config_digest: str
    #: The configuration as it is stored.
    document: bytes
    config: ImageConfig
    #: Bottom first, as in the manifest.
    layers: tuple[Layer, ...]


async def open_image(path: Path, name: str | None = None) -> Image:
    """Read the linux/amd64 image in a folder or a plain tar: an OCI layout, a docker archive.

    `name` chooses among several images, by the name that the layout gives them.

    Raises:
        ImageError: there is none, or several and no name, or a document is damaged.
    """
    return await trio.to_thread.run_sync(_read, path, name)


def _read(path: Path, name: str | None) -> Image:
    try:
        layout = open_layout(path)
        if not layout.has("oci-layout") and layout.has(INDEX):
            return _of_archive(read_archive(layout, name))
        _check_version(layout)
        index = parse(layout.document("index.json"), "index.json")
        found, manifest = _choose(layout, index, name)
        return _image(layout, found, manifest)
    except OSError as error:
        raise ImageError(f"image {path}: {error.strerror}") from error
    except GcsError as error:
        raise ImageError(f"image {path}: {error}") from error


def _check_version(layout: Layout) -> None:
    if not layout.has("oci-layout"):
        raise LayoutError(
            "no OCI image layout (oci-layout is missing), and no docker archive either"
        )
    version = parse(layout.document("oci-layout"), "oci-layout").text("imageLayoutVersion")
    if version.partition(".")[0] != "1":
        raise LayoutError(f"oci-layout: version {version[:40]!r} is not 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A descriptor of a manifest."""

    name: str
    digest: str
    #: Whether the descriptor itself says linux/amd64; if not, the config must.
    is_placed: bool


def _choose(layout: Layout, index: Document, name: str | None) -> tuple[_Found, Document]:
    """Return the one manifest that fits."""
    tops = [item for item in index.each("manifests") if name is None or name in _names(item)]
    if not tops:
        missing = (
            "index.json lists no image" if name is None else f"has no image named {name!r}"
        )
        raise LayoutError(f"{missing}")
    images = []
    seen: set[str] = set()
    for top in tops:
        # Of one index the first that fits is meant; variants are listed best first.
        fitting = next(_manifests(layout, top, seen, depth=0), None)
        if fitting is not None:
            images.append(fitting)
    if not images:
        raise LayoutError("holds nothing for linux/amd64")
    if len({found.digest for found, _ in images}) > 1:
        names = ", ".join(repr(found.name or found.digest) for found, _ in images)
        raise LayoutError(f"holds several images: {names}")
    return images[0]


def _names(descriptor: Document) -> tuple[str, ...]:
    notes = descriptor.table("annotations")
    return tuple(notes[key] for key in _NAMES if key in notes)


def _manifests(
    layout: Layout, descriptor: Document, seen: set[str], *, depth: int, name: str = ""
) -> Iterator[tuple[_Found, Document]]:
    """Yield the manifests for linux/amd64 at or below a descriptor, in their order.

    Each document is read once: indexes that name one another many times cost no more than
    what they are made of.
    """
    platform = descriptor.inner("platform")
    system, machine = platform.text("os", ""), platform.text("architecture", "")
    if (system or machine) and (system, machine) != ("linux", "amd64"):
        return
    media_type = descriptor.text("mediaType", "")
    digest = descriptor.text("digest")
    if media_type not in _INDEXES | _MANIFESTS or digest in seen:
        return
    seen.add(digest)
    name = name or next(iter(_names(descriptor)), "")
    content = layout.verified(digest, descriptor.number("size"))
    document = parse(content, digest)
    if media_type in _MANIFESTS:
        # An artifact (signature, SBOM) is a manifest too, but not of an image.
        if document.inner("config").text("mediaType", "") in _CONFIGS:
            yield _Found(name=name, digest=digest, is_placed=bool(system)), document
        return
    if depth >= MAX_INDEX_DEPTH:
        raise LayoutError(f"over {MAX_INDEX_DEPTH} indexes in one another")
    for child in document.each("manifests"):
        yield from _manifests(layout, child, seen, depth=depth + 1, name=name)


def _image(layout: Layout, found: _Found, manifest: Document) -> Image:
    descriptor = manifest.inner("config")
    digest = descriptor.text("digest")
    content = layout.verified(digest, descriptor.number("size"))
    config = parse(content, f"config {digest}")
    if not found.is_placed:
        _check_place(config)
    return Image(
        name=found.name,
        digest=found.digest,
        config_digest=digest,
        document=content,
        config=config_of(config),
        layers=_layers(layout, manifest, config.inner("rootfs").texts("diff_ids")),
    )


def _of_archive(found: Archived) -> Image:
    config = parse(found.config, f"config {found.config_digest}")
    _check_place(config)
    diff_ids = config.inner("rootfs").texts("diff_ids")
    return Image(
        name=found.name,
        digest=found.config_digest,
        config_digest=found.config_digest,
        document=found.config,
        config=config_of(config),
        layers=tuple(
            Layer(media_type=_DOCKER_LAYER, diff_id=diff_id, blob=blob)
            for diff_id, blob in zip(diff_ids, found.blobs, strict=True)
        ),
    )


def _check_place(config: Document) -> None:
    place = (config.text("os", ""), config.text("architecture", ""))
    if place != ("linux", "amd64"):
        raise LayoutError(f"is for {'/'.join(place)}, not for linux/amd64")


def config_of(document: Document) -> ImageConfig:
    """Return what an image's configuration says about containers."""
    config = document.inner("config")
    return ImageConfig(
        env=config.texts("Env"),
        entrypoint=config.texts("Entrypoint"),
        cmd=config.texts("Cmd"),
        working_dir=config.text("WorkingDir", ""),
        user=config.text("User", ""),
        stop_signal=config.text("StopSignal", ""),
        labels=config.table("Labels"),
    )


def _layers(layout: Layout, manifest: Document, diff_ids: tuple[str, ...]) -> tuple[Layer, ...]:
    descriptors = tuple(manifest.each("layers"))
    if len(descriptors) != len(diff_ids):
        raise LayoutError(f"{len(descriptors)} layers but {len(diff_ids)} diff ids")
    check_layer_count(len(descriptors))
    layers = []
    for descriptor, diff_id in zip(descriptors, diff_ids, strict=True):
        media_type = descriptor.text("mediaType")
        if media_type not in _LAYERS:
            raise LayoutError(
                f"{descriptor.where}: {media_type[:80]!r} is no layer's media type"
            )
        blob = layout.blob(descriptor.text("digest"), descriptor.number("size"))
        layers.append(Layer(media_type=media_type, diff_id=check_digest(diff_id), blob=blob))
    return tuple(layers)
