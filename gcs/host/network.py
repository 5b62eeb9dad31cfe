"""The network of a container, by QEMU's user network: no privileges, and nothing to set up.

QEMU itself is the router, the name server and the address translation; what a container sends
comes out of QEMU's sockets, so it reaches what this machine reaches. Nothing reaches the
container but published ports. This machine's own loopback is at 10.0.2.2 and fec0::2.

Source: QEMU's docs, "Network emulation", "user mode network stack"; its defaults.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gcs.errors import GcsError, InvalidArgumentError
from gcs.host.bridge import modify
from gcs.host.client import Client
from gcs.host.qmp import QmpError
from gcs.host.vm import Vm
from gcs.wire.resource import (
    IPConfig,
    NetworkAdapter,
    NetworkRoute,
    RequestType,
    ResourceType,
)

__all__ = ["Published", "connect", "disconnect", "parse_published", "use_namespace"]

#: What no other machine's NIC has: locally administered, as QEMU's own prefix is.
_MAC = "52:54:00:67:63:{:02x}"
_GUEST, _ROUTER, _NAMES = "10.0.2.15", "10.0.2.2", "10.0.2.3"
_GUEST_V6 = "fec0::15"
_FORM = re.compile(
    r"(?:(?P<ip>[0-9.]+):)?(?P<host>[0-9]{1,5}):(?P<own>[0-9]{1,5})(?:/(?P<kind>tcp|udp))?"
)
_MAX_PORT = 65535
#: Nobody else's containers, unless somebody says so.
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Published:
    """A port of this machine that leads to one of the container."""

    ip: str
    port: int
    container_port: int
    #: "tcp" or "udp"
    protocol: str = "tcp"

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}:{self.container_port}/{self.protocol}"


def parse_published(text: str) -> Published:
    """Read `[IP:]PORT:CONTAINER-PORT[/udp]`. Raises InvalidArgumentError."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise InvalidArgumentError(f"{text!r}: expected [IP:]PORT:CONTAINER-PORT[/udp]")
    ports = int(match["host"]), int(match["own"])
    if not all(1 <= port <= _MAX_PORT for port in ports):
        raise InvalidArgumentError(f"{text!r}: ports go from 1 to {_MAX_PORT}")
    try:
        ip = str(ipaddress.IPv4Address(match["ip"] or _LOOPBACK))
    except ValueError:
        raise InvalidArgumentError(f"{text!r}: {match['ip']} is no IPv4 address") from None
    return Published(ip, *ports, match["kind"] or "tcp")


async def connect(
    vm: Vm, client: Client, namespace: str, published: Iterable[Published] = ()
) -> None:
    """Give a namespace of the guest, and the container that will be in it, a NIC.

    Raises GcsError when a port is taken.
    """
    forwarded = list(published)
    try:
        await vm.add_nic(0, _MAC.format(0), _backend(forwarded))
    except QmpError as error:
        if not forwarded:
            raise
        ports = ", ".join(map(str, forwarded))
        raise GcsError(f"publish {ports}: is another program using it? {error}") from error
    await modify(client, RequestType.ADD, ResourceType.NETWORK, _adapter(namespace))


async def disconnect(vm: Vm, client: Client, namespace: str) -> None:
    """Take the NIC away again."""
    await modify(client, RequestType.REMOVE, ResourceType.NETWORK, _adapter(namespace))
    await vm.remove_nic(0)


def use_namespace(spec: dict[str, object], namespace: str) -> None:
    """Let a container be in that namespace."""
    spec["windows"] = {"network": {"networkNamespace": namespace}}


def _backend(published: Iterable[Published]) -> Mapping[str, object]:
    forward = [
        {"str": f"{one.protocol}:{one.ip}:{one.port}-{_GUEST}:{one.container_port}"}
        for one in published
    ]
    return {"type": "user", "hostfwd": forward}


def _adapter(namespace: str) -> NetworkAdapter:
    return NetworkAdapter(
        namespace_id=namespace,
        adapter_id="nic0",
        mac_address=_MAC.format(0),
        dns_server_list=_NAMES,
        # No default route of IPv6: few machines have one, and programs would try it first.
        ip_configs=(
            IPConfig(ip_address=_GUEST, prefix_length=24),
            IPConfig(ip_address=_GUEST_V6, prefix_length=64),
        ),
        routes=(NetworkRoute(next_hop=_ROUTER, destination_prefix="0.0.0.0/0"),),
    )
