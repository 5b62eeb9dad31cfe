"""Make OCI image layouts and layer tars to test with."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import zstandard

__all__ = ["Members", "layer_tar", "member", "put_blob", "tar_of", "write_layout"]

#: Entries of a tar in order, each with its contents.
Members = Sequence[tuple[tarfile.TarInfo, bytes]]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def member(
    name: str | bytes,
    content: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    link: str | bytes = "",
    owner: tuple[int, int] = (0, 0),
    mtime: float = 0,
    device: tuple[int, int] = (0, 0),
    xattrs: Mapping[str, bytes] | None = None,
) -> tuple[tarfile.TarInfo, bytes]:
    """Return one entry; bytes names and xattr values pass through as they are."""
    info = tarfile.TarInfo(_text(name))
    info.size = len(content)
    info.type, info.mode, info.linkname = kind, mode, _text(link)
    info.uid, info.gid = owner
    info.mtime = mtime
    info.devmajor, info.devminor = device
    info.pax_headers = {
        f"SCHILY.xattr.{name}": _text(value) for name, value in (xattrs or {}).items()
    }
    return info, content


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def layer_tar(members: Members, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an uncompressed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def put_blob(layout: Path, content: bytes) -> dict[str, object]:
    """Store a blob and return the start of its descriptor."""
    digest = hashlib.sha256(content).hexdigest()
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def compress(tar: bytes, form: str) -> tuple[bytes, str]:
    """Return a blob and its OCI media type; form is gzip, zstd or plain."""
    match form:
        case "gzip":
            return gzip.compress(tar, mtime=0), f"{_LAYER}+gzip"
        case "zstd":
            return zstandard.ZstdCompressor().compress(tar), f"{_LAYER}+zstd"
        case _:
            return tar, _LAYER


def write_layout(
    layout: Path,
    tars: Sequence[bytes],
    *,
    form: str = "gzip",
    config: Mapping[str, object] | None = None,
    name: str = "test",
) -> Path:
    """Write a layout with one image of these layers, bottom first, and return its folder."""
    layers: list[object] = []
    for tar in tars:
        blob, media_type = compress(tar, form)
        layers.append({"mediaType": media_type, **put_blob(layout, blob)})
    diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    document: dict[str, object] = {
        "os": "linux",
        "architecture": "amd64",
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": _CONFIG, **put_blob(layout, json.dumps(document).encode())},
        "layers": layers,
    }
    descriptor = {
        "mediaType": MANIFEST,
        **put_blob(layout, json.dumps(manifest).encode()),
        "annotations": {"org.opencontainers.image.ref.name": name},
    }
    write_index(layout, [descriptor])
    return layout


def write_index(layout: Path, descriptors: Sequence[Mapping[str, object]]) -> None:
    """Write oci-layout and an index.json that lists these descriptors."""
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    index = {"schemaVersion": 2, "manifests": [dict(item) for item in descriptors]}
    (layout / "index.json").write_text(json.dumps(index))


def tar_of(layout: Path, target: Path) -> Path:
    """Pack a layout's folder into a plain tar."""
    with tarfile.open(target, "w") as tar:
        tar.add(layout, arcname=".")
    return target
