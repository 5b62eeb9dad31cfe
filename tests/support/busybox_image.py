"""An image of one program: busybox, under the names that are wanted."""

import shutil
import tarfile
from pathlib import Path

from tests.support.oci import Members, layer_tar, member, write_layout

__all__ = ["busybox_image", "busybox_layer"]


def busybox_layer(*names: str, more: Members = ()) -> bytes:
    """Return a layer's tar of busybox, and of more files."""
    program = shutil.which("busybox")
    assert program, "busybox-static is one of the packages that the build installs"
    links = [member(f"bin/{name}", kind=tarfile.SYMTYPE, link="busybox") for name in names]
    content = member("bin/busybox", Path(program).read_bytes(), mode=0o755)
    return layer_tar([content, *links, *more])


def busybox_image(folder: Path, *names: str, more: Members = ()) -> Path:
    """Make an image layout of that one layer."""
    layer = busybox_layer(*names, more=more)
    return write_layout(folder, [layer], config={"Env": ["PATH=/bin"]})
