"""What a container's spec needs of the VM: found, made before the container, removed after it.

Synchronous, and called off the event loop: all of it is system calls.

Source: PROTOCOL.md, "Pods", "The spec".
"""

import os
import posixpath
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gcs.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from gcs.guest.memory import PODS
from gcs.guest.resources import SWAP_LIMIT, cgroup_settings
from gcs.guest.spec import files, gpu
from gcs.guest.spec.annotations import Annotations
from gcs.guest.spec.document import Tree, map_of, named_map, rootfs_of
from gcs.guest.spec.fixups import Facts, Place, Wanted
from gcs.guest.spec.kinds import Kind
from gcs.guest.spec.limits import without_swap
from gcs.guest.spec.mounts import HUGEPAGES, SHARED, SHARED_TMPFS, SharedFolder
from gcs.linux import cgroup, confined, nodes, pci, shared, tree, vmbus
from gcs.linux.nodes import DeviceNode

__all__ = [
    "Layout",
    "find",
    "find_function",
    "find_nodes",
    "gpu_program",
    "has_swap_limits",
    "lay_out",
    "logs_of",
    "remove_folder",
    "tear_down",
]

#: Any user of any container in the pod may use what they share.
_SHARED_MODE = 0o777
_FILE_MODE = 0o644
_FOLDER_MODE = 0o755
#: Containers reach nothing of this but what is bound into them.
_PRIVATE_MODE = 0o700
#: the folder that shows the host's certificate, in a container's root
_SECURITY_CONTEXT = "security-context-"
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
#: where hosts put a folder for each pod, and what we put beside the bundles of virtual ones
_PODS, _VIRTUAL_PODS = "/run/gcs/pods", "/virtual-pods"


# -- finding ---------------------------------------------------------------------------------


def has_swap_limits() -> bool:
    """Tell whether the kernel can limit swap, which one without any can't."""
    return (cgroup.folder(PODS) / SWAP_LIMIT).exists()


def find(wanted: Wanted) -> Facts:
    """Look up what a spec names in the VM, but for assigned devices and users.

    Raises OSError, or NotFoundError for a path of the VM that is not there.
    """
    for path in wanted.vm_paths:
        if not Path(path).exists():
            raise NotFoundError(f"mount of {path}: not there in the utility VM")
    found = nodes.everything() if wanted.all_devices else map(nodes.look, wanted.device_paths)
    return Facts(
        nodes={node.path: node for node in found},
        block_devices={path: nodes.resolve_link(path) for path in wanted.block_links},
        has_swap_limits=has_swap_limits(),
    )


def find_function(name: str, sysfs: Path = pci.SYSFS) -> str | None:
    """Return the PCI address of an assigned device, None while it is not there.

    It is named by its GUID on Hyper-V's bus, or by the address itself. Raises OSError for a
    name that is neither.
    """
    if _PCI_ADDRESS.fullmatch(name):
        return name if (sysfs / "bus/pci/devices" / name).exists() else None
    return vmbus.pci_device(name, sysfs)


def find_nodes(function: str, sysfs: Path = pci.SYSFS) -> tuple[DeviceNode, ...] | None:
    """Return the device nodes of a PCI device, None while its driver has made none."""
    device = sysfs / "bus/pci/devices" / function
    return nodes.behind(str(device), nodes.everything(), sysfs) or None


def gpu_program() -> str:
    """Return where the hook of GPUs is. Raises UnsupportedError."""
    program = shutil.which(gpu.PROGRAM)
    if program is None:
        raise UnsupportedError(f"GPUs: there is no {gpu.PROGRAM} in the utility VM")
    return program


# -- making ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """What was made for a container."""

    #: removes all of it again, for a Create that fails later
    undo: ExitStack
    #: removes the pod's folders that were missing, as long as nobody else uses them
    undo_shared: ExitStack
    #: where folders of the pod can be mounted from, until `unpin` is closed
    pins: Mapping[SharedFolder, str]
    unpin: ExitStack
    #: name of the folder in the container's root; "" without one
    security_context: str


def logs_of(root: str) -> str:
    """Return the folder of logs of a pod, or of a container that has a root of its own."""
    return f"{root}/logs"


def lay_out(spec: Tree, place: Place, wanted: Wanted, annotations: Annotations) -> Layout:
    """Make a container's files, folders, mounts and the cgroup of its pod.

    Nothing stays when this fails.
    """
    hostname, kind = files.hostname_of(spec), place.identity.kind
    if kind is Kind.WORKLOAD and hostname:
        raise InvalidArgumentError(
            f"hostname {hostname!r}: a container of a pod has that of the pod"
        )
    with ExitStack() as undo, ExitStack() as undo_shared:
        for folder in wanted.shared_folders:
            _share(place.root, folder, undo_shared)
        _make_root(place.bundle, undo)
        if kind is not Kind.WORKLOAD:
            _make_root(place.root, undo)
            _write_files(place.root, hostname or socket.gethostname(), undo)
        if kind is Kind.SANDBOX:
            _make_cgroup(place.identity.pod_cgroup, spec, undo)
            _make_shared_folders(place.root, undo)
        if kind is Kind.SANDBOX or annotations.log_path or annotations.log_mount:
            _make_folder(logs_of(place.root), _SHARED_MODE, undo)
        context = _add_security_context(spec, place.bundle, annotations, undo)
        with ExitStack() as unpin:
            pins = _pin(place, wanted.shared_folders, unpin)
            return Layout(undo.pop_all(), undo_shared.pop_all(), pins, unpin.pop_all(), context)


