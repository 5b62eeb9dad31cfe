"""Where kernel, guest images and helper programs are: named by the user, or built beside us.

For each, in this order: the option, the environment variable, `build/` of the checkout that
this package runs from, and for programs PATH.
"""

import os
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import gcs
from gcs.errors import InvalidArgumentError, NotFoundError

__all__ = [
    "DEFAULT_FORM",
    "BootForm",
    "BootImage",
    "find_boot_image",
    "find_kernel",
    "find_vsock_program",
]


class BootForm(StrEnum):
    """What a VM boots from; the values are those of `gcsctl run --boot`."""

    #: unpacked into the VM's memory
    INITRD = "initrd"
    #: a root image on persistent memory, whose pages all VMs of this machine share
    PMEM = "pmem"


#: It is the one that boots sooner, takes less memory, and adds less with each further VM
#: (README, "Figures").
DEFAULT_FORM = BootForm.PMEM

_INITRD_VARIABLE, _ROOT_IMAGE_VARIABLE = "GCS_INITRD", "GCS_ROOT_IMAGE"
#: It makes both.
_TARGET = "make initrd"


@dataclass(frozen=True, slots=True)
class BootImage:
    """The file that a VM boots from, under the name of its form."""

    initrd: Path | None = None
    root_image: Path | None = None

    @property
    def form(self) -> BootForm:
        """Return what it is."""
        return BootForm.PMEM if self.initrd is None else BootForm.INITRD


def find_kernel(option: str | None) -> Path:
    """Return the guest's kernel. Raises NotFoundError that names the ways to give one."""
    # The uncompressed one boots half a second sooner.
    names = ("vmlinux", "kernel")
    return _find("kernel", option, "GCS_KERNEL", names, "make kernel").resolve()


def find_boot_image(
    form: str | None = None, initrd: str | None = None, root_image: str | None = None
) -> BootImage:
    """Return what a VM is to boot from, as a user has asked for it, without links.

    A VM has its root image to its end, and those in build/ are links: what is built or removed
    meanwhile makes them another file, or none.

    A form that is not named is that of the image that is, by an option or else by a variable of
    the environment, and that of DEFAULT_FORM when neither or both variables are there.

    Args:
        form: A value of BootForm.
        initrd: Path of an initrd.
        root_image: Path of a root image.

    Raises InvalidArgumentError for an image of another form, NotFoundError that names the ways
    to give one when there is none.
    """
    if _form(form, initrd, root_image) is BootForm.INITRD:
        found = _find("initrd", initrd, _INITRD_VARIABLE, ("initrd",), _TARGET)
        return BootImage(initrd=found.resolve())
    name = "root-image"
    found = _find(name, root_image, _ROOT_IMAGE_VARIABLE, (name,), _TARGET)
    return BootImage(root_image=found.resolve())


def _form(form: str | None, initrd: str | None, root_image: str | None) -> BootForm:
    if initrd and root_image:
        raise InvalidArgumentError(
            f"--initrd {initrd}, --root-image {root_image}: a VM boots from one of them"
        )
    if initrd and form == BootForm.PMEM:
        raise InvalidArgumentError(f"--initrd {initrd}: --boot pmem has no initrd")
    if root_image and form == BootForm.INITRD:
        raise InvalidArgumentError(
            f"--root-image {root_image}: --boot initrd has no root image"
        )
    if form or initrd or root_image:
        return BootForm(form or ("initrd" if initrd else "pmem"))
    has_initrd, has_root_image = (
        bool(os.environ.get(name)) for name in (_INITRD_VARIABLE, _ROOT_IMAGE_VARIABLE)
    )
    if has_initrd == has_root_image:
        return DEFAULT_FORM
    return BootForm.INITRD if has_initrd else BootForm.PMEM


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
