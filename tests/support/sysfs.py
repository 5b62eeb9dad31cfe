"""A made-up /sys: PCI bridges, what is behind them, and the links that the kernel makes."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Sysfs", "port_config"]

_BRIDGE, _OTHER = "0x060400\n", "0x010000\n"


def port_config(slot: int | None, *, at: int = 0x40, before: bytes = b"") -> bytes:
    """Return the configuration space of a root port with that physical slot number.

    The PCI Express capability stands at `at`; `before` are capabilities that precede it in the
    list, laid out from 0x40. None makes a port that implements no slot.
    """
    config = bytearray(256)
    config[0x34] = 0x40
    config[0x40 : 0x40 + len(before)] = before
    config[at : at + 2] = bytes((0x10, 0))
    config[at + 3] = 0 if slot is None else 1
    config[at + 0x14 : at + 0x18] = ((slot or 0) << 19 | 0x7FFFF).to_bytes(4, "little")
    return bytes(config)


@dataclass(frozen=True)
class Sysfs:
    """The tree below a folder; devices are added from the outside to the inside."""

    root: Path

    def __post_init__(self) -> None:
        """Make what is there on every machine."""
        for folder in ("bus/pci/devices", "block", "devices", "bus/scsi/devices"):
            (self.root / folder).mkdir(parents=True)

    def add_pci(self, *path: str, config: bytes = b"", bridge: bool = False) -> Path:
        """Add the PCI device whose address is the last of the path, below its bridges."""
        folder = self.root / "devices/pci0000:00" / "/".join(path)
        folder.mkdir(parents=True)
        (folder / "class").write_text(_BRIDGE if bridge else _OTHER)
        (folder / "config").write_bytes(config or bytes(64))
        (self.root / "bus/pci/devices" / path[-1]).symlink_to(folder)
        return folder

    def add_port(self, address: str, slot: int | None) -> Path:
        """Add a root port; its service devices have names that begin like an address."""
        folder = self.add_pci(address, config=port_config(slot), bridge=True)
        (folder / f"{address}:pcie004").mkdir()
        (folder / "power").mkdir()
        return folder

    def add_pmem(self, number: int, *path: str) -> None:
        """Add a virtio-pmem at a PCI path, with its block device."""
        namespace = self.add_pci(*path) / f"virtio{number}/ndbus{number}/region{number}"
        namespace = namespace / f"namespace{number}.0"
        block = namespace / f"block/pmem{number}"
        block.mkdir(parents=True)
        (block / "device").symlink_to(namespace)
        (self.root / f"block/pmem{number}").symlink_to(block)

    def add_virtio_scsi(self, host: int, *path: str) -> Path:
        """Add a virtio-scsi controller with the kernel's number for it."""
        device = self.add_pci(*path) / f"virtio{host}"
        (device / f"host{host}").mkdir(parents=True)
        drivers = self.root / "bus/virtio/drivers/virtio_scsi"
        drivers.mkdir(parents=True, exist_ok=True)
        (drivers / device.name).symlink_to(device)
        (drivers / "module").mkdir(exist_ok=True)
        return device

    def add_disk(self, controller: Path, lun: int, name: str) -> Path:
        """Add a disk to a controller; return its SCSI device's folder."""
        host = next(controller.glob("host*")).name.removeprefix("host")
        address = f"{host}:0:0:{lun}"
        device = controller / f"host{host}/target{host}:0:0" / address
        (device / "block" / name).mkdir(parents=True)
        (device / "delete").touch()
        (self.root / "bus/scsi/devices" / address).symlink_to(device)
        return device

    def add_vmbus(self, guid: str) -> Path:
        """Add a device of Hyper-V's bus; return its folder, which the bus only links to."""
        folder = self.root / f"devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/{guid}"
        for name in ("channels/9", "power"):
            (folder / name).mkdir(parents=True)
        for name in ("class_id", "device_id", "modalias"):
            (folder / name).write_text(f"{{{guid}}}\n")
        bus = self.root / "bus/vmbus/devices"
        bus.mkdir(parents=True, exist_ok=True)
        (bus / guid).symlink_to(folder)
        return folder

    def add_storvsc(self, guid: str, host: int) -> Path:
        """Add a SCSI controller of Hyper-V; return it as `add_disk` takes it."""
        device = self.add_vmbus(guid)
        (device / f"host{host}/scsi_host/host{host}").mkdir(parents=True)
        return device

    def add_vpci(self, guid: str, bus: str, *addresses: str) -> Path:
        """Add a device that Hyper-V passes through, with its functions; return its bus."""
        folder = self.add_vmbus(guid) / bus
        for address in addresses:
            (folder / address).mkdir(parents=True)
            (folder / address / "class").write_text("0x020000\n")
            (self.root / "bus/pci/devices" / address).symlink_to(folder / address)
        (folder / "pci_bus" / bus.removeprefix("pci")).mkdir(parents=True)
        return folder
