"""The kernel's own announcements of devices that come and go.

Source: lib/kobject_uevent.c; a datagram is `ACTION@DEVPATH` and then NUL-separated KEY=VALUE.
Needs: CONFIG_NET, CONFIG_HOTPLUG_PCI
"""

import socket

from gcs.linux import abi

__all__ = ["listen"]

#: The multicast group of the kernel itself; group 2 is udev's.
_KERNEL_GROUP = 1


def listen() -> socket.socket:
    """Return a non-blocking socket that becomes readable with each announcement.

    Readers only need to know that something happened: they look into sysfs afterwards, so a
    lost datagram (ENOBUFS) is no loss.
    """
    netlink = socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
        abi.NETLINK_KOBJECT_UEVENT,
    )
    netlink.bind((0, _KERNEL_GROUP))
    return netlink
