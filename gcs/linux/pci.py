"""PCI devices by address, and the slot that a root port says it is.

A hot-plug slot has a number that the host chose: the physical slot number of the root port, in
the Slot Capabilities register of its PCI Express capability. It does not depend on the order of
plugging, nor on which hot-plug driver (ACPI or native) serves the port.

Source: PCI Express Base Specification, 7.5.3 (capability id 0x10; Slot Capabilities at +0x14,
physical slot number in bits 31:19); Documentation/ABI/testing/sysfs-bus-pci.
Needs: CONFIG_PCI, CONFIG_PCIEPORTBUS, CONFIG_HOTPLUG_PCI
"""

import re
from pathlib import Path

__all__ = ["address_of", "behind", "port_in_slot", "slot_of"]

SYSFS = Path("/sys")

_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_BRIDGE_CLASS = "0x0604"
_CAPABILITY_LIST, _EXPRESS = 0x34, 0x10
#: Capabilities are four bytes apart at least, above the 64-byte header: at most 48 of them.
_MAX_CAPABILITIES = 48


def _express_capability(config: bytes) -> int | None:
    position = config[_CAPABILITY_LIST] if len(config) > _CAPABILITY_LIST else 0
    for _ in range(_MAX_CAPABILITIES):
        position &= ~0b11  # the two lowest bits of a pointer are reserved
        if position < 0x40 or position + 0x18 > len(config):
            return None
        if config[position] == _EXPRESS:
            return position
        position = config[position + 1]
    return None


def slot_of(config: bytes) -> int | None:
    """Return the physical slot number in a port's configuration space, None if it has none."""
    position = _express_capability(config)
    if position is None:
        return None
    has_slot = config[position + 3] & 1  # "slot implemented", bit 8 of the flags
    register = int.from_bytes(config[position + 0x14 : position + 0x18], "little")
    return register >> 19 if has_slot else None


def port_in_slot(slot: int, sysfs: Path = SYSFS) -> str | None:
    """Return the PCI address of the port whose physical slot number that is."""
    for device in sorted((sysfs / "bus/pci/devices").iterdir()):
        is_bridge = (device / "class").read_text().startswith(_BRIDGE_CLASS)
        if is_bridge and slot_of((device / "config").read_bytes()) == slot:
            return device.name
    return None


def behind(port: str, sysfs: Path = SYSFS) -> str | None:
    """Return the PCI address of the device in a port, None while the slot is empty."""
    children = sorted((sysfs / "bus/pci/devices" / port).resolve().iterdir())
    return next((child.name for child in children if _ADDRESS.fullmatch(child.name)), None)


def address_of(device: Path) -> str | None:
    """Return the PCI address of the innermost PCI device that a sysfs path lies below."""
    parts = reversed(device.resolve().parts)
    return next((part for part in parts if _ADDRESS.fullmatch(part)), None)
