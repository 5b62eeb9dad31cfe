"""The network of a container or a pod: QEMU's user network, that of passt, or a tap device.

The user network takes no privileges, and nothing to set up. QEMU itself is the router, the name
server and the address translation; what a container sends comes out of QEMU's sockets, so it
reaches what this machine reaches. Nothing reaches the container but published ports. This
machine's own loopback is at 10.0.2.2 and fec0::2. Its names are those of this machine's own
name server.

passt.py has the network of passt.

A tap device is there already, and belongs to who runs gcsctl; what it leads to is this
machine's affair. The container has a MAC address of its own on it, and an address by DHCP
unless it is given one.

Source: QEMU's docs, "Network emulation", "user mode network stack"; its defaults.
"""

import hashlib
import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gcs.errors import GcsError, InvalidArgumentError
from gcs.host.bridge import modify
from gcs.host.client import Client
from gcs.host.passt import Passt
from gcs.host.publish import Published
from gcs.host.qmp import QmpError
from gcs.host.vm import Vm
from gcs.wire.control import Tap
from gcs.wire.resource import (
    IPConfig,
    NetworkAdapter,
    NetworkRoute,
    RequestType,
    ResourceType,
)

__all__ = [
    "connect",
    "connect_passt",
    "connect_tap",
    "disconnect",
    "has_ipv6_route",
    "parse_tap",
    "use_namespace",
]

#: What no other machine's NIC has: locally administered, as QEMU's own prefix is.
_MAC = "52:54:00:67:63:00"
_GUEST, _ROUTER, _NAMES = "10.0.2.15", "10.0.2.2", "10.0.2.3"
_GUEST_V6, _ROUTER_V6 = "fec0::15", "fec0::2"
_BY_DHCP = Tap("")
_ANY, _ANY_V6 = "0.0.0.0/0", "::/0"
_ROUTES = Path("/proc/net/ipv6_route")
#: Of a route's flags: nothing gets through. Source: linux/route.h.
_RTF_REJECT = 0x0200
#: One that the kernel can call a device by. Source: linux/if.h, IFNAMSIZ.
_MAX_NAME = 15


# -- the user network --------------------------------------------------------------------------


async def connect(
    vm: Vm,
    client: Client,
    namespace: str,
    published: Iterable[Published] = (),
    *,
    ipv6_route: bool = False,
) -> None:
    """Give a namespace of the guest, and the container that will be in it, a NIC.

    Args:
        vm: Where.
        client: The bridge to it.
        namespace: Its id.
        published: Ports of this machine's IPv4 addresses.
        ipv6_route: Whether it is to have a default route of IPv6.

    Raises GcsError when a port is taken.
    """
    forwarded = list(published)
    try:
        await vm.add_nic(0, _MAC, _backend(forwarded))
    except QmpError as error:
        if not forwarded:
            raise
        ports = ", ".join(map(str, forwarded))
        raise GcsError(f"publish {ports}: is another program using it? {error}") from error
    adapter = _user_adapter(namespace, ipv6_route=ipv6_route)
    await modify(client, RequestType.ADD, ResourceType.NETWORK, adapter)


def has_ipv6_route(table: str | None = None) -> bool:
    """Tell whether this machine has a default route of IPv6; `table` is /proc's, if given.

    Where it has none, containers must not have one either: programs would try it first.
    """
    if table is None:
        try:
            table = _ROUTES.read_text()
        except OSError:
            return False  # a kernel without IPv6
    rows = [line.split() for line in table.splitlines()]
    return any(
        set(row[0]) == {"0"}
        and row[1] == "00"
        and row[9] != "lo"
        and not int(row[8], 16) & _RTF_REJECT
        for row in rows
    )


def _backend(published: Iterable[Published]) -> Mapping[str, object]:
    forward = [
        {"str": f"{one.protocol}:{one.ip}:{one.port}-{_GUEST}:{one.container_port}"}
        for one in published
    ]
    return {"type": "user", "hostfwd": forward}


def _user_adapter(namespace: str, *, ipv6_route: bool) -> NetworkAdapter:
    gateways = (_ROUTER, *([_ROUTER_V6] if ipv6_route else []))
    addresses = (f"{_GUEST}/24", f"{_GUEST_V6}/64")
    return _adapter(namespace, _MAC, Tap("", addresses, gateways, (_NAMES,)))


# -- a tap device ------------------------------------------------------------------------------


