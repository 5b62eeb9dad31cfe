"""The settings of ModifySettings: one record per resource type.

`ModificationRequest.settings` comes off the wire as a plain tree and is replaced by the record
of its resource type; an unknown type keeps its tree, for the handler to refuse by name.

Source: PROTOCOL.md, "ModifySettings"; member names are hcsshim's.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from msgspec import field

from gcs.wire.schema import Int32, Message, UInt8, UInt16, UInt32, UInt64

__all__ = [
    "RESOURCES",
    "CombinedLayers",
    "ContainerConstraints",
    "IPConfig",
    "Layer",
    "MappedDirectory",
    "MappedVirtualDisk",
    "MappingInfo",
    "ModificationRequest",
    "NetworkAdapter",
    "NetworkRoute",
    "PodCgroupMemoryLimit",
    "RequestType",
    "ResourceSettings",
    "ResourceType",
    "ScsiDevice",
    "TemporaryFilesystem",
    "VPMemDevice",
    "VpciDevice",
]


class RequestType(StrEnum):
    """What to do with the resource; an absent one means Add."""

    ADD = "Add"
    REMOVE = "Remove"
    UPDATE = "Update"


class ResourceType(StrEnum):
    """The resources that this guest knows."""

    COMBINED_LAYERS = "CombinedLayers"
    CONTAINER_CONSTRAINTS = "ContainerConstraints"
    MAPPED_DIRECTORY = "MappedDirectory"
    MAPPED_VIRTUAL_DISK = "MappedVirtualDisk"
    NETWORK = "Network"
    POD_CGROUP_MEMORY_LIMIT = "PodCgroupMemoryLimit"
    SCSI_DEVICE = "SCSIDevice"
    #: Ours.
    TEMPORARY_FILESYSTEM = "TemporaryFilesystem"
    VPCI_DEVICE = "VPCIDevice"
    VPMEM_DEVICE = "VPMemDevice"


class ResourceSettings(Message, frozen=True, kw_only=True):
    """What a resource type's own record is derived from."""


class MappingInfo(Message, frozen=True, kw_only=True):
    """A part of a device; both numbers are multiples of 4096 bytes."""

    device_offset_in_bytes: UInt64 = 0
    device_size_in_bytes: UInt64 = 0


class VPMemDevice(ResourceSettings, frozen=True, kw_only=True):
    """A persistent-memory device that holds a read-only layer, or a scratch."""

    device_number: UInt32 = 0
    mount_path: str = ""
    mapping_info: MappingInfo | None = None
    #: Ours: the device by PCI address (0000:03:00.0) instead of by number.
    pci_address: str = ""
    #: Ours: of the layer's dm-verity tree, SHA-256 in hex; empty: it is not verified.
    root_digest: str = ""
    #: Ours: mount its ext4 to be written, and make one if the device is blank.
    writable: bool = False


class MappedVirtualDisk(ResourceSettings, frozen=True, kw_only=True):
    """A SCSI disk, named by controller and LUN."""

    #: empty: only wait for the device
    mount_path: str = ""
    lun: UInt8 = 0
    controller: UInt8 = 0
    #: 0: the whole disk
    partition: UInt64 = 0
    read_only: bool = False
    encrypted: bool = False
    options: tuple[str, ...] = ()
    block_dev: bool = False
    ensure_filesystem: bool = False
    filesystem: str = ""
    #: Ours: the controller by PCI address instead of by number.
    pci_address: str = ""


class ScsiDevice(ResourceSettings, frozen=True, kw_only=True):
    """A SCSI disk that is about to be unplugged."""

    controller: UInt8 = 0
    lun: UInt8 = 0
    #: Ours: the controller by PCI address instead of by number.
    pci_address: str = ""


class TemporaryFilesystem(ResourceSettings, frozen=True, kw_only=True):
    """Ours: a file system in the VM's memory, gone with its mount."""

    mount_path: str = ""
    #: 0: half of the memory
    size_in_bytes: UInt64 = 0


