"""Settings of an adapter that can't be, and the words with which each is refused.

They are about a second adapter, on the NIC with 02 as its last byte; the first one of the pod
is called A1 and has two search domains.
"""

from gcs.errors import Hresult
from gcs.wire.resource import IPConfig, NetworkRoute

__all__ = ["WRONG"]


def _route(gateway_: str, destination: str = "0.0.0.0/0") -> NetworkRoute:
    return NetworkRoute(next_hop=gateway_, destination_prefix=destination)


def _ip(address: str, length: int = 24) -> IPConfig:
    return IPConfig(ip_address=address, prefix_length=length)


WRONG = {
    "never": (
        {"mac_address": "02:00:00:00:00:99"},
        Hresult.TIMEOUT,
        "02:00:00:00:00:99 did not",
    ),
    "no identity": ({"mac_address": ""}, Hresult.ERR_INVALID_ARG, "neither MacAddress nor Pci"),
    "a bad MAC": ({"mac_address": "02:zz"}, Hresult.ERR_INVALID_ARG, "MacAddress '02:zz'"),
    "a double MAC": (
        {"mac_address": "02-00-00-00-00-01", "adapter_id": "B"},
        Hresult.INVALID_STATE,
        "MAC address 02:00:00:00:00:01 is that of adapter a1",
    ),
    "the same id": (
        {"namespace_id": "other", "adapter_id": "a1"},
        Hresult.INVALID_STATE,
        "network adapter a1 is in namespace",
    ),
    "a bad address": (
        {"ip_configs": (_ip("10.0.0.256"),)},
        Hresult.ERR_INVALID_ARG,
        "IPConfigs[0].IPAddress '10.0.0.256' is no IP address",
    ),
    "a long prefix": (
        {"ip_configs": (_ip("10.0.0.2", 33),)},
        Hresult.ERR_INVALID_ARG,
        "IPConfigs[0].PrefixLength 33 is over 32",
    ),
    "a bad CIDR": (
        {"routes": (_route("10.0.2.1", "10.1.2.3/8"),)},
        Hresult.ERR_INVALID_ARG,
        "Routes[0].DestinationPrefix '10.1.2.3/8'",
    ),
    "an unreachable gateway": (
        {"ip_configs": (_ip("fd00:2::2", 64),), "routes": (_route("10.0.2.1"),)},
        Hresult.ERR_INVALID_ARG,
        "Routes[0].NextHop 10.0.2.1 can't be reached",
    ),
    "a double route": (
        {"routes": (_route("10.0.2.1"), _route("10.0.2.3"))},
        Hresult.FAIL,
        "route 0.0.0.0/0 via 10.0.2.3 on eth1: ",
    ),
    "domains": (
        {"dns_suffix": "c.x,d.x,e.x,f.x,g.x"},
        Hresult.ERR_INVALID_ARG,
        "7 search domains are over the 6",
    ),
    "no MTU": ({"mtu": 0}, Hresult.ERR_INVALID_ARG, "MTU 0 is below the 1280"),
    "no MTU left": ({"encap_overhead": 1500}, Hresult.ERR_INVALID_ARG, "MTU 0 is below"),
    "a long MTU": ({"mtu": 70_000}, Hresult.FAIL, "MTU 70000 of eth1: "),
}
