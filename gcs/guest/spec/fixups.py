"""What the agent changes in an OCI runtime spec before the runtime sees it, and in which order.

The spec is data: every member that is not named in this package goes through untouched. A spec
is changed in three steps. `wanted` says what has to be known about the VM, somebody looks it
up, and `prepare` makes the runtime's spec of that. Neither touches the kernel.

Source: PROTOCOL.md, "The spec".
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from gcs.guest.spec import devices, files, gpu, mounts, network, process
from gcs.guest.spec.annotations import Annotations
from gcs.guest.spec.devices import AssignedDevice
from gcs.guest.spec.document import Tree, map_of, rootfs_of
from gcs.guest.spec.kinds import Identity, Kind
from gcs.guest.spec.limits import without_swap
from gcs.guest.spec.mounts import SharedFolder
from gcs.guest.spec.process import UserIds
from gcs.linux.nodes import DeviceNode

__all__ = ["Facts", "Place", "Prepared", "Wanted", "prepare", "wanted"]


#: what hosts' programs look for in their environment
_SECURITY_CONTEXT = "UVM_SECURITY_CONTEXT_DIR"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container is to be made."""

    identity: Identity
    bundle: str
    #: folder of the files that its pod shares, or of its own
    root: str
    #: whether it uses the VM's own network namespace
    host_network: bool = False
    #: of the network namespace that is there for it; "" if the runtime makes one
    network_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What has to be known about the VM, and be there, for a spec to be prepared."""

    #: nodes to look at
    device_paths: tuple[str, ...] = ()
    #: or all nodes there are
    all_devices: bool = False
    #: links to block devices
    block_links: tuple[str, ...] = ()
    #: paths of the VM that must be there
    vm_paths: tuple[str, ...] = ()
    shared_folders: tuple[SharedFolder, ...] = ()
    assigned: tuple[AssignedDevice, ...] = ()
    #: a name, to look up in the container's root
    username: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found of that."""

    nodes: Mapping[str, DeviceNode] = field(default_factory=dict)
    block_devices: Mapping[str, DeviceNode] = field(default_factory=dict)
    #: where folders of the pod can be mounted from
    shared_folders: Mapping[SharedFolder, str] = field(default_factory=dict)
    #: nodes of assigned devices
    assigned_nodes: tuple[DeviceNode, ...] = ()
    #: PCI addresses of assigned GPUs
    gpu_locations: tuple[str, ...] = ()
    #: where the hook's program is; "" when no GPU is assigned
    gpu_program: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    user: UserIds | None = None
    #: name of the folder in the container's root that shows what the host says of itself
    security_context: str = ""
    #: whether the kernel can limit the swap of containers
    has_swap_limits: bool = True


@dataclass(frozen=True, slots=True)
class Prepared:
    """The spec for the runtime, and what the agent needs to know of it."""

    spec: Tree
    has_terminal: bool
    owns_pid_namespace: bool
    #: of the init's process, as they stand
    rlimits: object
    #: of the init's process, for execs that name none; None when the spec names none either
    user: object
    #: relative to the cgroup file system's root, with a slash in front
    cgroup: str
    #: the container's root directory, where the agent sees it
    root: str


def wanted(spec: Tree, annotations: Annotations, identity: Identity) -> Wanted:
    """Return what a spec needs.

    Raises InvalidRequestError and InvalidArgumentError as `prepare` does.
    """
    for name in ("process", "linux", "root"):
        map_of(spec, name)
    if identity.kind is Kind.STANDALONE:
        return Wanted()
    username = process.username_of(spec)
    if identity.kind is Kind.SANDBOX:
        return Wanted(username=username)
    return Wanted(
        device_paths=() if annotations.privileged else devices.paths(spec),
        all_devices=annotations.privileged,
        block_links=mounts.block_links(spec),
        vm_paths=mounts.vm_paths(spec),
        shared_folders=mounts.shared_folders(spec),
        assigned=devices.assigned(spec),
        username=username,
    )


def prepare(spec: Tree, annotations: Annotations, place: Place, facts: Facts) -> Prepared:
    """Return the spec as the runtime gets it.

    Raises InvalidRequestError when a member is of the wrong type, or one that every container
    needs is missing; InvalidArgumentError when a value makes no sense.
    """
    draft = copy.deepcopy(spec)
    linux = map_of(draft, "linux")
    match place.identity.kind:
        case Kind.STANDALONE:
            files.add_mounts(draft, place.root)
        case Kind.SANDBOX:
            _set_process(draft, annotations, facts)
        case Kind.WORKLOAD:
            _fix_workload(draft, annotations, place, facts)
    linux["cgroupsPath"] = place.identity.cgroup
    resources = linux.get("resources")
    if isinstance(resources, dict) and not facts.has_swap_limits:
        linux["resources"] = without_swap(resources)
    draft.pop("windows", None)
    mounts.add_log_mount(draft, place.root, annotations.log_mount)
    if facts.security_context:
        process.add_environment(draft, _SECURITY_CONTEXT, f"/{facts.security_context}")
    if place.host_network:
        network.drop(draft)
    elif place.network_path:
        network.join(draft, place.network_path)
    init = map_of(draft, "process")
    return Prepared(
        spec=draft,
        has_terminal=init.get("terminal") is True,
        owns_pid_namespace=_owns_pid_namespace(linux),
        rlimits=init.get("rlimits"),
        user=init.get("user") if facts.user else None,
        cgroup=place.identity.cgroup,
        root=rootfs_of(draft, place.bundle),
    )


def _fix_workload(draft: Tree, annotations: Annotations, place: Place, facts: Facts) -> None:
    """Do what only a workload needs, in the order in which later steps count."""
    mounts.redirect(draft, facts.shared_folders, facts.block_devices)
    files.add_mounts(draft, place.root)
    mounts.set_shm_size(draft, annotations.shm_size_kib)
    if annotations.privileged:
        devices.grant_all(draft, facts.nodes.values())
    else:
        devices.resolve(draft, facts.nodes)
    _set_process(draft, annotations, facts)
    if facts.gpu_program:
        gpu.add_hook(
            draft,
            place.bundle,
            facts.gpu_program,
            facts.gpu_locations,
            annotations.gpu_capabilities,
            facts.environment,
        )
        devices.allow_characters(draft)
    devices.add(draft, facts.assigned_nodes)


def _set_process(draft: Tree, annotations: Annotations, facts: Facts) -> None:
    process.set_core_limit(draft, annotations.core_limit)
    if facts.user is not None:
        process.set_user(draft, facts.user)


def _owns_pid_namespace(linux: Tree) -> bool:
    """Tell whether the last pid namespace in the list is a new one, as the runtime takes it."""
    namespaces = linux.get("namespaces")
    owns = False
    for namespace in namespaces if isinstance(namespaces, list) else []:
        if isinstance(namespace, dict) and namespace.get("type") == "pid":
            owns = not namespace.get("path")
    return owns
