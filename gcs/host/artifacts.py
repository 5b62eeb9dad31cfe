"""Where kernel, guest images and helper programs are: named by the user, or built beside us.

For each, in this order: the option, the environment variable, `build/` of the checkout that
this package runs from, and for programs PATH.
"""

import os
import shutil
from pathlib import Path

import gcs
from gcs.errors import NotFoundError

__all__ = ["find_initrd", "find_kernel", "find_root_image", "find_vsock_program"]


def find_kernel(option: str | None) -> Path:
    """Return the guest's kernel. Raises NotFoundError that names the ways to give one."""
    # The uncompressed one boots half a second sooner.
    return _find("kernel", option, "GCS_KERNEL", ("vmlinux", "kernel"), "make kernel")


def find_initrd(option: str | None) -> Path:
    """Return the guest's initrd. Raises NotFoundError that names the ways to give one."""
    return _find("initrd", option, "GCS_INITRD", ("initrd",), "make initrd")


def find_root_image(option: str | None) -> Path:
    """Return the guest's root image. Raises NotFoundError that names the ways to give one."""
    return _find("root-image", option, "GCS_ROOT_IMAGE", ("root-image",), "make initrd")


def find_vsock_program(option: str | None) -> Path:
    """Return vhost-device-vsock. Raises NotFoundError that names the ways to give one."""
    name, variable = "vhost-device-vsock", "GCS_VHOST_DEVICE_VSOCK"
    try:
        return _find(name, option, variable, (name,), "make tools")
    except NotFoundError:
        found = shutil.which(name)
        if found is None or option or os.environ.get(variable):
            raise
        return Path(found)


def _find(
    what: str, option: str | None, variable: str, names: tuple[str, ...], target: str
) -> Path:
    flag = f"--{what}"
    for source, value in ((flag, option), (variable, os.environ.get(variable))):
        if value:
            path = Path(value)
            if not path.is_file():
                raise NotFoundError(f"{what} {value}: no such file ({source})")
            return path.absolute()
    build = Path(gcs.__file__).resolve().parents[1] / "build"
    for name in names:
        if (build / name).is_file():
            return build / name
    raise NotFoundError(
        f"{what}: not in {build}; {target} makes it, {flag} or {variable} name it"
    )
