"""Links, addresses, routes and rules of the network namespace that the calling thread is in.

Sole importer of pyroute2, of which it takes what messages look like, and no socket: those are
asyncio inside, and fork a child to open a namespace. What is done here blocks, and is called
off the event loop, in a thread that is in the namespace (`netns.run` brings one along).

Source: rtnetlink(7), ip-rule(8).
Needs: CONFIG_INET, CONFIG_IPV6, CONFIG_IP_MULTIPLE_TABLES, CAP_NET_ADMIN
"""

import errno
import ipaddress
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gcs.linux import rtnetlink
from gcs.linux.rtnetlink import Flag, Kind

__all__ = [
    "MAIN_TABLE",
    "Address",
    "Config",
    "Link",
    "Route",
    "Rule",
    "Session",
    "open_session",
]

#: Where routes go that belong to no rule. Source: linux/rtnetlink.h
MAIN_TABLE = 254
#: The host has given the address out, so nobody has to be asked whether it is free; without
#: this it could not be used for a second or two. Source: linux/if_addr.h
_IFA_F_NODAD = 0x02
#: The gateway is taken to be on the link, whatever the addresses say. Source:
#: linux/rtnetlink.h
_RTNH_F_ONLINK = 4
#: Source: linux/if.h
_IFF_UP = 1
#: Counters are not asked for. Source: RTEXT_FILTER_SKIP_STATS in linux/rtnetlink.h
_SKIP_STATS = 8
#: Source: linux/fib_rules.h
_FR_ACT_TO_TBL = 1
#: Of a route: its origin, its kind and how far its destination is. Source: linux/rtnetlink.h
_RTPROT_BOOT, _RTN_UNICAST, _RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 3, 1, 0, 253
#: The header's one byte for a table's number says that it is elsewhere. Source: RT_TABLE_COMPAT
_TABLE_IN_ATTRIBUTE = 252
#: What the kernel says of a gateway that no address of the link leads to, v4 and v6.
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH)
#: What it says when something that is to be removed is gone already.
_GONE = (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)


class _Form(Enum):
    """Which layout a message has, as pyroute2 knows it."""

    LINK = "ifinfmsg"
    ADDRESS = "ifaddrmsg"
    ROUTE = "rtmsg"
    RULE = "fibmsg"


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel has it now."""

    index: int
    name: str
    mac: str
    mtu: int
    is_up: bool


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a link."""

    ip: str
    prefixlen: int

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefixlen}"


@dataclass(frozen=True, slots=True)
class Route:
    """A way out over a link."""

    #: as `10.0.0.0/8`
    destination: str
    #: "": the destination is on the link itself
    gateway: str = ""
    #: 0: the kernel's default
    metric: int = 0
    table: int = MAIN_TABLE

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        return f"{self.destination}{via}"