def _pin(
    place: Place, folders: Sequence[SharedFolder], unpin: ExitStack
) -> Mapping[SharedFolder, str]:
    """Mount folders of the pod where no container reaches them; return where.

    A container that shares a folder can put a link in place of one in it, also after it was
    looked at and before the runtime mounts it; that would show the VM's own files.
    """
    pins = {}
    for number, folder in enumerate(dict.fromkeys(folders)):
        path = f"{place.bundle}/pins/{number}"
        if number == 0:
            _make_folder(posixpath.dirname(path), _PRIVATE_MODE, unpin)
        with confined.pinned(f"{place.root}/{folder.top}", folder.relative) as descriptor:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                _make_folder(path, _PRIVATE_MODE, unpin)
            else:
                unpin.callback(os.unlink, path)
                Path(path).touch()
            shared.bind(descriptor, path)
            unpin.callback(shared.unbind, path)
        pins[folder] = path
    return pins


def _make_cgroup(path: str, spec: Tree, undo: ExitStack) -> None:
    resources = named_map(map_of(spec, "linux"), "resources")
    cgroup.create(path)
    undo.callback(cgroup.remove, path)
    limited = resources if has_swap_limits() else without_swap(resources)
    cgroup.write(path, cgroup_settings(limited))


def _make_root(root: str, undo: ExitStack) -> None:
    """Make a folder and those above it that are missing; only what is made is undone."""
    missing = []
    path = root
    while not os.path.lexists(path):
        missing.append(path)
        path = posixpath.dirname(path)
    for folder in reversed(missing):
        _make_folder(folder, _PRIVATE_MODE, undo)


def _make_folder(path: str, mode: int, undo: ExitStack) -> None:
    folder = Path(path)
    if folder.is_dir() and not folder.is_symlink():
        return
    folder.mkdir(mode=0o700)
    undo.callback(_remove_if_empty, path)
    folder.chmod(mode)  # whatever the umask says


def _remove_if_empty(path: str) -> None:
    try:
        os.rmdir(path)  # noqa: PTH106 - a string, as below
    except OSError:  # what another request has put there is not ours
        return


def _write_files(root: str, hostname: str, undo: ExitStack) -> None:
    for name, text in files.texts(hostname).items():
        path = Path(root, name)
        if not path.exists():
            undo.callback(path.unlink, missing_ok=True)
        path.write_text(text)
        path.chmod(_FILE_MODE)


def _make_shared_folders(root: str, undo: ExitStack) -> None:
    """Make the folders that the pod's containers share, each a mount of its own."""
    for name in (SHARED, SHARED_TMPFS, HUGEPAGES):
        path = f"{root}/{name}"
        _make_folder(path, _FOLDER_MODE, undo)
        undo.callback(shared.unmount_below, path)
        if name == SHARED_TMPFS:
            shared.mount_tmpfs(path, _FOLDER_MODE)
        shared.mount(path)


def _share(root: str, folder: SharedFolder, undo: ExitStack) -> None:
    """Make a folder of the pod that a workload asks for, if it is not there yet."""
    top = f"{root}/{folder.top}"
    made = confined.make_folders(top, folder.relative, _SHARED_MODE)
    for path in made:
        undo.callback(_remove_if_empty, path)
    path = f"{top}/{folder.relative}"
    if folder.page_size and path in made:
        shared.mount_hugepages(path, folder.page_size)
        undo.callback(shared.unmount_below, path)
        os.chmod(path, _SHARED_MODE)  # noqa: PTH101 - a string, as above


def _add_security_context(
    spec: Tree, bundle: str, annotations: Annotations, undo: ExitStack
) -> str:
    """Show the container what the host says of itself; return the folder's name."""
    if not (annotations.wants_security_context and annotations.host_certificate):
        return ""
    folder = Path(tempfile.mkdtemp(prefix=_SECURITY_CONTEXT, dir=rootfs_of(spec, bundle)))
    undo.callback(tree.remove, str(folder))
    certificate = folder / "host-amd-cert-base64"
    certificate.write_text(annotations.host_certificate)
    certificate.chmod(_FILE_MODE)
    folder.chmod(_FOLDER_MODE)
    return folder.name


# -- removing --------------------------------------------------------------------------------


def tear_down(root: str) -> None:
    """Take off what is mounted in a pod's shared folders. Raises OSError; can be repeated."""
    for name in (SHARED, SHARED_TMPFS, HUGEPAGES):
        path = f"{root}/{name}"
        if os.path.lexists(path):
            shared.unmount_below(path)


def remove_folder(folder: str) -> bool:
    """Remove a folder of a container, and the one above it if it is a pod's and empty now.

    Returns whether the folder itself is gone.
    """
    is_gone = tree.remove(folder)
    above = posixpath.dirname(folder)
    if is_gone and (posixpath.dirname(above) == _PODS or above.endswith(_VIRTUAL_PODS)):
        _remove_if_empty(above)
    return is_gone