def parse_tap(text: str) -> Tap:
    """Read `NAME[,address=IP/PREFIX][,gateway=IP][,dns=IP]`; each may be there several times.

    Raises InvalidArgumentError.
    """
    device, *options = text.split(",")
    if not (0 < len(device) <= _MAX_NAME) or "/" in device or not device.isprintable():
        raise InvalidArgumentError(f"tap:{text}: expected the name of a tap device")
    found: dict[str, list[str]] = {"address": [], "gateway": [], "dns": []}
    for option in options:
        name, _, value = option.partition("=")
        if name not in found:
            raise InvalidArgumentError(
                f"tap:{text}: {option!r} is none of address=IP/PREFIX, gateway=IP, dns=IP"
            )
        found[name].append(_checked(text, name, value))
    if found["gateway"] and not found["address"]:
        raise InvalidArgumentError(f"tap:{text}: a gateway takes an address")
    addresses, gateways, name_servers = map(tuple, found.values())
    return Tap(device, addresses, gateways, name_servers)


def _checked(text: str, name: str, value: str) -> str:
    try:
        if name != "address":
            return str(ipaddress.ip_address(value))
        if "/" not in value:
            raise InvalidArgumentError(f"tap:{text}: {value} has no prefix, as in {value}/24")
        return str(ipaddress.ip_interface(value))
    except ValueError:
        raise InvalidArgumentError(f"tap:{text}: {value!r} is no address") from None


async def connect_passt(vm: Vm, client: Client, namespace: str, passt: Passt) -> None:
    """Give a namespace a NIC that passt serves. Raises GcsError when passt has ended."""
    await passt.check()
    backend = {"type": "socket", "fd": str(passt.qemu_fd)}
    mac = _mac_of(namespace)
    await vm.add_nic(0, mac, backend)
    adapter = _adapter(namespace, mac, _BY_DHCP)
    await modify(client, RequestType.ADD, ResourceType.NETWORK, adapter)


async def connect_tap(vm: Vm, client: Client, namespace: str, tap: Tap) -> None:
    """Give a namespace a NIC that is at the other end of a tap device.

    Raises GcsError when there is none of that name, or it is not ours.
    """
    try:
        socket.if_nametoindex(tap.device)
    except OSError:
        # Root's QEMU would make one that leads nowhere.
        raise GcsError(f"tap {tap.device}: no such device; {_how(tap)}") from None
    backend = {"type": "tap", "ifname": tap.device, "script": "no", "downscript": "no"}
    mac = _mac_of(namespace)
    try:
        await vm.add_nic(0, mac, backend)
    except QmpError as error:
        raise GcsError(f"tap {tap.device}: {error}; {_how(tap)}") from error
    adapter = _adapter(namespace, mac, tap)
    await modify(client, RequestType.ADD, ResourceType.NETWORK, adapter)


def _how(tap: Tap) -> str:
    return f"`ip tuntap add {tap.device} mode tap user NAME` makes one for a user"


def _mac_of(namespace: str) -> str:
    """Return an address that no other VM on the same wire has: 40 bits of its own."""
    digits = hashlib.sha256(namespace.encode()).digest()[:5]
    return ":".join(f"{number:02x}" for number in (0x02, *digits))


# -- both --------------------------------------------------------------------------------------


async def disconnect(vm: Vm, client: Client, namespace: str) -> None:
    """Take the NIC away again."""
    adapter = NetworkAdapter(namespace_id=namespace, adapter_id="nic0")
    await modify(client, RequestType.REMOVE, ResourceType.NETWORK, adapter)
    await vm.remove_nic(0)


def use_namespace(spec: dict[str, object], namespace: str) -> None:
    """Let a container be in that namespace."""
    spec["windows"] = {"network": {"networkNamespace": namespace}}


def _adapter(namespace: str, mac: str, wish: Tap) -> NetworkAdapter:
    return NetworkAdapter(
        namespace_id=namespace,
        adapter_id="nic0",
        mac_address=mac,
        dns_server_list=",".join(wish.name_servers),
        ip_configs=tuple(_configs(wish.addresses)),
        routes=tuple(
            NetworkRoute(next_hop=one, destination_prefix=_ANY_V6 if ":" in one else _ANY)
            for one in wish.gateways
        ),
    )


def _configs(addresses: Sequence[str]) -> Iterable[IPConfig]:
    for each in addresses:
        address, _, prefix = each.partition("/")
        yield IPConfig(ip_address=address, prefix_length=int(prefix))
