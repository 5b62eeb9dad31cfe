"""Networks over real virtio NICs that are plugged into a running VM."""

import secrets
import shutil
import statistics
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio

from gcs.host import network
from gcs.host.bridge import modify
from gcs.host.container import Container, rootfs_path
from gcs.host.publish import Published, free_port
from gcs.host.spec import Command, User, runtime_spec
from gcs.wire.control import StreamName
from gcs.wire.resource import (
    IPConfig,
    NetworkAdapter,
    NetworkRoute,
    RequestType,
    ResourceType,
)
from tests.support.http import fetch
from tests.support.oci import layer_tar, member, write_layout
from tests.support.shared_vm import SharedVm
from tests.support.stage import Stage
from tests.vm.test_container import PORTS, _run_in_vm, in_vm

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

#: Of the image, in the guest, bottom first.
_LAYERS = tuple(f"/run/layers/p{n}" for n in range(7))
_SCRIPT = """
{fetches}
/busybox ip -o link
cat /etc/resolv.conf
echo served >/tmp/index.html
echo ready
exec /busybox httpd -f -p 80 -h /tmp
"""


def _links(vm: SharedVm) -> list[str]:
    """Return the links in the VM's own namespace."""
    text = in_vm(vm, "ip", "-o", "link")
    return [line.split(":")[1].strip() for line in text.splitlines()]


def _spec(vm: SharedVm, container: Container, namespace: str, script: str) -> dict[str, object]:
    """Return the spec of a container that has the VM's busybox."""
    wish = Command(arguments=("sh", "-c", script))
    root = rootfs_path(container.cid)
    spec = runtime_spec(vm.image.config, wish, User(), container.cid, root)
    network.use_namespace(spec, namespace)
    mounts = spec["mounts"]
    assert isinstance(mounts, list)
    busybox = {"destination": "/busybox", "type": "bind", "source": "/bin/busybox"}
    mounts.append({**busybox, "options": ["bind", "ro"]})
    return spec


async def _start(container: Container, spec: dict[str, object]) -> str:
    """Create and start a container; return what it prints before it is ready."""
    await container.create(spec, _LAYERS)
    streams = await container.start(PORTS, (StreamName.STDOUT,), terminal=False)
    found = b""
    async with streams[StreamName.STDOUT] as stream:
        while b"ready\n" not in found:
            data = await stream.receive_some()
            assert data, found
            found += data
    return found.decode()


async def _end(container: Container) -> None:
    await container.init.signal(9)
    await container.init.wait()
    await container.wait_notification()
    await container.remove()


def test_a_container_reaches_the_host_and_is_reached(
    vm_connected: SharedVm, urls: Sequence[str]
) -> None:
    """Over a NIC that only it sees: in the VM's own namespace there is loopback alone."""
    vm, port = vm_connected, free_port()
    container = vm.container(secrets.token_hex(32))
    fetches = "\n".join(f"/busybox wget -q -O - '{url}'" for url in urls)
    spec = _spec(vm, container, "one", _SCRIPT.format(fetches=fetches))

    async def begin() -> str:
        published = [Published("127.0.0.1", port, 80)]
        await network.connect(vm.vm, vm.client, "one", published)
        return await _start(container, spec)

    async def end() -> None:
        await _end(container)
        await network.disconnect(vm.vm, vm.client, "one")

    said = vm.call(begin)
    assert said.count("from the host\n") == 2
    assert ": eth0: " in said
    assert "nameserver 10.0.2.3\n" in said
    assert _links(vm) == ["lo"]
    assert fetch(f"http://127.0.0.1:{port}/") == b"served\n"
    vm.call(end)
    assert _links(vm) == ["lo"]


def _adapter(number: int) -> NetworkAdapter:
    return NetworkAdapter(
        namespace_id="two",
        adapter_id=f"nic {number}",
        mac_address=f"52:54:00:00:00:{number:02x}",
        ip_configs=(IPConfig(ip_address=f"10.0.{number}.2", prefix_length=24),),
        routes=(
            NetworkRoute(next_hop=f"10.0.{number}.1", destination_prefix=f"10.9.{number}.0/24"),
        ),
    )


