"""Mounts of a workload whose source or destination is not a plain path.

| Prefix | Of | Becomes |
|---|---|---|
| `sandbox://` | source | a folder that the containers of the pod share |
| `sandbox-tmp://` | source | the same, in memory |
| `hugepages://SIZE/` | source | a hugetlbfs of the pod with pages of that size |
| `uvm://` | source | a path of the VM itself |
| `blockdev://` | destination | a block device, whose source is a link to it |

What is after a prefix is a path below the pod's folder, whatever it begins with; one that
would lead out of it is refused.

Source: PROTOCOL.md, "Mounts of workloads".
"""

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gcs.errors import InvalidArgumentError
from gcs.guest.spec.devices import allow
from gcs.guest.spec.document import PATH, Tree, absolute, below, mounts_of, path_of, text_of
from gcs.linux.nodes import DeviceNode

__all__ = [
    "HUGEPAGES",
    "SHARED",
    "SHARED_TMPFS",
    "SharedFolder",
    "add_log_mount",
    "block_links",
    "redirect",
    "set_shm_size",
    "shared_folders",
    "vm_paths",
]

#: the folders of a pod, below its root
SHARED, SHARED_TMPFS, HUGEPAGES = "sandboxMounts", "sandboxTmpfsMounts", "hugepages"

_TOPS = {"sandbox://": SHARED, "sandbox-tmp://": SHARED_TMPFS, "hugepages://": HUGEPAGES}
_VM = "uvm://"
_BLOCK_DEVICE = "blockdev://"
_PAGE_SIZE = re.compile(r"[1-9][0-9]{0,9}[KMG]")
_SHM = "/dev/shm"  # noqa: S108 - a mount point in a container


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """A folder of the pod that has to be there before a workload can mount it."""

    #: which of the pod's folders it is below
    top: str
    #: below that; "" for the folder itself
    relative: str
    #: of the hugetlbfs to mount there when it is new; "" for a plain folder
    page_size: str = ""


def shared_folders(spec: Tree) -> tuple[SharedFolder, ...]:
    """Return what the mounts need of the pod. Raises InvalidArgumentError."""
    found = (_shared_folder(text_of(mount, "source")) for mount in mounts_of(spec))
    return tuple(folder for folder in found if folder is not None)


def _shared_folder(source: str) -> SharedFolder | None:
    for prefix, top in _TOPS.items():
        if source.startswith(prefix):
            relative = below(source.removeprefix(prefix), f"mount {source[:200]!r}")
            if top != HUGEPAGES:
                return SharedFolder(top, relative)
            page_size = relative.partition("/")[0]
            if not _PAGE_SIZE.fullmatch(page_size):
                raise InvalidArgumentError(f"mount {source[:200]!r}: no size of pages")
            return SharedFolder(top, relative, page_size)
    return None


def vm_paths(spec: Tree) -> tuple[str, ...]:
    """Return the paths of the VM that are mounted, which must be there."""
    sources = (text_of(mount, "source") for mount in mounts_of(spec))
    return tuple(_vm_path(source) for source in sources if source.startswith(_VM))


def _vm_path(source: str) -> str:
    return absolute("/" + source.removeprefix(_VM).lstrip("/"), "mount")


def block_links(spec: Tree) -> tuple[str, ...]:
    """Return the sources of block devices, each a link to one."""
    return tuple(
        path_of(mount, "source", f"{PATH}.mounts")
        for mount in mounts_of(spec)
        if text_of(mount, "destination").startswith(_BLOCK_DEVICE)
    )


def redirect(
    draft: Tree,
    folders: Mapping[SharedFolder, str],
    block_devices: Mapping[str, DeviceNode],
) -> None:
    """Put paths in place of the prefixes, and let the container use its block devices.

    Args:
        draft: A workload's spec.
        folders: Where each of `shared_folders` can be mounted from.
        block_devices: What each of `block_links` leads to.
    """
    mounts = [dict(mount) for mount in mounts_of(draft)]
    for mount in mounts:
        source, destination = text_of(mount, "source"), text_of(mount, "destination")
        folder = _shared_folder(source)
        if folder is not None:
            mount["source"] = folders[folder]
        elif source.startswith(_VM):
            mount["source"] = _vm_path(source)
        if destination.startswith(_BLOCK_DEVICE):
            target = destination.removeprefix(_BLOCK_DEVICE)
            mount["destination"] = absolute(target, f"mount {destination[:200]!r}:")
            access = "r" if _is_readonly(mount) else "rwm"
            allow(draft, block_devices[source], access)
    if mounts:
        draft["mounts"] = mounts


def _is_readonly(mount: Tree) -> bool:
    options = mount.get("options")
    return isinstance(options, list) and "ro" in options


def set_shm_size(draft: Tree, size_kib: int) -> None:
    """Make /dev/shm a tmpfs of that size; 0 leaves it as it is."""
    if not size_kib:
        return
    shm: Tree = {
        "destination": _SHM,
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", f"size={size_kib}k"],
    }
    mounts = mounts_of(draft)
    places = [index for index, mount in enumerate(mounts) if _is_at(mount, _SHM)]
    kept = [mount for index, mount in enumerate(mounts) if index not in places]
    kept.insert(places[0] if places else len(kept), shm)
    draft["mounts"] = kept


def _is_at(mount: Tree, target: str) -> bool:
    return posixpath.normpath(text_of(mount, "destination")) == target


def add_log_mount(draft: Tree, root: str, destination: str) -> None:
    """Show the container its pod's folder of logs; "" does not."""
    if not destination:
        return
    bind: Tree = {
        "destination": absolute(destination, "folder of logs"),
        "type": "bind",
        "source": f"{root}/logs",
        "options": ["bind"],
    }
    draft["mounts"] = [*mounts_of(draft), bind]
