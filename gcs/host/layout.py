"""Find the files of an image layout, in a folder or in a tar of one, without unpacking it.

It knows where bytes lie and whether they are there, not what they say: that is `images`.

Source: OCI image-spec image-layout.md.
"""

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO

from gcs.errors import GcsError
from gcs.host.blob import Blob, check_digest
from gcs.host.layer_tar import Entry, Kind, TarReader

__all__ = [
    "MAX_LAYERS",
    "Layout",
    "LayoutError",
    "check_layer_count",
    "is_compressed",
    "open_layout",
]

#: What the utility VM can mount: 128 layers in at most eight devices.
MAX_LAYERS = 128
#: index.json, manifests and configs: registries and engines stop at 4 MiB.
MAX_DOCUMENT_BYTES = 4 << 20

#: Files in a tar of a layout: 128 layers and their documents make hundreds.
MAX_MEMBERS = 100_000

#: First three bytes of gzip, zstd, bzip2 and xz.
_COMPRESSED = (b"\x1f\x8b\x08", b"\x28\xb5\x2f", b"BZh", b"\xfd7z")

#: Links to links in a tar; docker's lead to a file at once.
_MAX_LINKS = 8


class LayoutError(GcsError):
    """A path is no image layout, or a file of it is missing; the text lacks the path."""


def check_layer_count(layers: int) -> None:
    """Raise LayoutError when an image has none or too many."""
    if not 0 < layers <= MAX_LAYERS:
        raise LayoutError(f"{layers} layers, 1 to {MAX_LAYERS} work")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A layout's folder, or its tar with an index of what lies where in it."""

    path: Path
    #: Offset and size by name, of a tar; None for a folder.
    members: dict[str, tuple[int, int]] | None

    def document(self, name: str) -> bytes:
        """Return the bytes of a small file that has no digest (oci-layout, index.json)."""
        path, offset, size = self.place(name)
        if size > MAX_DOCUMENT_BYTES:
            raise LayoutError(f"{name} has {size} bytes")
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def place(self, name: str) -> tuple[Path, int, int]:
        """Return where a file of the layout lies: a path, an offset and a size.

        Raises LayoutError when it is not there.
        """
        found = self._find(name)
        if found is None:
            raise LayoutError(f"has no {name}")
        return found

    def has(self, name: str) -> bool:
        """Say whether a file of that name is there."""
        return self._find(name) is not None

    def blob(self, digest: str, size: int) -> Blob:
        """Return where a blob lies.

        Raises:
            LayoutError: it is not there or has another size than its descriptor says.
            BlobError: that is no digest.
        """
        algorithm, _, encoded = check_digest(digest).partition(":")
        found = self._find(f"blobs/{algorithm}/{encoded}")
        if found is None:
            raise LayoutError(f"has no blob {digest}")
        path, offset, held = found
        if held != size:
            raise LayoutError(f"blob {digest} has {held} bytes, not {size}")
        return Blob(digest=digest, path=path, offset=offset, size=size)

    def verified(self, digest: str, size: int) -> bytes:
        """Return a small blob's bytes, digest checked."""
        if size > MAX_DOCUMENT_BYTES:
            raise LayoutError(f"document {digest} has {size} bytes")
        return self.blob(digest, size).read()

    def _find(self, name: str) -> tuple[Path, int, int] | None:
        if self.members is not None:
            place = self.members.get(name)
            return (self.path, *place) if place else None
        path = self.path / name
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        # A pipe or a device in its place would hang or never end.
        return (path, 0, status.st_size) if S_ISREG(status.st_mode) else None


def open_layout(path: Path) -> Layout:
    """Return the layout in a folder or a tar; reads a tar's headers, not its contents.

    Raises:
        LayoutError: it is neither.
        TarError: the tar is damaged.
        OSError: there is no such path.
    """
    path = path.absolute()
    mode = path.stat().st_mode
    if S_ISDIR(mode):
        return Layout(path=path, members=None)
    if not S_ISREG(mode):
        raise LayoutError("neither a folder nor a file")
    with path.open("rb") as file:
        if is_compressed(file.read(3)):
            raise LayoutError("a compressed archive; only a plain tar can be read in place")
        file.seek(0)
        return Layout(path=path, members=_members(file))


def is_compressed(head: bytes) -> bool:
    """Tell by the first bytes of a file whether it is compressed."""
    return head[:3] in _COMPRESSED


def _members(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Return offset and size of each plain file, by its name without a leading `./`.

    A link to one counts as a file: older dockers write a layer that is there twice that way.
    """
    end = os.fstat(file.fileno()).st_size
    if end < 1024:
        raise LayoutError("neither an image layout nor a tar of one")
    reader = TarReader(file.read, skip=lambda count: file.seek(count, os.SEEK_CUR))
    members: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    for entry in reader:
        if reader.offset + entry.size > end:
            raise LayoutError(f"tar ends inside {entry.path!r}")
        # A sparse blob would lie in pieces; it is left out and so reported as missing.
        name = os.fsdecode(entry.path).removeprefix("./")
        if entry.kind is Kind.FILE and sum(piece[1] for piece in entry.pieces) == entry.size:
            members[name] = (reader.offset, entry.size)
        elif entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
            links[name] = _target(entry, name)
        if len(members) + len(links) > MAX_MEMBERS:
            raise LayoutError(f"tar of over {MAX_MEMBERS} files")
    return members | _followed(links, members)


def _target(entry: Entry, name: str) -> str:
    """Return the name of the member that a link leads to."""
    link = os.fsdecode(entry.link)
    if entry.kind is Kind.SYMLINK:
        # Relative to its folder; one that leads out of the archive is no member's name.
        link = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    return link.removeprefix("./")


def _followed(
    links: Mapping[str, str], members: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """Return where the files are that links lead to; what leads nowhere is left out."""
    found = {}
    for name, first in links.items():
        target = first
        for _ in range(_MAX_LINKS):
            if target in members:
                found[name] = members[target]
                break
            target = links.get(target, "")
    return found