async def _add(vm: SharedVm, number: int) -> float:
    """Plug a NIC in and add it; return the seconds without the plugging."""
    settings = _adapter(number)
    await vm.vm.add_nic(number, settings.mac_address, {"type": "user", "restrict": True})
    began = time.monotonic()
    await modify(vm.client, RequestType.ADD, ResourceType.NETWORK, settings)
    return time.monotonic() - began


async def _remove(vm: SharedVm, number: int) -> None:
    await modify(vm.client, RequestType.REMOVE, ResourceType.NETWORK, _adapter(number))
    await vm.vm.remove_nic(number)


def test_nics_come_and_go_while_a_container_runs(vm_connected: SharedVm) -> None:
    """Four at a time; whoever looks into the VM's own namespace sees none of them."""
    vm = vm_connected
    container = vm.container(secrets.token_hex(32))
    spec = _spec(vm, container, "two", "echo ready; exec sleep 1000")

    async def live() -> None:
        await _start(container, spec)
        for _ in range(2):
            for work in (_add, _remove):
                async with trio.open_nursery() as nursery:
                    for number in range(4):
                        nursery.start_soon(work, vm, number)
        await _add(vm, 0)

    async def end() -> None:
        await _remove(vm, 0)
        await _end(container)

    vm.call(live)
    assert _links(vm) == ["lo"]
    pid = str(container.init.process_id)
    inside = in_vm(vm, "nsenter", "-t", pid, "-n", "ip", "address")
    assert "10.0.0.2/24" in inside
    assert "eth1" not in inside
    vm.call(end)
    assert _links(vm) == ["lo"]


#: Pages of a kept DHCP client that are its own: 60 KiB were measured.
_CLIENT_KIB = 256
_CLIENT = """
for folder in /proc/[0-9]*; do
    if tr '\\0' ' ' <$folder/cmdline | grep -q '^busybox udhcpc '; then
        sed -n 's/^RssAnon:[^0-9]*\\([0-9]*\\).*/\\1/p' $folder/status
    fi
done 2>/dev/null
true
"""


def test_an_address_comes_by_dhcp(
    vm_connected: SharedVm, record_property: Callable[[str, object], None]
) -> None:
    """With the guest's own client, asking QEMU's server; it stays, as long as its NIC."""
    vm = vm_connected
    container = vm.container(secrets.token_hex(32))
    look = "/busybox ip address; /busybox ip route; cat /etc/resolv.conf"
    script = f"{look}; echo ready; exec sleep 1000"
    spec = _spec(vm, container, "three", script)
    settings = NetworkAdapter(
        namespace_id="three", adapter_id="dhcp", mac_address="52:54:00:00:00:99"
    )

    async def live() -> str:
        await vm.vm.add_nic(2, settings.mac_address, {"type": "user"})
        await modify(vm.client, RequestType.ADD, ResourceType.NETWORK, settings)
        return await _start(container, spec)

    async def end() -> None:
        await _end(container)
        await vm.vm.remove_nic(2)

    said = vm.call(live)
    kept = in_vm(vm, "sh", "-c", _CLIENT).split()
    vm.call(end)
    record_property("KiB of a DHCP client", kept)
    assert len(kept) == 1
    assert int(kept[0]) <= _CLIENT_KIB
    assert in_vm(vm, "sh", "-c", _CLIENT) == ""
    assert "inet 10.0.2.15/24" in said
    assert "default via 10.0.2.2 dev eth0" in said
    assert "nameserver 10.0.2.3\n" in said
    assert _links(vm) == ["lo"]


#: Of the medians of five pairs, ours and by hand, one after the other: 1.7 was measured on a
#: machine with little else to do. On a busy one each of the five tasks and threads that ours
#: passes through waits for its turn, which is not ours: so the best of some medians counts.
_RATIO, _PAIRS, _TRIES = 3.0, 5, 4
#: What /proc/uptime tells apart.
_UPTIME_S = 0.01
#: As a person would do it: a namespace is named by a process in it.
_BY_HAND = """
unshare -n sleep 600 & pid=$!
until [ $(readlink /proc/$pid/ns/net) != $(readlink /proc/self/ns/net) ]; do :; done
until [ -e /sys/class/net/eth0 ]; do :; done
start=$(cat /proc/uptime)
ip link set eth0 netns $pid
nsenter -t $pid -n ip addr add 10.0.3.2/24 dev eth0
nsenter -t $pid -n ip link set eth0 up
nsenter -t $pid -n ip route add 10.9.3.0/24 via 10.0.3.1
echo $start $(cat /proc/uptime)
kill $pid
"""


