"""pmem: devices by address and slot, in a made-up sysfs."""

from pathlib import Path

from gcs.linux import pmem
from tests.support.sysfs import Sysfs


def test_devices_are_found_by_slot_and_not_by_number(tmp_path: Path) -> None:
    """The kernel numbers them as they come, which is not the order of the slots."""
    sysfs = Sysfs(tmp_path)
    for slot in (1, 2, 3):
        sysfs.add_port(f"0000:00:0{slot}.0", slot)
    sysfs.add_pmem(0, "0000:00:03.0", "0000:03:00.0")
    sysfs.add_pmem(1, "0000:00:01.0", "0000:01:00.0")
    found = [pmem.find_in_slot(slot, tmp_path) for slot in (1, 2, 3, 4)]
    assert found == ["/dev/pmem1", None, "/dev/pmem0", None]


def test_devices_are_found_by_address(tmp_path: Path) -> None:
    """Ten devices and more: pmem1 is not taken for pmem10."""
    sysfs = Sysfs(tmp_path)
    for number in range(12):
        sysfs.add_pmem(number, f"0000:00:{number + 2:02x}.0")
    assert pmem.find("0000:00:03.0", tmp_path) == "/dev/pmem1"
    assert pmem.find("0000:00:0c.0", tmp_path) == "/dev/pmem10"
    assert pmem.find("0000:00:1f.0", tmp_path) is None


def test_a_device_of_another_kind_in_the_slot_is_no_pmem(tmp_path: Path) -> None:
    """A NIC in the slot that was named is not a layer."""
    sysfs = Sysfs(tmp_path)
    sysfs.add_port("0000:00:01.0", 1)
    sysfs.add_pci("0000:00:01.0", "0000:01:00.0")
    assert pmem.find_in_slot(1, tmp_path) is None
