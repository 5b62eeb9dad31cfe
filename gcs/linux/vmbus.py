"""Devices on Hyper-V's bus, each found by the GUID that the host gave it.

A device is a folder `/sys/bus/vmbus/devices/<guid>`; what its driver made of it lies below:
`host<N>` of a SCSI controller, `net/<name>` of a NIC, `pci<domain>:<bus>/<address>` of a device
that is passed through, which may be a NIC itself.

Source: Documentation/ABI/stable/sysfs-bus-vmbus; in drivers/: hv/vmbus_drv.c,
scsi/storvsc_drv.c, net/hyperv/netvsc_drv.c, pci/controller/pci-hyperv.c.
Needs: CONFIG_HYPERV, CONFIG_HYPERV_STORAGE, CONFIG_HYPERV_NET, CONFIG_PCI_HYPERV
"""

import errno
import re
from pathlib import Path
from typing import Final

from gcs.linux import pci

__all__ = ["CONTROLLERS", "interface", "is_there", "pci_device", "scsi_host"]

#: The SCSI controllers that hosts number 0 to 3: version-5 UUIDs of their numbers in decimal,
#: in the namespace d422512d-2bf2-4752-809d-7b82b5fcb1b4.
CONTROLLERS: Final = (
    "df6d0690-79e5-55b6-a5ec-c1e2f77f580a",
    "0110f83b-de10-5172-a266-78bca56bf50a",
    "b5d2d8d4-3a75-51bf-945b-3444dc6b8579",
    "305891a9-b251-5dfe-91a2-c25d9212275b",
)

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PCI_BUS = re.compile(r"pci[0-9a-f]{4}:[0-9a-f]{2}")
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_HOST = re.compile(r"host([0-9]+)")
_ANY = re.compile(r".+")


def is_there(sysfs: Path = pci.SYSFS) -> bool:
    """Tell whether this VM runs on Hyper-V: its bus has devices."""
    return any(_children(sysfs / "bus/vmbus/devices"))


def scsi_host(controller: int, sysfs: Path = pci.SYSFS) -> int | None:
    """Return the kernel's number of a controller, None if it is not there."""
    if not 0 <= controller < len(CONTROLLERS):
        return None
    names = _children(_device(CONTROLLERS[controller], sysfs))
    numbers = [int(match[1]) for name in names if (match := _HOST.fullmatch(name))]
    return min(numbers, default=None)


def interface(guid: str, sysfs: Path = pci.SYSFS) -> str | None:
    """Return the name of a NIC's interface, None while it is not there.

    Whether the NIC is on the bus itself or passed through. Raises OSError when the GUID is
    none, or the NIC has several interfaces.
    """
    device = _device(guid, sysfs)
    found = _only(device / "net", _ANY)
    if found is None:
        function = _function(device)
        found = _only(function / "net", _ANY) if function is not None else None
    return found


def pci_device(guid: str, sysfs: Path = pci.SYSFS) -> str | None:
    """Return the PCI address of a device that is passed through, None while it is not there.

    Raises OSError when the GUID is none, or the device has several functions.
    """
    function = _function(_device(guid, sysfs))
    return function.name if function is not None else None


def _function(device: Path) -> Path | None:
    bus = _only(device, _PCI_BUS)
    address = _only(device / bus, _PCI_ADDRESS) if bus is not None else None
    return device / str(bus) / address if address is not None else None


def _device(guid: str, sysfs: Path) -> Path:
    """Return a device's folder; hosts spell GUIDs in either case, the kernel in lower case."""
    if not _GUID.fullmatch(guid.lower()):
        raise OSError(errno.EINVAL, f"find {guid!r} on the VMBus: it is no GUID")
    return sysfs / "bus/vmbus/devices" / guid.lower()


def _only(folder: Path, form: re.Pattern[str]) -> str | None:
    """Return the one child of that form, None if there is none. Raises OSError for more."""
    found = [name for name in _children(folder) if form.fullmatch(name)]
    if len(found) > 1:
        raise OSError(
            errno.ENOTUNIQ, f"find one of {form.pattern} in {folder}: there are {found}"
        )
    return found[0] if found else None


def _children(folder: Path) -> list[str]:
    try:
        return sorted(child.name for child in folder.iterdir())
    except FileNotFoundError:
        return []
