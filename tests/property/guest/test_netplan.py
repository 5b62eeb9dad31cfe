"""What holds for any adapters: nothing is lost, doubled or reordered, and nothing slips in."""

import errno

from hypothesis import given
from hypothesis import strategies as st

from gcs.errors import GcsError
from gcs.guest import netplan
from gcs.guest.netplan import Dns
from gcs.guest.networks import Networks
from gcs.guest.spec import files
from gcs.wire.resource import IPConfig, NetworkAdapter, NetworkRoute

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d.e", "f"]), max_size=6)
IPS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@given(st.lists(st.tuples(WORDS, WORDS)))
def test_merging_keeps_the_first_of_each_in_order(
    parts: list[tuple[list[str], list[str]]],
) -> None:
    """As if all lists were one."""
    merged = netplan.merge(Dns(tuple(search), tuple(servers)) for search, servers in parts)
    for found, column in ((merged.search, 0), (merged.servers, 1)):
        every = [word for part in parts for word in part[column]]
        assert len(set(found)) == len(found)
        assert set(found) == set(every)
        assert sorted(found, key=every.index) == list(found)


@given(st.text(), st.text())
def test_no_text_gets_more_into_resolv_conf_than_it_should(suffix: str, servers: str) -> None:
    """A line of domains and lines of addresses, or nothing."""
    try:
        dns = netplan.plan(NetworkAdapter(dns_suffix=suffix, dns_server_list=servers)).dns
        text = files.resolv_conf(dns.search, dns.servers)
    except GcsError:
        return
    lines = text.splitlines()
    assert len(lines) == bool(dns.search) + len(dns.servers)
    assert text.isascii()


@given(st.sets(st.integers(min_value=0, max_value=600)))
def test_the_lowest_free_table_is_taken(taken: set[int]) -> None:
    """From 101, and none of the kernel's own."""
    table = netplan.free_table(taken)
    assert table not in taken | {253, 254, 255}
    assert table >= 101
    assert set(range(101, table)) <= taken | {253, 254, 255}


@given(
    st.lists(
        st.builds(IPConfig, ip_address=IPS | st.text(), prefix_length=st.integers(0, 255))
    ),
    st.lists(
        st.builds(
            NetworkRoute,
            next_hop=IPS | st.text(),
            destination_prefix=st.one_of(st.text(), IPS, IPS.map(lambda ip: f"{ip}/8")),
            metric=st.integers(0, 65535),
        )
    ),
)
def test_any_settings_become_a_plan_or_are_refused(
    configs: list[IPConfig], routes: list[NetworkRoute]
) -> None:
    """Never another error; and all of a plan's addresses and routes are those asked for."""
    try:
        plan = netplan.plan(NetworkAdapter(ip_configs=tuple(configs), routes=tuple(routes)))
    except GcsError:
        return
    assert len(plan.addresses) == len(configs)
    metrics = [route.metric for route in routes]
    kept = [route.metric for route in plan.routes]
    rest = iter(metrics)
    assert all(metric in rest for metric in kept), "in order"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=12))
def test_the_table_of_namespaces_holds_what_is_in_use(
    steps: list[tuple[int, int, bool]],
) -> None:
    """Each adapter once, and no namespace without one."""
    networks = Networks()
    added: dict[str, str] = {}
    for namespace, adapter, fails in steps:
        settings = NetworkAdapter(namespace_id=f"N{namespace}", adapter_id=f"A{adapter}")
        try:
            with networks.reserve(settings, netplan.plan(settings), by_mac=False):
                _configure(fails=fails)
            added[f"a{adapter}"] = f"n{namespace}"
        except (GcsError, OSError):
            pass
    found = {a.key: n.namespace_id for n in networks.table.values() for a in n.adapters}
    assert found == added
    assert set(networks.table) == set(added.values())


def _configure(*, fails: bool) -> None:
    if fails:
        raise OSError(errno.EINVAL, "as it happens")
