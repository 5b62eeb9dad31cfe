"""The network namespace in a spec: the host's id for it, and the kernel's.

Source: PROTOCOL.md, "Networks"; OCI runtime-spec config-linux.md and config-windows.md.
"""

from collections.abc import Iterator
from enum import StrEnum

from gcs.guest.spec.document import PATH, Tree, map_of, named_map, text_of

__all__ = ["Use", "drop", "join", "namespace_of", "use_of"]

_TYPE = "network"


class Use(StrEnum):
    """Which network namespace a container is to be in."""

    #: one that is made for it
    OWN = "own"
    #: that of another container, which the spec names
    JOINED = "joined"
    #: that of the VM
    VM = "vm"


def namespace_of(spec: Tree) -> str:
    """Return the id that the host has for the container's network namespace, or ""."""
    network = named_map(named_map(spec, "windows"), "network", f"{PATH}.windows")
    return text_of(network, "networkNamespace", f"{PATH}.windows.network")


def use_of(spec: Tree) -> Use:
    """Return which namespace a spec asks for; the last of several entries counts."""
    use = Use.VM
    for entry in _entries(map_of(spec, "linux")):
        use = Use.JOINED if entry.get("path") else Use.OWN
    return use


def drop(draft: Tree) -> None:
    """Leave the container in the VM's own namespace."""
    linux = map_of(draft, "linux")
    entries = list(_entries(linux))
    namespaces = linux.get("namespaces")
    if isinstance(namespaces, list):
        linux["namespaces"] = [one for one in namespaces if one not in entries]


def join(draft: Tree, path: str) -> None:
    """Put the container into a namespace that is there, in place of one to be made."""
    for entry in _entries(map_of(draft, "linux")):
        if not entry.get("path"):
            entry["path"] = path


def _entries(linux: Tree) -> Iterator[Tree]:
    namespaces = linux.get("namespaces")
    for entry in namespaces if isinstance(namespaces, list) else []:
        if isinstance(entry, dict) and entry.get("type") == _TYPE:
            yield entry
