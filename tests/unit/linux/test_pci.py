"""PCI: slot numbers in configuration space, and devices in a made-up sysfs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcs.linux import pci
from tests.support.sysfs import Sysfs, port_config


@pytest.mark.parametrize("slot", [0, 1, 8, 4095, 8191])
def test_the_slot_number_is_the_port_s(slot: int) -> None:
    """All 13 bits of it count, and no others."""
    assert pci.slot_of(port_config(slot)) == slot


def test_a_capability_behind_others_is_found() -> None:
    """The list is followed by its pointers, whose two lowest bits are reserved."""
    power = bytes((0x01, 0x53)) + bytes(14)
    config = port_config(7, at=0x60, before=power + bytes((0x05, 0x60 | 0b10)) + bytes(14))
    assert config[0x50] == 0x05
    assert pci.slot_of(config) == 7


def test_a_port_without_a_slot_has_no_number() -> None:
    """The register of a port that implements no slot says nothing."""
    assert pci.slot_of(port_config(None)) is None


def test_a_device_without_capabilities_has_no_slot() -> None:
    """A zero pointer ends the list."""
    assert pci.slot_of(bytes(256)) is None


@pytest.mark.parametrize("position", [0x40, 0x80, 0xE8])
def test_a_capability_list_that_loops_ends(position: int) -> None:
    """A device whose list leads back to itself is one without a slot."""
    config = bytearray(256)
    config[0x34] = position
    config[position : position + 2] = bytes((0x01, position))
    assert pci.slot_of(bytes(config)) is None


def test_a_long_loop_ends() -> None:
    """So is one whose loop has several links."""
    config = bytearray(256)
    config[0x34] = 0x40
    for position in range(0x40, 0x80, 4):
        config[position : position + 2] = bytes((0x01, position + 4))
    config[0x80:0x82] = bytes((0x01, 0x40))
    assert pci.slot_of(bytes(config)) is None


@given(st.integers(0, 255))
def test_a_truncated_space_has_no_slot(length: int) -> None:
    """Whoever is not root reads 64 bytes; nothing is read behind the end."""
    whole = port_config(3)
    slot = pci.slot_of(whole[:length])
    assert slot == (3 if length >= 0x40 + 0x18 else None)


@given(st.binary(max_size=300))
def test_any_bytes_have_a_slot_or_none(config: bytes) -> None:
    """A device may say what it wants."""
    slot = pci.slot_of(config)
    assert slot is None or 0 <= slot < 2**13


def test_ports_are_found_by_slot(tmp_path: Path) -> None:
    """Only bridges are looked at: what another device has in its space is no slot."""
    sysfs = Sysfs(tmp_path)
    sysfs.add_pci("0000:00:01.0", config=port_config(2))
    sysfs.add_port("0000:00:03.0", 2)
    sysfs.add_port("0000:00:02.0", 9)
    sysfs.add_port("0000:00:04.0", None)
    assert pci.port_in_slot(2, tmp_path) == "0000:00:03.0"
    assert pci.port_in_slot(9, tmp_path) == "0000:00:02.0"
    assert pci.port_in_slot(0, tmp_path) is None


def test_what_is_behind_a_port_is_a_device(tmp_path: Path) -> None:
    """The port's own services, whose names begin with its address, are none."""
    sysfs = Sysfs(tmp_path)
    sysfs.add_port("0000:00:02.0", 1)
    assert pci.behind("0000:00:02.0", tmp_path) is None
    sysfs.add_pci("0000:00:02.0", "0000:01:00.0")
    assert pci.behind("0000:00:02.0", tmp_path) == "0000:01:00.0"


def test_the_address_is_the_innermost_device_s(tmp_path: Path) -> None:
    """Not that of the bridge above, nor of the domain; links are followed."""
    sysfs = Sysfs(tmp_path)
    sysfs.add_pmem(0, "0000:00:02.0", "0000:01:00.0")
    block = tmp_path / "block/pmem0/device"
    assert pci.address_of(block) == "0000:01:00.0"


def test_what_is_on_no_pci_device_has_no_address(tmp_path: Path) -> None:
    """A device of the platform, or none at all."""
    Sysfs(tmp_path)
    assert pci.address_of(tmp_path / "devices") is None
    assert pci.address_of(tmp_path / "block/nothing") is None
