"""Devices of a container: its nodes, and the rules of its device cgroup.

Source: PROTOCOL.md, "Devices of workloads"; OCI runtime-spec config-linux.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gcs.guest.spec.document import PATH, Tree, map_of, named_map, named_maps, path_of, text_of
from gcs.linux.nodes import DeviceNode

__all__ = [
    "AssignedDevice",
    "add",
    "allow",
    "allow_characters",
    "assigned",
    "grant_all",
    "paths",
    "resolve",
]

_LINUX = f"{PATH}.linux"
_READ_WRITE_MAKE = "rwm"
#: kinds of assigned devices; both first ones are found in the same way
_VPCI = frozenset({"vpci", "vpci-instance-id"})
_GPU = "gpu"


@dataclass(frozen=True, slots=True)
class AssignedDevice:
    """A PCI device that the host has given to the VM."""

    instance_id: str
    #: whether its nodes are to be found; otherwise the hook of its vendor makes them
    is_gpu: bool


def paths(spec: Tree) -> tuple[str, ...]:
    """Return the paths of the devices that a spec names."""
    devices = named_maps(map_of(spec, "linux"), "devices", _LINUX)
    return tuple(path_of(device, "path", f"{_LINUX}.devices") for device in devices)


def resolve(draft: Tree, nodes: Mapping[str, DeviceNode]) -> None:
    """Make each device of a spec the one that the VM has at its path, and allow its use.

    Hosts know the paths only; the numbers are this kernel's. A path without a node stays as it
    is: the runtime has the last word.
    """
    add(draft, [nodes[path] for path in paths(draft) if path in nodes])


def add(draft: Tree, nodes: Iterable[DeviceNode]) -> None:
    """Give a container these devices; an entry with the path of one is overwritten."""
    linux = map_of(draft, "linux")
    devices = [dict(device) for device in named_maps(linux, "devices", _LINUX)]
    for node in nodes:
        entry = next((device for device in devices if device.get("path") == node.path), None)
        if entry is None:
            entry = {"path": node.path}
            devices.append(entry)
        entry |= {
            "type": node.kind,
            "major": node.major,
            "minor": node.minor,
            "uid": node.uid,
            "gid": node.gid,
        }
        allow(draft, node, _READ_WRITE_MAKE)
    if devices:
        linux["devices"] = devices


def allow(draft: Tree, node: DeviceNode, access: str) -> None:
    """Let a container use a device, as the last of its rules so that it counts."""
    _append_rule(
        draft, {"type": node.kind, "major": node.major, "minor": node.minor, "access": access}
    )


def _append_rule(draft: Tree, rule: Tree) -> None:
    resources = _resources(draft)
    rules = named_maps(resources, "devices", f"{_LINUX}.resources")
    wanted = {"allow": True, **rule}
    resources["devices"] = [*(old for old in rules if old != wanted), wanted]


def _resources(draft: Tree) -> Tree:
    """Return `linux.resources`, made if it is not there."""
    linux = map_of(draft, "linux")
    resources = named_map(linux, "resources", _LINUX)
    linux["resources"] = resources
    return resources


def grant_all(draft: Tree, nodes: Iterable[DeviceNode]) -> None:
    """Give a privileged container all devices of the VM, and the use of any."""
    add(draft, nodes)
    _resources(draft)["devices"] = [{"allow": True, "access": _READ_WRITE_MAKE}]


def allow_characters(draft: Tree) -> None:
    """Let a container use every character device: a GPU's hook makes nodes of its own."""
    _append_rule(draft, {"type": "c", "access": _READ_WRITE_MAKE})


def assigned(spec: Tree) -> tuple[AssignedDevice, ...]:
    """Return the assigned devices of kinds that are known; others mean nothing here."""
    windows = named_map(spec, "windows")
    path = f"{PATH}.windows"
    found = []
    for device in named_maps(windows, "devices", path):
        kind = text_of(device, "idType", f"{path}.devices")
        if kind in _VPCI or kind == _GPU:
            name = text_of(device, "id", f"{path}.devices").lower()
            found.append(AssignedDevice(name, is_gpu=kind == _GPU))
    return tuple(found)
