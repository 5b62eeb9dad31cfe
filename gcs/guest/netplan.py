"""What a network adapter's settings mean, before anything is done about them. Pure.

Source: PROTOCOL.md, "NetworkAdapter".
"""

import ipaddress
import re
from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace
from itertools import count

from gcs.errors import InvalidArgumentError
from gcs.linux.link import MAIN_TABLE, Address, Config, Route, Rule
from gcs.wire.resource import IPConfig, NetworkAdapter, NetworkRoute

__all__ = ["Dns", "Lease", "Plan", "free_table", "merge", "plan", "with_lease"]

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: What a name is made of in DNS.
_DOMAIN = re.compile(r"[a-z0-9_.-]{1,255}")
#: Tables that the kernel uses itself. Source: linux/rtnetlink.h
_RESERVED_TABLES = frozenset({253, MAIN_TABLE, 255})
#: The first table of policy routing: that of other guests, so that what looks for it finds it.
_FIRST_TABLE = 101
#: Of a rule: after the local table's, before the main table's. And of a route in such a table
#: that names no metric. Both are those of other guests.
_RULE_PRIORITY, _LOW_METRIC = 5, 500
#: Below these a link can't carry the protocol (RFC 791, RFC 8200); the kernel turns IPv6 off.
_MIN_MTU, _MIN_MTU_V6 = 68, 1280


@dataclass(frozen=True, slots=True)
class Dns:
    """Search domains and name servers, each in order and once."""

    search: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An adapter's settings, checked."""

    #: in lower case, with colons; "" if the host names the NIC by something else
    mac: str
    pci_address: str
    #: of its VMBus device, or of the PCI device's; "" if it has none
    guid: str
    addresses: tuple[Address, ...]
    #: in the main table
    routes: tuple[Route, ...]
    #: asked for whatever its place among the pod's adapters
    low_metric: bool
    #: asked for unless it is the pod's first adapter
    policy_routing: bool
    mtu: int | None
    overhead: int
    #: the host gives no address: the network is to, whether or not it has by now
    wants_dhcp: bool
    dns: Dns = field(default_factory=Dns)

    def has_own_table(self, *, is_first: bool) -> bool:
        """Return whether the adapter's routes go into a table of their own."""
        return not is_first if self.policy_routing else self.low_metric

    def config(self, mtu: int, table: int | None) -> Config:
        """Return what is to be set on a link.

        Raises InvalidArgumentError when its packets would be too short.

        Args:
            mtu: That of the link.
            table: A table of its own, None for the main one.
        """
        wanted = (self.mtu if self.mtu is not None else mtu) - self.overhead
        v6 = any(_ip(address.ip, "address").version == 6 for address in self.addresses)
        least = _MIN_MTU_V6 if v6 else _MIN_MTU
        if wanted < least:
            raise InvalidArgumentError(f"MTU {wanted} is below the {least} that IP needs")
        routes, rules = self.routes, tuple[Rule, ...]()
        if table is not None:
            routes = tuple(
                Route(one.destination, one.gateway, one.metric or _LOW_METRIC, table)
                for one in routes
            )
            rules = tuple(_rule(address, table) for address in self.addresses)
        return Config(
            mtu=wanted,
            addresses=self.addresses,
            routes=routes,
            rules=rules,
            accept_ra=self.wants_dhcp,
        )


def _rule(address: Address, table: int) -> Rule:
    length = _ip(address.ip, "address").max_prefixlen
    return Rule(f"{address.ip}/{length}", table, _RULE_PRIORITY)


def plan(settings: NetworkAdapter) -> Plan:
    """Check an adapter's settings. Raises InvalidArgumentError that names the member."""
    mac = settings.mac_address.lower().replace("-", ":")
    _check(_MAC, mac, "MacAddress")
    pci_address = settings.pci_address.lower()
    _check(_PCI, pci_address, "PciAddress")
    guid = settings.adapter_id.lower()
    addresses = tuple(
        _address(one, f"IPConfigs[{index}]") for index, one in enumerate(settings.ip_configs)
    )
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            raise InvalidArgumentError(f"IPConfigs[{index}]: {address} is there twice")
    routes = (_route(one, f"Routes[{n}]", addresses) for n, one in enumerate(settings.routes))
    return Plan(
        mac=mac,
        pci_address=pci_address,
        guid=guid if _GUID.fullmatch(guid) else "",
        addresses=addresses,
        routes=tuple(route for route in routes if route is not None),
        low_metric=settings.enable_low_metric,
        policy_routing=settings.policy_based_routing,
        mtu=settings.mtu,
        overhead=settings.encap_overhead,
        wants_dhcp=not addresses,
        dns=_dns(settings),
    )


