"""Links, addresses, routes and rules of the network namespace that the calling thread is in.

Sole importer of pyroute2, which is asyncio inside: what opens a socket here blocks, and must be
called off the event loop (`netns.run` brings a thread along). It is never asked to open a
namespace itself, because it would fork a child for that.

Source: rtnetlink(7), ip-rule(8).
Needs: CONFIG_INET, CONFIG_IPV6, CONFIG_IP_MULTIPLE_TABLES, CAP_NET_ADMIN
"""

import errno
import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
_IFF_UP = 1
#: What the kernel says of a gateway that no address of the link leads to, v4 and v6.
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH)
#: What it says when something that is to be removed is gone already.
_GONE = (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV)


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
    """A netlink socket: it stays with the namespace and the thread that it was opened in.

    Its failures are OSErrors that name what was tried.
    """

    def __init__(self) -> None:
        # The import costs as much as the rest of the agent, and most VMs have no NIC for a
        # while: so it comes with the first request that needs it.
        from pyroute2.iproute.linux import IPRoute  # type: ignore[import-untyped]
        from pyroute2.netlink.exceptions import (  # type: ignore[import-untyped]
            NetlinkError,
        )

        self._refused: type[Exception] = NetlinkError
        self._netlink = IPRoute(ext_ack=True)

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    @contextmanager
    def _trying(self, what: str, *, may_fail: tuple[int, ...] = ()) -> Iterator[None]:
        """Turn the kernel's refusal into an OSError; some are as good as success."""
        try:
            yield
        except self._refused as error:
            number: int = error.args[0]
            if number not in may_fail:
                words = error.args[1] or os.strerror(number)
                raise OSError(number, f"{what}: {words}") from error

    # -- links -------------------------------------------------------------------------------

    def links(self) -> tuple[Link, ...]:
        """Return all links, loopback among them."""
        with self._trying("listing the links"):
            found = list(self._netlink.get_links())
        return tuple(
            Link(
                index=int(one["index"]),
                name=str(one.get("ifname")),
                mac=str(one.get("address") or ""),
                mtu=int(one.get("mtu") or 0),
                is_up=bool(one["flags"] & _IFF_UP),
            )
            for one in found
        )

    def find(self, name: str) -> Link:
        """Return the link of that name. Raises ENODEV."""
        found = next((link for link in self.links() if link.name == name), None)
        if found is None:
            raise OSError(errno.ENODEV, f"link {name}: {os.strerror(errno.ENODEV)}")
        return found

    def set_loopback_up(self) -> None:
        """Make 127.0.0.1 and ::1 usable."""
        with self._trying("link lo up"):
            # Loopback is the first link of its namespace.
            self._netlink.link("set", index=1, state="up")

    def set_down(self, link: Link) -> None:
        """Take a link out of use; its routes and IPv6 addresses go with that."""
        with self._trying(f"link {link.name} down"):
            self._netlink.link("set", index=link.index, state="down")

    def set_mtu(self, link: Link, mtu: int) -> None:
        """Set how long the packets of a link may be."""
        with self._trying(f"MTU {mtu} of {link.name}"):
            self._netlink.link("set", index=link.index, mtu=mtu)

    def move(self, link: Link, netns: int, name: str) -> None:
        """Put a link, which goes down, into another namespace under a name that is free there.

        Its addresses and routes go with that, but not its rules.
        """
        self.set_down(link)
        with self._trying(f"moving link {link.name} to be {name}"):
            self._netlink.link("set", index=link.index, ifname=name, net_ns_fd=netns)

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
        if after.mtu is not None:
            self.set_mtu(link, after.mtu)
        self._set_up(link, after)
        self.remove_rules([rule for rule in before.rules if rule not in after.rules])
        for rule in after.rules:
            if rule not in before.rules:
                with self._trying(f"rule of {rule.source} on {link.name}", may_fail=may_fail):
                    self._rule("add", rule)
        self._change_addresses(link, before, after, may_fail)
        self._change_routes(link, before, after, may_fail)

    def _set_up(self, link: Link, config: Config) -> None:
        """Bring a link up; the thread is in the link's namespace, so its sysctl is there."""
        sysctl = Path(f"/proc/sys/net/ipv6/conf/{link.name}/accept_ra")
        if sysctl.exists():  # not below an MTU of 1280
            sysctl.write_text("1" if config.accept_ra else "0")
        with self._trying(f"link {link.name} up"):
            self._netlink.link("set", index=link.index, state="up")

    def remove_rules(self, rules: Iterable[Rule]) -> None:
        """Remove rules; those that are gone already are fine."""
        for rule in rules:
            with self._trying(f"removing the rule of {rule.source}", may_fail=_GONE):
                self._rule("del", rule)

    def _rule(self, verb: str, rule: Rule) -> None:
        network = ipaddress.ip_network(rule.source)
        self._netlink.rule(
            verb,
            family=_family(rule.source),
            src=str(network.network_address),
            src_len=network.prefixlen,
            table=rule.table,
            priority=rule.priority,
        )

    def _change_addresses(
        self, link: Link, before: Config, after: Config, may_fail: tuple[int, ...]
    ) -> None:
        for address in after.addresses:
            if address not in before.addresses:
                with self._trying(f"address {address} on {link.name}", may_fail=may_fail):
                    self._address("add", link, address)
        removed = [one for one in before.addresses if one not in after.addresses]
        for address in removed:
            with self._trying(f"removing address {address}", may_fail=_GONE):
                self._address("del", link, address)
        # The kernel takes the other addresses of a subnet along with its first one.
        for address in after.addresses if removed else ():
            with self._trying(f"address {address} on {link.name}", may_fail=(errno.EEXIST,)):
                self._address("add", link, address)

    def _address(self, verb: str, link: Link, address: Address) -> None:
        given = {"index": link.index, "address": address.ip, "prefixlen": address.prefixlen}
        if _family(address.ip) is socket.AF_INET6:
            self._netlink.addr(verb, family=socket.AF_INET6, flags=_IFA_F_NODAD, **given)
        elif address.prefixlen < 31:
            network = ipaddress.ip_interface(str(address)).network
            self._netlink.addr(verb, broadcast=str(network.broadcast_address), **given)
        else:  # between two, or alone: there is no broadcast
            self._netlink.addr(verb, **given)

    def _change_routes(
        self, link: Link, before: Config, after: Config, may_fail: tuple[int, ...]
    ) -> None:
        for route in before.routes:
            if route not in after.routes:
                with self._trying(f"removing route {route}", may_fail=_GONE):
                    self._route("del", link, route)
        for route in after.routes:
            # One that was there may have gone with an address.
            was_there = (errno.EEXIST,) if route in before.routes else ()
            allowed = (*may_fail, *was_there)
            with self._trying(f"route {route} on {link.name}", may_fail=allowed):
                self._add_route(link, route)

    def _add_route(self, link: Link, route: Route) -> None:
        try:
            self._route("add", link, route)
        except self._refused as error:
            if error.args[0] not in _UNREACHABLE or not route.gateway:
                raise
            self._route("add", link, route, _RTNH_F_ONLINK)

    def _route(self, verb: str, link: Link, route: Route, flags: int = 0) -> None:
        family = _family(route.destination)
        given: dict[str, object] = {"dst": route.destination, "oif": link.index}
        if route.gateway:
            given["gateway"] = route.gateway
        else:
            given["scope"] = "link" if family is socket.AF_INET else "universe"
        if route.metric:
            given["priority"] = route.metric
        if flags:
            given["flags"] = flags
        self._netlink.route(verb, family=family, table=route.table, proto="boot", **given)


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
