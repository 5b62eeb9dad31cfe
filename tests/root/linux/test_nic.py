"""NICs are found, moved into namespaces, set up, changed and brought back."""

import errno
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gcs.linux import link, netns, nic, syscall
from gcs.linux.link import Address, Config, Route, Rule
from tests.support.namespace import private_network
from tests.support.wires import Wires, open_wires

pytestmark = pytest.mark.root

MAC = "02:00:00:00:00:01"
FULL = Config(
    mtu=1400,
    addresses=(Address("10.1.2.3", 24), Address("10.1.2.4", 24), Address("fd00::3", 64)),
    routes=(
        Route("0.0.0.0/0", "10.1.2.1"),
        Route("10.8.0.0/16", "10.1.2.9", 7),
        Route("::/0", "fd00::1", 9),
        Route("10.9.0.0/16", "", 0, 101),
    ),
    rules=(Rule("10.1.2.4/32", 101, 5), Rule("fd00::3/128", 101, 5)),
    accept_ra=False,
)


@dataclass
class Vm:
    """The namespace of this process stands for the VM's own; another one is a pod's."""

    pod: int
    wires: Wires

    def plug(self, number: int = 1) -> str:
        """Give the VM a NIC and return its name."""
        self.wires.plug(os.getpid(), number)
        return f"nic{number}"

    def shown(self, *arguments: str, is_pod: bool = True) -> list[dict[str, object]]:
        """Return what `ip` says in the pod, or in the VM's own namespace."""
        path = f"/proc/{os.getpid()}/fd/{self.pod}" if is_pod else "/proc/self/ns/net"
        command = ("nsenter", f"--net={path}", "ip", "-j", *arguments)
        text = subprocess.run(command, capture_output=True, check=True).stdout
        found = json.loads(text or b"[]")
        assert isinstance(found, list)
        return found

    def names(self, *, is_pod: bool = True) -> list[object]:
        """Return the names of the links but loopback."""
        names = [one["ifname"] for one in self.shown("link", is_pod=is_pod)]
        return [name for name in names if name != "lo"]

    def addresses(self) -> set[str]:
        """Return the pod's addresses that are no link-local ones."""
        found = set()
        for one in self.shown("address", "show", "dev", "eth0"):
            infos = one["addr_info"]
            assert isinstance(infos, list)
            found |= {f"{a['local']}/{a['prefixlen']}" for a in infos if a["scope"] == "global"}
        return found

    def routes(self, family: str = "-4", table: str = "main") -> list[tuple[object, ...]]:
        """Return the pod's routes by destination, gateway and metric, but the kernel's own."""
        shown = self.shown(family, "route", "show", "table", table)
        members = ("dst", "gateway", "metric")
        return [
            tuple(one.get(m) for m in members)
            for one in shown
            if one.get("protocol") != "kernel"
        ]

    def rules(self) -> list[tuple[object, object]]:
        """Return the sources and tables of rules that are not the kernel's own."""
        shown = [*self.shown("-4", "rule"), *self.shown("-6", "rule")]
        return [(one["src"], one["table"]) for one in shown if one["priority"] == 5]


@pytest.fixture
def vm() -> Iterator[Vm]:
    with private_network(), open_wires() as wires:
        pod = nic.create_namespace()
        yield Vm(pod, wires)
        os.close(pod)


def test_a_nic_is_set_up_in_its_namespace_and_nowhere_else(vm: Vm) -> None:
    """Addresses, routes, rules and MTU are there; the VM's own namespace has no link."""
    attached = nic.attach(vm.plug(), vm.pod, FULL)
    assert (attached.name, attached.mtu) == ("eth0", 1500)
    assert vm.names() == ["eth0"]
    assert vm.names(is_pod=False) == []
    assert vm.addresses() == {"10.1.2.3/24", "10.1.2.4/24", "fd00::3/64"}
    assert vm.routes() == [("default", "10.1.2.1", None), ("10.8.0.0/16", "10.1.2.9", 7)]
    assert vm.routes("-6") == [("default", "fd00::1", 9)]
    assert vm.routes(table="101") == [("10.9.0.0/16", None, None)]
    assert vm.rules() == [("10.1.2.4", "101"), ("fd00::3", "101")]
    assert vm.shown("link", "show", "dev", "eth0")[0]["mtu"] == 1400