async def _pair(vm: SharedVm) -> float:
    """Return how many times as long ours takes, the second time that it can."""
    ours = await _add(vm, 3)
    await _remove(vm, 3)
    await vm.vm.add_nic(3, _adapter(3).mac_address, {"type": "user", "restrict": True})
    words = (await _run_in_vm(vm, ("sh", "-c", _BY_HAND))).split()
    await vm.vm.remove_nic(3)
    return ours / max(_UPTIME_S, float(words[2]) - float(words[0]))


@pytest.mark.alone
def test_an_adapter_takes_little_longer_than_by_hand(
    vm_connected: SharedVm, record_property: Callable[[str, object], None]
) -> None:
    """No more than three times what the same commands take in the same VM."""
    vm_connected.call(_pair, vm_connected)  # with what only the first one has to do
    medians: list[float] = []
    while len(medians) < _TRIES and min(medians, default=_RATIO + 1) > _RATIO:
        ratios = [vm_connected.call(_pair, vm_connected) for _ in range(_PAIRS)]
        medians.append(statistics.median(ratios))
    record_property("times as long as by hand", [round(one, 2) for one in medians])
    assert min(medians) <= _RATIO


#: What the first adapter of a VM has to wait for, once: the agent imports what it needs then.
_IMPORT_S = 0.6
#: What every agent imports, in the same process: when that takes longer than this, the machine
#: is busy, and the rest slower as well. 0.13 to 0.23 s were measured beside 2.4 to 3.5 s.
_USUAL_S = 3.0
_IMPORT = """
import sys, time
sys.path[:] = ["/usr/lib/gcs", "/usr/lib/python3.11", "/usr/lib/python3.11/lib-dynload"]
began = time.monotonic()
import trio, msgspec, gcs.guest.connection
floor = time.monotonic() - began
from gcs.linux import link
began = time.monotonic()
link.Session().close()
print(time.monotonic() - began, floor)
"""


#: As the agent is started.
_PYTHON = ("/usr/bin/python3.11", "-ISB", "-c")


@pytest.mark.alone
def test_the_first_adapter_waits_for_one_import(
    vm_connected: SharedVm, record_property: Callable[[str, object], None]
) -> None:
    """Of at most 0.6 s, in a process like the agent's."""
    pairs = [
        [float(word) for word in in_vm(vm_connected, *_PYTHON, _IMPORT).split()]
        for _ in range(5)
    ]
    record_property("seconds of the import, and of the agent's own", pairs)
    assert min(one / max(1.0, floor / _USUAL_S) for one, floor in pairs) <= _IMPORT_S


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    """An image of one program."""
    program = shutil.which("busybox")
    assert program, "busybox-static is one of the packages that the build installs"
    names = ("sh", "httpd", "true")
    links = [member(f"bin/{name}", kind=tarfile.SYMTYPE, link="busybox") for name in names]
    content = member("bin/busybox", Path(program).read_bytes(), mode=0o755)
    layer = layer_tar([content, *links, member("tmp/index.html", b"hello\n")])
    return write_layout(tmp_path / "image", [layer], config={"Env": ["PATH=/bin"]})


def test_a_published_port_leads_to_the_container(gcsctl: Stage, busybox: Path) -> None:
    """As long as it runs; another one can't have the port, and is told so."""
    port = free_port()
    words = ("run", "-p", f"{port}:80", "--name", "web")
    serve = (str(busybox), "httpd", "-f", "-p", "80", "-h", "/tmp")
    done = gcsctl.run(*words, "-d", *serve, timeout_s=240)
    assert done.returncode == 0, done.stderr
    assert fetch(f"http://127.0.0.1:{port}/") == b"hello\n"
    again = gcsctl.run("run", "-p", f"{port}:80", str(busybox), "true", timeout_s=240)
    assert again.returncode == 125
    assert (
        f"publish 127.0.0.1:{port}:80/tcp: is another program using it?".encode()
        in again.stderr
    )
    assert gcsctl.run("rm", "-f", "web").returncode == 0
    assert gcsctl.leftovers() == []
