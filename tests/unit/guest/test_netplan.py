"""A network adapter's settings become addresses, routes, rules and DNS, or are refused."""

import pytest

from gcs.errors import InvalidArgumentError
from gcs.guest import netplan
from gcs.guest.netplan import Dns, Lease
from gcs.linux.link import Address, Route, Rule
from gcs.wire.resource import IPConfig, NetworkAdapter, NetworkRoute

ADDRESSES = (
    IPConfig(ip_address="10.0.0.2", prefix_length=24),
    IPConfig(ip_address="FD00::2", prefix_length=64),
)


def routes(*pairs: tuple[str, str]) -> tuple[Route, ...]:
    given = tuple(NetworkRoute(next_hop=hop, destination_prefix=to) for hop, to in pairs)
    return netplan.plan(NetworkAdapter(ip_configs=ADDRESSES, routes=given)).routes


def test_routes_keep_their_order() -> None:
    """v4 and v6 in one list, as the host has them."""
    assert routes(
        ("10.0.0.1", "10.9.0.0/16"), ("fd00::1", "::/0"), ("10.0.0.1", "0.0.0.0/0")
    ) == (
        Route("10.9.0.0/16", "10.0.0.1"),
        Route("::/0", "fd00::1"),
        Route("0.0.0.0/0", "10.0.0.1"),
    )


def test_a_default_route_to_nowhere_is_no_route() -> None:
    """Hosts send one when there is no gateway."""
    assert routes(("0.0.0.0", "0.0.0.0/0"), ("::", "::/0")) == ()


def test_without_a_next_hop_the_destination_is_on_the_link() -> None:
    """Left out, or no address in particular."""
    assert routes(("", "10.9.0.0/16"), ("0.0.0.0", "10.8.0.0/16")) == (
        Route("10.9.0.0/16"),
        Route("10.8.0.0/16"),
    )


def test_a_link_local_gateway_needs_no_address_of_its_kind() -> None:
    """Every link has such an address."""
    settings = NetworkAdapter(
        ip_configs=ADDRESSES[:1],
        routes=(NetworkRoute(next_hop="fe80::1", destination_prefix="::/0"),),
    )
    assert netplan.plan(settings).routes == (Route("::/0", "fe80::1"),)


@pytest.mark.parametrize(
    ("hop", "destination", "words"),
    [
        ("10.0.0.1", "", r"Routes\[0\].DestinationPrefix ''"),
        ("10.0.0.1", "10.0.0.1/8", "has host bits set"),
        ("10.0.0.1", "fd00::/8", "10.0.0.1 is no gateway to fd00::/8"),
        ("10.0.0", "0.0.0.0/0", r"Routes\[0\].NextHop '10.0.0' is no IP address"),
        ("fe80::1%eth7", "::/0", "the link is the adapter's"),
        ("10.0.0.2", "0.0.0.0/0", "NextHop 10.0.0.2 is the adapter itself"),
    ],
)
def test_a_route_that_makes_no_sense_is_named(hop: str, destination: str, words: str) -> None:
    """The error has the member's place and what it holds."""
    with pytest.raises(InvalidArgumentError, match=words):
        routes((hop, destination))


def test_a_table_of_its_own_takes_all_routes_and_a_rule_for_each_address() -> None:
    """A route without a metric gets one."""
    given = (
        NetworkRoute(next_hop="10.0.0.1", destination_prefix="0.0.0.0/0"),
        NetworkRoute(next_hop="fd00::1", destination_prefix="::/0", metric=7),
    )
    plan = netplan.plan(NetworkAdapter(ip_configs=ADDRESSES, routes=given))
    config = plan.config(1500, 103)
    assert config.routes == (
        Route("0.0.0.0/0", "10.0.0.1", 500, 103),
        Route("::/0", "fd00::1", 7, 103),
    )
    assert config.rules == (Rule("10.0.0.2/32", 103, 5), Rule("fd00::2/128", 103, 5))


@pytest.mark.parametrize(
    ("given", "first", "further"),
    [
        ({}, False, False),
        ({"enable_low_metric": True}, True, True),
        ({"policy_based_routing": True}, False, True),
        ({"policy_based_routing": True, "enable_low_metric": True}, False, True),
    ],
)
def test_who_gets_a_table_of_its_own(
    given: dict[str, bool], first: bool, further: bool
) -> None:
    """Policy routing spares the first adapter, whatever else is asked."""
    plan = netplan.plan(
        NetworkAdapter(
            enable_low_metric=given.get("enable_low_metric", False),
            policy_based_routing=given.get("policy_based_routing", False),
        )
    )
    assert plan.has_own_table(is_first=True) is first
    assert plan.has_own_table(is_first=False) is further