def test_an_address_is_usable_at_once(vm: Vm) -> None:
    """Nobody is asked whether an IPv6 address is free."""
    nic.attach(vm.plug(), vm.pod, FULL)
    infos = vm.shown("-6", "address", "show", "dev", "eth0", "scope", "global")
    assert "tentative" not in json.dumps(infos)


def test_nics_are_named_in_order_and_gaps_are_filled(vm: Vm) -> None:
    """eth0, eth1, and eth0 again when it is free."""
    first = nic.attach(vm.plug(1), vm.pod, Config())
    second = nic.attach(vm.plug(2), vm.pod, Config())
    nic.detach(first, vm.pod)
    third = nic.attach(vm.plug(3), vm.pod, Config())
    assert [one.name for one in (first, second, third)] == ["eth0", "eth1", "eth0"]


def test_a_name_that_the_pod_has_taken_is_passed_over(vm: Vm) -> None:
    """Root in a container may have made an eth0 of its own."""
    vm.wires.run("ip", "link", "add", "x", "type", "veth", "peer", "name", "eth0")
    netns.run(vm.wires.netns, lambda: _move("eth0", vm.pod))
    assert nic.attach(vm.plug(), vm.pod, Config()).name == "eth1"


def test_two_nics_that_had_one_name_come_back_both(vm: Vm) -> None:
    """The second one was plugged in when the first one's name was free again."""
    first = nic.attach(vm.plug(1), vm.pod, FULL)
    name = vm.plug(2)
    subprocess.run(("ip", "link", "set", name, "name", "nic1"), check=True)
    second = nic.attach("nic1", vm.pod, Config())
    assert (nic.detach(first, vm.pod), nic.detach(second, vm.pod)) == ("nic1", "eth0")
    assert vm.names(is_pod=False) == ["nic1", "eth0"]


def test_names_that_are_taken_where_a_nic_comes_back_are_passed_over(vm: Vm) -> None:
    """Whether or not the name that it has in its pod is one of them."""
    for taken in (("nic1",), ("nic1", "eth0"), ("nic1", "eth0", "eth1")):
        attached = nic.attach(vm.plug(), vm.pod, Config())
        for number, name in enumerate(taken):
            vm.wires.plug(os.getpid(), 7 + number)
            subprocess.run(("ip", "link", "set", f"nic{7 + number}", "name", name), check=True)
        assert nic.detach(attached, vm.pod) == f"eth{len(taken) - 1}"
        assert vm.names() == []
        for number in (1, *range(7, 7 + len(taken))):
            vm.wires.unplug(number)


def test_the_kernel_s_own_words_are_in_an_error(vm: Vm) -> None:
    """And not only the number's."""
    attached = nic.attach(vm.plug(), vm.pod, Config())
    config = Config(addresses=(Address("10.1.2.3", 24), Address("10.1.2.3", 24)))
    with pytest.raises(FileExistsError, match="eth0: ipv4: Address already assigned"):
        nic.change(attached, vm.pod, config)


def _move(name: str, target: int) -> None:
    with link.open_session() as session:
        session.move(session.find(name), target, name)


def test_a_removed_nic_is_back_and_nothing_is_left_of_it(vm: Vm) -> None:
    """The link has its old name and MTU again; rules are gone with the rest."""
    attached = nic.attach(vm.plug(), vm.pod, FULL)
    nic.detach(attached, vm.pod)
    assert vm.names() == []
    assert vm.rules() == []
    assert vm.routes(table="all") == []
    (back,) = vm.shown("link", "show", "dev", "nic1", is_pod=False)
    assert (back["mtu"], back["operstate"]) == (1500, "DOWN")
    again = nic.attach("nic1", vm.pod, FULL)
    assert again.name == "eth0"


def test_a_nic_that_was_unplugged_can_be_removed(vm: Vm) -> None:
    """Its rules, which the kernel keeps, go."""
    attached = nic.attach(vm.plug(), vm.pod, FULL)
    vm.wires.unplug(1)
    nic.detach(attached, vm.pod)
    assert vm.rules() == []