def _check(pattern: re.Pattern[str], text: str, member: str) -> None:
    if text and not pattern.fullmatch(text):
        raise InvalidArgumentError(f"{member} {text[:80]!r} is not understood")


def _ip(text: str, member: str) -> Ip:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgumentError(f"{member} {text[:80]!r} is no IP address") from None
    if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id:
        raise InvalidArgumentError(f"{member} {text[:80]!r}: the link is the adapter's")
    return ip


def _address(config: IPConfig, member: str) -> Address:
    ip = _ip(config.ip_address, f"{member}.IPAddress")
    length = config.prefix_length
    if length > ip.max_prefixlen:
        raise InvalidArgumentError(f"{member}.PrefixLength {length} is over {ip.max_prefixlen}")
    return Address(str(ip), length)


def _route(settings: NetworkRoute, member: str, addresses: tuple[Address, ...]) -> Route | None:
    """Return a route; None for a default route that leads nowhere, which hosts send."""
    text = settings.destination_prefix
    try:
        destination = ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidArgumentError(
            f"{member}.DestinationPrefix {text[:80]!r}: {str(error)[:200]}"
        ) from None
    on_link = Route(str(destination), "", settings.metric)
    if not settings.next_hop:
        return on_link
    gateway = _ip(settings.next_hop, f"{member}.NextHop")
    if gateway.version != destination.version:
        raise InvalidArgumentError(f"{member}: {gateway} is no gateway to {destination}")
    if gateway.is_unspecified:
        return on_link if destination.prefixlen else None
    _check_reachable(gateway, f"{member}.NextHop", [_ip(one.ip, member) for one in addresses])
    return Route(str(destination), str(gateway), settings.metric)


def _check_reachable(gateway: Ip, member: str, own: list[Ip]) -> None:
    """Raise InvalidArgumentError if no packet could ever get to a gateway."""
    if gateway in own:
        raise InvalidArgumentError(f"{member} {gateway} is the adapter itself")
    # Every link has a link-local address; and with DHCP it is too early to tell.
    if own and not gateway.is_link_local and all(ip.version != gateway.version for ip in own):
        raise InvalidArgumentError(
            f"{member} {gateway} can't be reached: the adapter has no address of its kind"
        )


def _dns(settings: NetworkAdapter) -> Dns:
    return _checked_dns(_words(settings.dns_suffix), _words(settings.dns_server_list))


def _checked_dns(search: Iterable[str], servers: Iterable[str]) -> Dns:
    """Return what may go into a resolv.conf as it is."""
    dns = Dns(tuple(search), tuple(servers))
    for name in dns.search:
        if not _DOMAIN.fullmatch(name):
            raise InvalidArgumentError(f"DNSSuffix: {name[:80]!r} is no domain")
    for server in dns.servers:
        _ip(server, "DNSServerList:")
    return dns


def _words(text: str) -> tuple[str, ...]:
    words = (word.strip().lower() for word in text.split(","))
    return tuple(dict.fromkeys(word for word in words if word))


def merge(parts: Iterable[Dns]) -> Dns:
    """Return what several adapters say of DNS, the first one's first."""
    all_parts = tuple(parts)
    return Dns(
        tuple(dict.fromkeys(name for part in all_parts for name in part.search)),
        tuple(dict.fromkeys(server for part in all_parts for server in part.servers)),
    )


def free_table(taken: Set[int]) -> int:
    """Return the lowest number of a routing table that no adapter has."""
    return next(n for n in count(_FIRST_TABLE) if n not in taken and n not in _RESERVED_TABLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a DHCP server said, as text that nobody has looked at yet."""

    ip: str
    prefixlen: str
    routers: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


def with_lease(plan: Plan, lease: Lease) -> Plan:
    """Return a plan with what DHCP had to add. Raises InvalidArgumentError."""
    length = lease.prefixlen if lease.prefixlen.isdecimal() else "255"
    address = _address(
        IPConfig(ip_address=lease.ip, prefix_length=min(int(length[:3]), 255)), "DHCP"
    )
    routers = [str(_ip(router, "DHCP: router")) for router in lease.routers[:1]]
    default = [Route("0.0.0.0/0", router) for router in routers]
    search = [name.lower() for name in lease.search]
    return replace(
        plan,
        addresses=(address,),
        routes=(*default, *plan.routes),
        dns=merge([plan.dns, _checked_dns(search, lease.servers)]),
    )
