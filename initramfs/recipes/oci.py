"""Write OCI image layouts: blobs by digest, and the JSON documents that name them.

It will not decide what is in a layer.

Source: https://github.com/opencontainers/image-spec, v1.1 (image-layout, manifest, config).
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MEDIA = "application/vnd.oci.image."
INDEX = f"{MEDIA}index.v1+json"
MANIFEST = f"{MEDIA}manifest.v1+json"
CONFIG = f"{MEDIA}config.v1+json"
LAYER = f"{MEDIA}layer.v1.tar"
PLATFORM = {"architecture": "amd64", "os": "linux"}
EPOCH = "1970-01-01T00:00:00Z"

Document = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer as it is stored, and the digest of the tar inside."""

    media_type: str
    blob: bytes
    diff_id: str
    #: How the layer came to be, for `history`.
    created_by: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image of one platform."""

    layers: Sequence[Layer]
    #: The config's own members: Env, Entrypoint, Cmd, WorkingDir…
    config: Document = field(default_factory=dict)


def digest_of(data: bytes) -> str:
    """Return the digest that names a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def gzip_layer(tar: bytes, created_by: str = "", level: int = 9) -> Layer:
    """Return a gzip layer; without a time in its header, so that it never varies."""
    blob = gzip.compress(tar, level, mtime=0)
    return Layer(f"{LAYER}+gzip", blob, digest_of(tar), created_by)


class Layout:
    """A folder that becomes an OCI image layout."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)

    def blob(self, media_type: str, data: bytes) -> dict[str, object]:
        """Store a blob; return its descriptor."""
        digest = digest_of(data)
        (self._blobs / digest.removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def image(self, image: Image) -> dict[str, object]:
        """Store an image's layers, config and manifest; return the manifest's descriptor."""
        config = PLATFORM | {
            "created": EPOCH,
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in image.layers]},
            "history": [
                {"created": EPOCH, "created_by": one.created_by} for one in image.layers
            ],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(CONFIG, encode(config)),
            "layers": [self.blob(one.media_type, one.blob) for one in image.layers],
        }
        return self.blob(MANIFEST, encode(manifest)) | {"platform": PLATFORM}

    def finish(self, manifests: Sequence[Document]) -> None:
        """Write the two documents that make the folder a layout."""
        (self._folder / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
        (self._folder / "index.json").write_bytes(encode(index(manifests)))


def index(manifests: Sequence[Document]) -> dict[str, object]:
    """Return an index of these descriptors."""
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}


def encode(document: Document) -> bytes:
    """Return a document as JSON, the same bytes for the same content."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def pack(folder: Path, archive: Path) -> None:
    """Write a layout folder as a tar that never varies."""
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as out:
        for path in sorted(folder.rglob("*")):
            member = out.gettarinfo(path, str(path.relative_to(folder)))
            member.mtime = member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o755 if path.is_dir() else 0o644
            data = path.read_bytes() if path.is_file() else b""
            out.addfile(member, io.BytesIO(data))
