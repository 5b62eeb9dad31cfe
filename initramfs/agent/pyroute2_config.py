"""Stand in for pyroute2.config in the guest: what the messages of its links ask of it.

The real one imports multiprocessing and platform, and asks what machine this is.
"""

from os import uname as _uname
from socket import AF_BRIDGE, AF_NETLINK

__all__ = [
    "AF_BRIDGE",
    "AF_NETLINK",
    "data_plugins_path",
    "data_plugins_pkgs",
    "machine",
    "mock_netlink",
    "netns_path",
    "uname",
]

#: Which ioctl's number the tunnels' messages have.
machine = _uname().machine
#: Of the fields the third, in the order in which pyroute2 has them.
uname = ("Linux", "", _uname().release, "", machine, "")
mock_netlink = False
netns_path = ()
#: Folders and packages with more kinds of links.
data_plugins_pkgs = ()
data_plugins_path = ()
