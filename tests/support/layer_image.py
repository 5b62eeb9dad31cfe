"""Convert tars for tests, and hold every image that is made to e2fsck's judgement."""

import hashlib
import subprocess
from pathlib import Path

import trio

from gcs.host.blob import Blob
from gcs.host.images import Layer
from gcs.host.layers import convert
from tests.support.ext4_reader import Found, read_tree
from tests.support.oci import compress

__all__ = ["check", "image_of", "layer_of", "tree_of"]


def layer_of(tar: bytes, folder: Path, form: str = "plain") -> Layer:
    """Write a tar as a blob and return the layer that it is."""
    blob, media_type = compress(tar, form)
    digest = hashlib.sha256(blob).hexdigest()
    path = folder / f"blob-{digest}"
    path.write_bytes(blob)
    return Layer(
        media_type=media_type,
        diff_id=f"sha256:{hashlib.sha256(tar).hexdigest()}",
        blob=Blob(digest=f"sha256:{digest}", path=path, offset=0, size=len(blob)),
    )


def check(image: Path) -> None:
    """Raise AssertionError unless e2fsck has nothing to say and the size is right."""
    done = subprocess.run(
        ["/sbin/e2fsck", "-fn", image], capture_output=True, text=True, check=False
    )
    # Five passes and a summary; anything else is a complaint.
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Pass ")]
    assert (done.returncode, len(lines)) == (0, 1), done.stdout
    assert image.stat().st_size % (2 << 20) == 0


def image_of(tar: bytes, folder: Path, form: str = "plain") -> Path:
    """Convert a tar in a cache under the folder, check the image and return it."""
    image = trio.run(convert, layer_of(tar, folder, form), folder / "cache")
    check(image)
    return image


def tree_of(tar: bytes, folder: Path) -> dict[bytes, Found]:
    """Convert a tar and read the image back."""
    return read_tree(image_of(tar, folder))