class MappedDirectory(ResourceSettings, frozen=True, kw_only=True):
    """A folder of the host, served over 9p."""

    mount_path: str = ""
    #: of the host, where the server listens; 0: 564
    port: Int32 = 0
    #: the server's name for the folder
    share_name: str = ""
    read_only: bool = False
    #: Ours: how the guest caches; empty: not at all.
    cache: str = ""
    #: Ours: the share is a file, and so is what it is mounted on.
    single_file: bool = False


class Layer(Message, frozen=True, kw_only=True):
    """A mounted layer."""

    path: str = ""


class CombinedLayers(ResourceSettings, frozen=True, kw_only=True):
    """A container's root: layers, topmost first, below a scratch folder if there is one."""

    container_id: str = field(default="", name="ContainerID")
    container_root_path: str = ""
    layers: tuple[Layer, ...] = ()
    scratch_path: str = ""


class VpciDevice(ResourceSettings, frozen=True, kw_only=True):
    """A device that a Hyper-V host passes through, to be waited for."""

    vmbus_guid: str = field(default="", name="VMBusGUID")


class ContainerConstraints(ResourceSettings, frozen=True, kw_only=True):
    """New limits of a running container; what is not named keeps its limit."""

    #: OCI LinuxResources: data for the runtime
    linux: dict[str, object] = field(default_factory=dict)


class PodCgroupMemoryLimit(ResourceSettings, frozen=True, kw_only=True):
    """The VM's memory has changed: what all containers together may have follows it."""


class IPConfig(Message, frozen=True, kw_only=True):
    """An address of a network adapter, v4 or v6."""

    ip_address: str = field(default="", name="IPAddress")
    prefix_length: UInt8 = 0


class NetworkRoute(Message, frozen=True, kw_only=True):
    """A route over a network adapter."""

    next_hop: str = ""
    destination_prefix: str = ""
    metric: UInt16 = 0


class NetworkAdapter(ResourceSettings, frozen=True, kw_only=True):
    """A NIC of a pod."""

    namespace_id: str = field(default="", name="NamespaceID")
    adapter_id: str = field(default="", name="ID")
    mac_address: str = ""
    #: search domains, with commas between them
    dns_suffix: str = field(default="", name="DNSSuffix")
    #: name servers, with commas between them
    dns_server_list: str = field(default="", name="DNSServerList")
    encap_overhead: UInt16 = 0
    vpci_assigned: bool = field(default=False, name="VPCIAssigned")
    ip_configs: tuple[IPConfig, ...] = field(default=(), name="IPConfigs")
    routes: tuple[NetworkRoute, ...] = ()
    policy_based_routing: bool = False
    enable_low_metric: bool = False
    #: Ours: the NIC by PCI address instead of by MAC address.
    pci_address: str = ""
    #: Ours: instead of the one that the NIC came with.
    mtu: UInt32 | None = None


class ModificationRequest(Message, frozen=True, kw_only=True):
    """One change of one resource."""

    request_type: str = RequestType.ADD
    resource_type: str = ""
    #: a ResourceSettings record, or the plain tree of an unknown resource type
    settings: object = None


#: Record by resource type.
RESOURCES: Mapping[str, type[ResourceSettings]] = MappingProxyType(
    {
        ResourceType.COMBINED_LAYERS: CombinedLayers,
        ResourceType.CONTAINER_CONSTRAINTS: ContainerConstraints,
        ResourceType.MAPPED_DIRECTORY: MappedDirectory,
        ResourceType.MAPPED_VIRTUAL_DISK: MappedVirtualDisk,
        ResourceType.NETWORK: NetworkAdapter,
        ResourceType.POD_CGROUP_MEMORY_LIMIT: PodCgroupMemoryLimit,
        ResourceType.SCSI_DEVICE: ScsiDevice,
        ResourceType.TEMPORARY_FILESYSTEM: TemporaryFilesystem,
        ResourceType.VPCI_DEVICE: VpciDevice,
        ResourceType.VPMEM_DEVICE: VPMemDevice,
    }
)