def test_a_nic_that_its_pod_has_renamed_is_found(vm: Vm) -> None:
    """It is known by its number, which a container can't change."""
    attached = nic.attach(vm.plug(), vm.pod, FULL)
    path = f"--net=/proc/{os.getpid()}/fd/{vm.pod}"
    script = "ip link set eth0 down && ip link set eth0 name mine"
    subprocess.run(("nsenter", path, "sh", "-c", script), check=True)
    nic.detach(attached, vm.pod)
    assert vm.names(is_pod=False) == ["nic1"]


@pytest.mark.parametrize("is_pod", [True, False])
def test_a_nic_comes_back_with_the_mac_address_that_it_had(vm: Vm, is_pod: bool) -> None:
    """Root in a container may have changed it, and the host would not find the NIC again."""
    target = vm.pod if is_pod else None
    attached = nic.attach(vm.plug(), target, Config())
    path = f"--net=/proc/{os.getpid()}/fd/{vm.pod}" if is_pod else "--net=/proc/self/ns/net"
    change = ("ip", "link", "set", attached.name, "address", "02:00:00:00:00:66")
    subprocess.run(("nsenter", path, *change), check=True)
    nic.detach(attached, target)
    (back,) = vm.shown("link", "show", "dev", "nic1", is_pod=False)
    assert back["address"] == MAC


def test_a_gateway_outside_the_subnet_is_on_the_link(vm: Vm) -> None:
    """It is no address of ours for that."""
    config = Config(
        addresses=(Address("10.1.2.3", 32), Address("fd00::3", 128)),
        routes=(Route("0.0.0.0/0", "169.254.1.1"), Route("::/0", "fd77::1")),
    )
    nic.attach(vm.plug(), vm.pod, config)
    assert vm.routes() == [("default", "169.254.1.1", None)]
    assert vm.routes("-6") == [("default", "fd77::1", 1024)]
    assert vm.addresses() == {"10.1.2.3/32", "fd00::3/128"}


@pytest.mark.parametrize(
    ("config", "number", "words"),
    [
        (Config(mtu=10), errno.EINVAL, "MTU 10 of eth0"),
        (Config(mtu=70_000), errno.EINVAL, "MTU 70000 of eth0"),
        (
            Config(addresses=(Address("10.0.0.1", 8), Address("10.0.0.1", 8))),
            errno.EEXIST,
            "address 10.0.0.1/8 on eth0",
        ),
        (
            Config(
                addresses=FULL.addresses,
                rules=FULL.rules,
                routes=(Route("10.0.0.0/8", "10.1.2.9"), Route("10.0.0.0/8", "10.1.2.8")),
            ),
            errno.EEXIST,
            "route 10.0.0.0/8 via 10.1.2.8 on eth0",
        ),
    ],
)
def test_what_the_kernel_refuses_leaves_the_nic_where_it_was(
    vm: Vm, config: Config, number: int, words: str
) -> None:
    """The error names what was tried, and nothing of it stays."""
    name = vm.plug()
    with pytest.raises(OSError, match=words) as caught:
        nic.attach(name, vm.pod, config)
    assert caught.value.errno == number
    assert not hasattr(caught.value, "__notes__")
    assert (vm.names(), vm.rules()) == ([], [])
    assert vm.shown("link", "show", "dev", name, is_pod=False)[0]["mtu"] == 1500
    assert nic.attach(name, vm.pod, FULL).name == "eth0"


def test_a_change_keeps_what_stays(vm: Vm) -> None:
    """Addresses and routes of both ways stay, although their subnet's first one goes."""
    attached = nic.attach(vm.plug(), vm.pod, FULL)
    after = Config(
        mtu=1300,
        addresses=(Address("10.1.2.4", 24), Address("10.3.0.1", 16)),
        routes=(Route("0.0.0.0/0", "10.1.2.1"), Route("10.4.0.0/16", "10.3.0.2")),
    )
    changed = nic.change(attached, vm.pod, after)
    assert vm.addresses() == {"10.1.2.4/24", "10.3.0.1/16"}
    assert vm.routes() == [("default", "10.1.2.1", None), ("10.4.0.0/16", "10.3.0.2", None)]
    assert (vm.rules(), vm.routes(table="101"), vm.routes("-6")) == ([], [], [])
    nic.change(changed, vm.pod, FULL)
    assert vm.addresses() == {"10.1.2.3/24", "10.1.2.4/24", "fd00::3/64"}