@dataclass(frozen=True, slots=True)
class Rule:
    """Which packets look into a table of their own: those from an address."""

    source: str
    table: int
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All that is set on a link. Routes in the order in which they are added."""

    #: None: as the link has it
    mtu: int | None = None
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    #: whether the network itself may give the link IPv6 addresses and routes
    accept_ra: bool = True


class Session:
    """A routing socket: it stays with the namespace that it was opened in.

    Its failures are OSErrors that name what was tried.
    """

    def __init__(self) -> None:
        # The import costs as much as a quarter of the agent, and most VMs have no NIC for a
        # while: so it comes with the first request that needs it. Its sockets are asyncio
        # inside, which is most of it, and slow; what a message looks like is all that is
        # taken.
        from pyroute2.netlink.rtnl import (  # type: ignore[import-untyped]
            fibmsg,
            ifaddrmsg,
            ifinfmsg,
            rtmsg,
        )

        self._forms = {
            _Form.LINK: ifinfmsg.ifinfmsg,
            _Form.ADDRESS: ifaddrmsg.ifaddrmsg,
            _Form.ROUTE: rtmsg.rtmsg,
            _Form.RULE: fibmsg.fibmsg,
        }
        self._socket = rtnetlink.RoutingSocket()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _encode(
        self, form: _Form, fields: Mapping[str, int], attributes: Mapping[str, object]
    ) -> bytes:
        message = self._forms[form]()
        message.update(fields)
        message["attrs"] = list(attributes.items())
        message.header = None  # it is the socket's
        message.encode()
        return bytes(message.data)

    # -- links -------------------------------------------------------------------------------

    def find(self, name: str) -> Link:
        """Return the link of that name. Raises ENODEV."""
        with _trying(f"link {name}"):
            return self._get(0, {"IFLA_IFNAME": name})

    def at(self, index: int) -> Link | None:
        """Return the link of that number, None if it is gone."""
        try:
            return self._get(index, {})
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None

    def _get(self, index: int, attributes: dict[str, object]) -> Link:
        attributes["IFLA_EXT_MASK"] = _SKIP_STATS
        body = self._encode(_Form.LINK, {"index": index}, attributes)
        answer = self._socket.ask(Kind.GETLINK, Flag(0), body)
        found = self._forms[_Form.LINK](answer, length=len(answer))
        found.header = None
        found.decode()
        return Link(
            index=int(found["index"]),
            name=str(found.get_attr("IFLA_IFNAME")),
            mac=str(found.get_attr("IFLA_ADDRESS") or ""),
            mtu=int(found.get_attr("IFLA_MTU") or 0),
            is_up=bool(found["flags"] & _IFF_UP),
        )

    def _set(self, index: int, *, is_up: bool | None = None, **attributes: object) -> None:
        fields = {"index": index}
        if is_up is not None:
            fields |= {"flags": _IFF_UP if is_up else 0, "change": _IFF_UP}
        named = {f"IFLA_{name.upper()}": value for name, value in attributes.items()}
        self._socket.ask(Kind.SETLINK, Flag.ACK, self._encode(_Form.LINK, fields, named))

    def set_loopback_up(self) -> None:
        """Make 127.0.0.1 and ::1 usable."""
        with _trying("link lo up"):
            # Loopback is the first link of its namespace.
            self._set(1, is_up=True)

    def set_down(self, link: Link) -> None:
        """Take a link out of use; its routes and IPv6 addresses go with that."""
        with _trying(f"link {link.name} down"):
            self._set(link.index, is_up=False)

    def set_mtu(self, link: Link, mtu: int) -> None:
        """Set how long the packets of a link may be."""
        with _trying(f"MTU {mtu} of {link.name}"):
            self._set(link.index, mtu=mtu)

    def set_mac(self, link: Link, mac: str) -> None:
        """Set what the other ends of a link know it by; some can have that only while down."""
        with _trying(f"MAC address {mac} of {link.name}"):
            self._set(link.index, address=mac)

    def rename(self, link: Link, name: str) -> None:
        """Call a link that is down something else. Raises EEXIST if another has the name."""
        with _trying(f"calling link {link.name} {name}"):
            self._set(link.index, ifname=name)

    def move(self, link: Link, netns: int, name: str) -> None:
        """Put a link, which goes down, into another namespace under another name.

        Its addresses and routes go with that, but not its rules. Raises EEXIST if the name is
        taken there; the link has moved all the same if the name that it had was not.
        """
        with _trying(f"moving link {link.name} to be {name}"):
            self._set(link.index, ifname=name, net_ns_fd=netns)

    # -- what is set on one ------------------------------------------------------------------

    def apply(
        self, link: Link, before: Config, after: Config, *, is_undo: bool = False
    ) -> None:
        """Bring a link up, from what was set on it to what is to be.

        What both have stays as it is all the while. What was there before may be gone already;
        what is new must not be there. When this fails, some of both is there; the other way
        round with `is_undo`, what comes back may be there.
        """
        may_fail = (errno.EEXIST,) if is_undo else ()
        if after.mtu not in (None, link.mtu if before.mtu is None else before.mtu):
            self.set_mtu(link, after.mtu)
        self._set_up(link, after)
        self.remove_rules([rule for rule in before.rules if rule not in after.rules])
        for rule in after.rules:
            if rule not in before.rules:
                with _trying(f"rule of {rule.source} on {link.name}", may_fail=may_fail):
                    self._rule(Kind.NEWRULE, rule)
        self._change_addresses(link, before, after, may_fail)
        self._change_routes(link, before, after, may_fail)

    def _set_up(self, link: Link, config: Config) -> None:
        """Bring a link up; the thread is in the link's namespace, so its sysctl is there."""
        sysctl = Path(f"/proc/sys/net/ipv6/conf/{link.name}/accept_ra")
        if sysctl.exists():  # not below an MTU of 1280
            sysctl.write_text("1" if config.accept_ra else "0")
        with _trying(f"link {link.name} up"):
            self._set(link.index, is_up=True)

    def remove_rules(self, rules: Iterable[Rule]) -> None:
        """Remove rules; those that are gone already are fine."""
        for rule in rules:
            with _trying(f"removing the rule of {rule.source}", may_fail=_GONE):
                self._rule(Kind.DELRULE, rule)

    def _rule(self, kind: Kind, rule: Rule) -> None:
        network = ipaddress.ip_network(rule.source)
        fields = {
            "family": _family(rule.source),
            "src_len": network.prefixlen,
            "action": _FR_ACT_TO_TBL,
        }
        attributes = {
            "FRA_SRC": str(network.network_address),
            "FRA_TABLE": rule.table,
            "FRA_PRIORITY": rule.priority,
        }
        self._change(kind, self._encode(_Form.RULE, fields, attributes))

    def _change(self, kind: Kind, body: bytes) -> None:
        """Have something made, which must not be there yet, or removed."""
        is_new = kind in (Kind.NEWADDR, Kind.NEWROUTE, Kind.NEWRULE)
        flags = Flag.ACK | Flag.CREATE | Flag.EXCL if is_new else Flag.ACK
        self._socket.ask(kind, flags, body)

    def _change_addresses(
        self, link: Link, before: Config, after: Config, may_fail: tuple[int, ...]
    ) -> None:
        for address in after.addresses:
            if address not in before.addresses:
                with _trying(f"address {address} on {link.name}", may_fail=may_fail):
                    self._address(Kind.NEWADDR, link, address)
        removed = [one for one in before.addresses if one not in after.addresses]
        for address in removed:
            with _trying(f"removing address {address}", may_fail=_GONE):
                self._address(Kind.DELADDR, link, address)
        # The kernel takes the other addresses of a subnet along with its first one.
        for address in after.addresses if removed else ():
            with _trying(f"address {address} on {link.name}", may_fail=(errno.EEXIST,)):
                self._address(Kind.NEWADDR, link, address)

    def _address(self, kind: Kind, link: Link, address: Address) -> None:
        family = _family(address.ip)
        fields = {"family": family, "prefixlen": address.prefixlen, "index": link.index}
        attributes: dict[str, object] = {"IFA_ADDRESS": address.ip}
        if family is socket.AF_INET6:
            fields["flags"] = _IFA_F_NODAD
        else:
            attributes["IFA_LOCAL"] = address.ip
            if address.prefixlen < 31:  # else it is between two, or alone
                network = ipaddress.ip_interface(str(address)).network
                attributes["IFA_BROADCAST"] = str(network.broadcast_address)
        self._change(kind, self._encode(_Form.ADDRESS, fields, attributes))

    def _change_routes(
        self, link: Link, before: Config, after: Config, may_fail: tuple[int, ...]
    ) -> None:
        for route in before.routes:
            if route not in after.routes:
                with _trying(f"removing route {route}", may_fail=_GONE):
                    self._route(Kind.DELROUTE, link, route)
        for route in after.routes:
            # One that was there may have gone with an address.
            was_there = (errno.EEXIST,) if route in before.routes else ()
            allowed = (*may_fail, *was_there)
            with _trying(f"route {route} on {link.name}", may_fail=allowed):
                self._add_route(link, route)

    def _add_route(self, link: Link, route: Route) -> None:
        try:
            self._route(Kind.NEWROUTE, link, route)
        except OSError as error:
            if error.errno not in _UNREACHABLE or not route.gateway:
                raise
            self._route(Kind.NEWROUTE, link, route, _RTNH_F_ONLINK)

    def _route(self, kind: Kind, link: Link, route: Route, flags: int = 0) -> None:
        destination = ipaddress.ip_network(route.destination)
        family = _family(route.destination)
        is_v4_on_link = family is socket.AF_INET and not route.gateway
        fields = {
            "family": family,
            "dst_len": destination.prefixlen,
            # The attribute has room for more of them.
            "table": min(route.table, _TABLE_IN_ATTRIBUTE),
            "proto": _RTPROT_BOOT,
            "scope": _RT_SCOPE_LINK if is_v4_on_link else _RT_SCOPE_UNIVERSE,
            "type": _RTN_UNICAST,
            "flags": flags,
        }
        attributes: dict[str, object] = {"RTA_TABLE": route.table, "RTA_OIF": link.index}
        if destination.prefixlen:
            attributes["RTA_DST"] = str(destination.network_address)
        if route.gateway:
            attributes["RTA_GATEWAY"] = route.gateway
        if route.metric:
            attributes["RTA_PRIORITY"] = route.metric
        self._change(kind, self._encode(_Form.ROUTE, fields, attributes))


@contextmanager
def _trying(what: str, *, may_fail: tuple[int, ...] = ()) -> Iterator[None]:
    """Say of an OSError what was tried; some are as good as success."""
    try:
        yield
    except OSError as error:
        if error.errno not in may_fail:
            raise OSError(error.errno, f"{what}: {error.strerror}") from error


@contextmanager
def open_session() -> Iterator[Session]:
    """Open a session in the namespace that the calling thread is in."""
    session = Session()
    try:
        yield session
    finally:
        session.close()


def _family(text: str) -> socket.AddressFamily:
    version = ipaddress.ip_interface(text).version
    return socket.AF_INET if version == 4 else socket.AF_INET6
