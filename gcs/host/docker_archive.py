"""Find an image in a docker archive, which is what `docker save` and many builders write.

Its manifest.json lists images, each with the name of its configuration, which is a digest, and
the names of its layers, which say nothing: what a layer has to be is in the configuration. So
a layer is believed when its tar has the diff id that the configuration states.

Newer archives have an OCI layout in them as well; those are read as one, by `images`.

Source: Docker image-spec v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gcs.host.blob import Blob, check_digest
from gcs.host.document import Document, parse, parse_each
from gcs.host.layout import Layout, LayoutError, check_layer_count, is_compressed

__all__ = ["INDEX", "Archived", "read_archive"]

#: The list of an archive's images.
INDEX = "manifest.json"
#: "HEX.json" of docker and podman, "blobs/sha256/HEX" of newer dockers, "sha256:HEX" of others.
_CONFIG_NAME = re.compile(r"(?:.*[/:])?([0-9a-f]{64})(?:\.json)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """An image of an archive; its layers, bottom first, are located and not yet read."""

    name: str
    #: as it is stored, its digest checked
    config: bytes
    config_digest: str
    blobs: tuple[Blob, ...]


def read_archive(layout: Layout, name: str | None) -> Archived:
    """Return the image of an archive, chosen by name if there are several.

    Raises LayoutError, BlobError or DocumentError when it is not there or is damaged.
    """
    entry = _choose(list(parse_each(layout.document(INDEX), INDEX)), name)
    found = _CONFIG_NAME.fullmatch(entry.text("Config"))
    if found is None:
        raise LayoutError(f"{entry.where}: Config has no digest in its name")
    config = layout.document(_inside(entry.text("Config")))
    digest = f"sha256:{found[1]}"
    if hashlib.sha256(config).hexdigest() != found[1]:
        raise LayoutError(f"config {digest}: its content has another digest")
    document = parse(config, f"config {digest}")
    diff_ids = document.inner("rootfs").texts("diff_ids")
    return Archived(
        name=next(iter(entry.texts("RepoTags")), ""),
        config=config,
        config_digest=digest,
        blobs=tuple(_blobs(layout, entry.texts("Layers"), diff_ids)),
    )


def _choose(entries: Sequence[Document], name: str | None) -> Document:
    fitting = [each for each in entries if name is None or name in each.texts("RepoTags")]
    if not fitting:
        raise LayoutError(f"has no image named {name!r}" if name else f"{INDEX} lists no image")
    # One image with several names is listed once, with all of them.
    if len({each.text("Config") for each in fitting}) > 1:
        names = (next(iter(each.texts("RepoTags")), each.text("Config")) for each in fitting)
        raise LayoutError(f"holds several images: {', '.join(map(repr, names))}")
    return fitting[0]


def _blobs(layout: Layout, names: Sequence[str], diff_ids: Sequence[str]) -> Iterator[Blob]:
    if len(names) != len(diff_ids):
        raise LayoutError(f"{len(names)} layers but {len(diff_ids)} diff ids")
    check_layer_count(len(names))  # each may have to be read
    for name, diff_id in zip(names, diff_ids, strict=True):
        path, offset, size = layout.place(_inside(name))
        blob = Blob(digest=check_digest(diff_id), path=path, offset=offset, size=size)
        with path.open("rb") as file:
            file.seek(offset)
            is_plain = not is_compressed(file.read(min(size, 4)))
        # The digest of a compressed one stands nowhere, and every blob has one here.
        yield blob if is_plain else _named_by_content(blob)


def _named_by_content(blob: Blob) -> Blob:
    digest, left = hashlib.sha256(), blob.size
    with blob.path.open("rb") as file:
        file.seek(blob.offset)
        while chunk := file.read(min(left, 1 << 20)):
            digest.update(chunk)
            left -= len(chunk)
    return Blob(
        digest=f"sha256:{digest.hexdigest()}",
        path=blob.path,
        offset=blob.offset,
        size=blob.size,
    )


def _inside(name: str) -> str:
    """Return the name of a member, or raise LayoutError: of a folder it could lead out."""
    if name.startswith("/") or ".." in name.split("/"):
        raise LayoutError(f"{INDEX}: {name[:80]!r} leads out of the archive")
    return name