def test_a_failed_change_leaves_all_as_it_was(vm: Vm) -> None:
    """What had been changed by then is changed back."""
    attached = nic.attach(vm.plug(), vm.pod, FULL)

    def state() -> tuple[object, ...]:
        kinds = (vm.routes(), vm.routes("-6"), vm.routes(table="101"))
        mtu = vm.shown("link", "show", "dev", "eth0")[0]["mtu"]
        return (vm.addresses(), vm.rules(), mtu, *map(sorted, kinds))

    before = state()
    bad = (Route("10.0.0.0/8", "10.7.0.2"), Route("10.0.0.0/8", "10.7.0.3"))
    config = Config(mtu=1300, addresses=(Address("10.7.0.1", 24),), routes=bad)
    with pytest.raises(OSError, match=r"route 10\.0\.0\.0/8 via 10\.7\.0\.3") as caught:
        nic.change(attached, vm.pod, config)
    assert not hasattr(caught.value, "__notes__")
    assert state() == before


def test_in_the_vm_s_own_namespace_a_nic_keeps_its_name(vm: Vm) -> None:
    """For pods that use the VM's network; taken off again it has nothing."""
    name = vm.plug()
    attached = nic.attach(name, None, FULL)
    assert attached.name == name
    shown = json.dumps(vm.shown("address", is_pod=False))
    assert "10.1.2.3" in shown
    nic.detach(attached, None)
    shown = json.dumps([vm.shown("address", is_pod=False), vm.shown("rule", is_pod=False)])
    assert "10.1.2" not in shown
    assert "fd00::3" not in shown


def test_fifty_adds_and_removes_leave_nothing(vm: Vm) -> None:
    """No descriptor, thread, link, address or rule is left."""
    name = vm.plug()
    nic.detach(nic.attach(name, vm.pod, FULL), vm.pod)  # what the first one leaves for good
    known = set(threading.enumerate())  # one of another test's may end meanwhile

    def held() -> tuple[int, int, list[object], list[object]]:
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        threads = len(set(threading.enumerate()) - known)
        return descriptors, threads, vm.names(), vm.names(is_pod=False)

    before = held()
    for _ in range(50):
        nic.detach(nic.attach(name, vm.pod, FULL), vm.pod)
    assert held() == before
    assert vm.rules() == []


def test_the_thread_that_asked_stays_where_it_is(vm: Vm) -> None:
    """Neither success nor failure moves it into the other namespace."""
    known = set(threading.enumerate())
    here = Path("/proc/thread-self/ns/net").readlink()
    inside = netns.run(vm.pod, lambda: Path("/proc/thread-self/ns/net").readlink())
    assert inside != here

    def fail() -> None:
        raise OSError(errno.EIO, "as it happens")

    for work in (fail, lambda: None):
        _try(work, vm.pod)
        assert Path("/proc/thread-self/ns/net").readlink() == here
    assert set(threading.enumerate()) <= known


def _try(work: Callable[[], None], target: int) -> None:
    try:
        netns.run(target, work)
    except OSError as error:
        assert error.errno == errno.EIO  # noqa: PT017 - only one of the two fails


# -- finding ---------------------------------------------------------------------------------


@pytest.fixture
def sysfs(vm: Vm, folder: Path) -> Path:
    """Show what the kernel has in the namespace that stands for the VM's own."""
    syscall.mount("sysfs", str(folder), "sysfs")
    return folder


def test_a_nic_is_found_by_its_mac_address(vm: Vm, sysfs: Path) -> None:
    """It is there once it is plugged in, and not any more once it is in a pod."""
    assert nic.with_mac(MAC, sysfs) is None
    name = vm.plug()
    assert nic.with_mac(MAC, sysfs) == name
    assert nic.mtu_of(name, sysfs) == 1500
    nic.attach(name, vm.pod, Config())
    assert nic.with_mac(MAC, sysfs) is None


def test_two_nics_of_one_address_are_an_error(vm: Vm, sysfs: Path) -> None:
    """Nothing tells which one the host means."""
    vm.plug(1)
    vm.plug(2)
    subprocess.run(("ip", "link", "set", "nic2", "address", MAC), check=True)
    with pytest.raises(OSError, match=f"MAC address {MAC}: nic1, nic2"):
        nic.with_mac(MAC, sysfs)
