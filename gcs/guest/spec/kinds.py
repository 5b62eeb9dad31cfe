"""What kind a container is, and where its files and its cgroup are.

Source: PROTOCOL.md, "Kinds of containers".
"""

import posixpath
from dataclasses import dataclass
from enum import StrEnum

from gcs.errors import GcsError, InvalidArgumentError
from gcs.guest.spec.annotations import CONTAINER_TYPE, SANDBOX_ID, VIRTUAL_POD_ID, Annotations

__all__ = ["Identity", "Kind", "identify"]


class Kind(StrEnum):
    """The part that a container has in a pod."""

    STANDALONE = "standalone"
    #: the first of its pod, whose folder the others share
    SANDBOX = "sandbox"
    #: any other of a pod
    WORKLOAD = "workload"


@dataclass(frozen=True, slots=True)
class Identity:
    """A container's id, kind and pod."""

    container_id: str
    kind: Kind
    #: "" for a standalone container
    pod_id: str = ""
    #: one of several pods that a host keeps in a VM made for another
    is_virtual: bool = False

    @property
    def cgroup(self) -> str:
        """The container's cgroup, below the cgroup file system."""
        return f"{self.pod_cgroup or '/pods'}/{self.container_id}"

    @property
    def pod_cgroup(self) -> str:
        """The cgroup of its pod; "" without a pod."""
        return f"/pods/{self.pod_id}" if self.pod_id else ""

    def root(self, bundle: str) -> str:
        """Return the folder of shared files, of a container that brings its own."""
        if self.kind is Kind.SANDBOX and self.is_virtual:
            return posixpath.join(posixpath.dirname(bundle), "virtual-pods", self.pod_id)
        return bundle


def identify(annotations: Annotations, container_id: str) -> Identity:
    """Tell a container's kind and pod from its annotations.

    Raises GcsError for a type that is not known and for a workload that names no pod, and
    InvalidArgumentError for a virtual pod whose id could not be a folder's name.
    """
    virtual = _virtual_pod_id(annotations.virtual_pod_id)
    kind = _kind(annotations.container_type)
    if virtual and virtual == container_id:
        kind = Kind.SANDBOX
    if kind is Kind.STANDALONE:
        return Identity(container_id, kind)
    if virtual:
        return Identity(container_id, kind, virtual, is_virtual=True)
    if kind is Kind.SANDBOX:
        return Identity(container_id, kind, container_id)
    if not annotations.sandbox_id:
        raise GcsError(f"container {container_id}: annotation {SANDBOX_ID} is empty")
    return Identity(container_id, kind, annotations.sandbox_id)


def _kind(text: str | None) -> Kind:
    match text:
        case None:
            return Kind.STANDALONE
        case "sandbox":
            return Kind.SANDBOX
        case "container":
            return Kind.WORKLOAD
        case _:
            raise GcsError(f"annotation {CONTAINER_TYPE}: {text[:80]!r} is not known")


def _virtual_pod_id(text: str) -> str:
    if text in (".", "..") or set(text) & {"/", "\0"}:
        raise InvalidArgumentError(f"annotation {VIRTUAL_POD_ID}: {text[:80]!r}")
    return text