@pytest.mark.parametrize(
    ("addresses", "mtu", "overhead", "wanted"),
    [
        (ADDRESSES, None, 0, 1500),
        (ADDRESSES, None, 50, 1450),
        (ADDRESSES, 1400, 50, 1350),
        (ADDRESSES, 1280, 0, 1280),
        (ADDRESSES[:1], 68, 0, 68),
    ],
)
def test_the_mtu(
    addresses: tuple[IPConfig, ...], mtu: int | None, overhead: int, wanted: int
) -> None:
    """The link's or the one given, less the overhead."""
    settings = NetworkAdapter(ip_configs=addresses, mtu=mtu, encap_overhead=overhead)
    assert netplan.plan(settings).config(1500, None).mtu == wanted


@pytest.mark.parametrize(
    ("addresses", "mtu"), [(ADDRESSES, 1279), (ADDRESSES[:1], 67), (ADDRESSES, 0)]
)
def test_an_mtu_that_ip_can_t_use_is_refused(addresses: tuple[IPConfig, ...], mtu: int) -> None:
    """The kernel would turn IPv6 off without a word."""
    plan = netplan.plan(NetworkAdapter(ip_configs=addresses, mtu=mtu))
    with pytest.raises(InvalidArgumentError, match=f"MTU {mtu} is below"):
        plan.config(1500, None)


@pytest.mark.parametrize("mac", ["02:00:00:00:00:0A", "02-00-00-00-00-0a"])
def test_a_mac_address_has_colons_or_dashes(mac: str) -> None:
    """In either case."""
    assert netplan.plan(NetworkAdapter(mac_address=mac)).mac == "02:00:00:00:00:0a"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (NetworkAdapter(mac_address="02:00"), "MacAddress '02:00'"),
        (NetworkAdapter(pci_address="3:0.0"), "PciAddress '3:0.0'"),
        (NetworkAdapter(ip_configs=(*ADDRESSES, ADDRESSES[0])), "10.0.0.2/24 is there twice"),
        (NetworkAdapter(dns_suffix="a,b c"), "DNSSuffix: 'b c' is no domain"),
        (NetworkAdapter(dns_suffix="a\nnameserver 6.6.6.6"), "is no domain"),
        (NetworkAdapter(dns_server_list="10.0.0.1 10.0.0.2"), "DNSServerList: '10.0.0.1 10"),
    ],
)
def test_what_can_t_be_read_is_named(given: NetworkAdapter, words: str) -> None:
    """Nothing of it gets to the kernel, or into a file."""
    with pytest.raises(InvalidArgumentError, match=words):
        netplan.plan(given)


def test_dns_is_split_trimmed_lowered_and_made_unique() -> None:
    """In the order of the host."""
    settings = NetworkAdapter(
        dns_suffix=" B.example, a.example,,b.EXAMPLE", dns_server_list="FD00::1,10.0.0.1, "
    )
    assert netplan.plan(settings).dns == Dns(
        ("b.example", "a.example"), ("fd00::1", "10.0.0.1")
    )


def test_the_network_goes_on_giving_addresses_once_there_is_a_lease() -> None:
    """DHCP is for IPv4: routers go on announcing the other kind."""
    plan = netplan.plan(NetworkAdapter())
    leased = netplan.with_lease(plan, Lease(ip="10.0.0.7", prefixlen="24"))
    assert plan.config(1500, None).accept_ra
    assert leased.config(1500, None).accept_ra
    assert not netplan.plan(NetworkAdapter(ip_configs=ADDRESSES)).config(1500, None).accept_ra


def test_a_lease_adds_to_what_the_host_said() -> None:
    """Its default route comes first, its name servers last."""
    settings = NetworkAdapter(
        dns_server_list="10.9.9.9",
        routes=(NetworkRoute(next_hop="10.0.0.9", destination_prefix="10.9.0.0/16"),),
    )
    lease = Lease(
        ip="10.0.0.7",
        prefixlen="24",
        routers=("10.0.0.1", "10.0.0.2"),
        servers=("10.0.0.1",),
        search=("Lan",),
    )
    plan = netplan.with_lease(netplan.plan(settings), lease)
    assert plan.addresses == (Address("10.0.0.7", 24),)
    assert plan.routes == (Route("0.0.0.0/0", "10.0.0.1"), Route("10.9.0.0/16", "10.0.0.9"))
    assert plan.dns == Dns(("lan",), ("10.9.9.9", "10.0.0.1"))


@pytest.mark.parametrize(
    "lease",
    [
        Lease(ip="", prefixlen="24"),
        Lease(ip="10.0.0.7", prefixlen=""),
        Lease(ip="10.0.0.7", prefixlen="255.255.255.0"),
        Lease(ip="10.0.0.7", prefixlen="99999999999999999999"),
        Lease(ip="10.0.0.7", prefixlen="24", routers=("here",)),
        Lease(ip="10.0.0.7", prefixlen="24", servers=("10.0.0.1\n",)),
        Lease(ip="10.0.0.7", prefixlen="24", search=("a;b",)),
    ],
)
def test_a_lease_is_not_trusted(lease: Lease) -> None:
    """Anybody on the network may have sent it."""
    with pytest.raises(InvalidArgumentError):
        netplan.with_lease(netplan.plan(NetworkAdapter()), lease)
