"""Hyper-V's devices by GUID, in a made-up sysfs with what else lies in the real one."""

import uuid
from pathlib import Path

import pytest

from gcs.linux import pmem, scsi, vmbus
from tests.support.sysfs import Sysfs

NIC = "f8615163-df3e-46c5-913f-f2d2f965ed0e"
OTHER = "0a0b0c0d-0000-4000-8000-000000000001"


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    """Return a VM on Hyper-V that has a keyboard and nothing else."""
    tree = Sysfs(tmp_path)
    tree.add_vmbus("d34b2567-b9b6-42b9-8778-0a4ec0b955bf")
    return tree


def test_the_controllers_have_the_names_that_hosts_give_them() -> None:
    """Version-5 UUIDs of "0" to "3"."""
    namespace = uuid.UUID("d422512d-2bf2-4752-809d-7b82b5fcb1b4")
    assert [str(uuid.uuid5(namespace, str(n))) for n in range(4)] == list(vmbus.CONTROLLERS)


def test_a_vm_elsewhere_has_no_such_bus(tmp_path: Path, sysfs: Sysfs) -> None:
    """Nor does one whose kernel has the driver without a device."""
    assert vmbus.is_there(sysfs.root)
    (tmp_path / "other/bus/vmbus/devices").mkdir(parents=True)
    assert not vmbus.is_there(tmp_path / "other")
    assert not vmbus.is_there(tmp_path / "nowhere")


def test_disks_are_found_by_the_controller_s_guid(sysfs: Sysfs) -> None:
    """Whatever numbers the kernel gave, and whatever virtio-scsi there is."""
    second = sysfs.add_storvsc(vmbus.CONTROLLERS[1], 0)
    first = sysfs.add_storvsc(vmbus.CONTROLLERS[0], 12)
    sysfs.add_disk(second, 63, "sda")
    disk = sysfs.add_disk(first, 0, "sdb")
    sysfs.add_virtio_scsi(5, "0000:00:02.0")
    root = sysfs.root
    assert scsi.find(0, 0, sysfs=root) == "/dev/sdb"
    assert scsi.find(1, 63, sysfs=root) == "/dev/sda"
    for controller, lun in ((0, 1), (1, 0), (2, 0), (4, 0), (255, 0)):
        assert scsi.find(controller, lun, sysfs=root) is None
    scsi.remove(0, 0, sysfs=root)
    assert (disk / "delete").read_text() == "1\n"
    scsi.remove(3, 0, sysfs=root)


def test_a_controller_whose_driver_is_not_ready_is_not_there(sysfs: Sysfs) -> None:
    """Its folder comes before its host."""
    device = sysfs.add_vmbus(vmbus.CONTROLLERS[0])
    assert vmbus.scsi_host(0, sysfs.root) is None
    (device / "host3").mkdir()
    assert vmbus.scsi_host(0, sysfs.root) == 3


def test_layers_have_the_numbers_of_the_firmware(sysfs: Sysfs) -> None:
    """Device 0 is the first; there are no slots."""
    sysfs.add_pmem(0, "0000:00:05.0")
    assert pmem.find_in_slot(1, sysfs.root) == "/dev/pmem0"
    assert pmem.find_in_slot(2, sysfs.root) is None


@pytest.mark.parametrize("guid", [NIC, NIC.upper()])
def test_a_nic_is_found_when_its_driver_has_named_it(sysfs: Sysfs, guid: str) -> None:
    """In either spelling of the GUID; an empty folder means that it is still to come."""
    device = sysfs.add_vmbus(NIC)
    assert vmbus.interface(guid, sysfs.root) is None
    (device / "net").mkdir()
    assert vmbus.interface(guid, sysfs.root) is None
    (device / "net/eth0").mkdir()
    assert vmbus.interface(guid, sysfs.root) == "eth0"
    (device / "net/eth1").mkdir()
    with pytest.raises(OSError, match=r"there are \['eth0', 'eth1'\]"):
        vmbus.interface(guid, sysfs.root)


def test_a_nic_that_is_passed_through_is_found_below_its_pci_bus(sysfs: Sysfs) -> None:
    """By the GUID of the bus."""
    bus = sysfs.add_vpci(NIC, "pcidf3e:00", "df3e:00:02.0")
    assert vmbus.interface(NIC, sysfs.root) is None
    (bus / "df3e:00:02.0/net/eth3").mkdir(parents=True)
    assert vmbus.interface(NIC, sysfs.root) == "eth3"
    assert vmbus.interface(OTHER, sysfs.root) is None


def test_a_device_that_is_passed_through_has_one_address(sysfs: Sysfs) -> None:
    """None before its bus and before its function; several are refused."""
    assert vmbus.pci_device(OTHER, sysfs.root) is None
    bus = sysfs.add_vpci(OTHER, "pci0001:00")
    assert vmbus.pci_device(OTHER, sysfs.root) is None
    (bus / "0001:00:00.0").mkdir()
    assert vmbus.pci_device(OTHER, sysfs.root) == "0001:00:00.0"
    (bus / "0001:00:00.1").mkdir()
    with pytest.raises(OSError, match="find one of"):
        vmbus.pci_device(OTHER, sysfs.root)


@pytest.mark.parametrize("guid", ["", "..", f"{NIC}/..", f"{{{NIC}}}", NIC[:-1], f"{NIC}\n"])
def test_what_is_no_guid_is_refused(sysfs: Sysfs, guid: str) -> None:
    """It becomes a part of a path."""
    for find in (vmbus.interface, vmbus.pci_device):
        with pytest.raises(OSError, match="it is no GUID"):
            find(guid, sysfs.root)
