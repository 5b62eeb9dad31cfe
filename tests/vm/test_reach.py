"""What a container can reach of the host over vsock, which has no namespaces: nothing.

A container of the worst kind (root, all capabilities, no seccomp, the VM's own network) dials
whatever a host might listen on. That the probe can reach what does listen is seen first.
"""

import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from gcs.host.container import Container, rootfs_path
from gcs.host.spec import Command, User, runtime_spec
from gcs.host.vsock import BRIDGE_PORT, Ports
from gcs.wire.control import StreamName
from tests.support.shared_vm import SharedVm
from tests.support.stage import ROOT, Stage

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

#: Of the image, in the guest, bottom first.
_LAYERS = tuple(f"/run/layers/p{n}" for n in range(7))
_PIPES = (StreamName.STDIN, StreamName.STDOUT, StreamName.STDERR)
_HOST, _LOOPBACK = 2, 1
#: All of Linux 6.12's, by the runtime's names.
_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID"),
        *("SETUID", "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST"),
        *("NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO"),
        *("SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
        *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE"),
        *("AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM"),
        *("BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
    )
]
_INSTALL = "cat > /probe && chmod 755 /probe && exec /probe"


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A static program that dials ports and tells what came of it."""
    source = ROOT / "tests" / "support" / "vsock_probe.c"
    out = tmp_path_factory.mktemp("probe") / "probe"
    words = ["gcc", "-static", "-s", "-O1", "-D_GNU_SOURCE", "-o", str(out), str(source)]
    subprocess.run(words, check=True)
    return out.read_bytes()


def worst_spec(vm: SharedVm, cid: str, *words: str) -> dict[str, object]:
    """Return the spec of a container that nothing holds back but its mount namespace."""
    spec = runtime_spec(
        vm.image.config, Command(arguments=words), User(), cid, rootfs_path(cid)
    )
    linux, process = spec["linux"], spec["process"]
    assert isinstance(linux, dict)
    assert isinstance(process, dict)
    spec["linux"] = {
        "namespaces": [{"type": "mount"}],
        "resources": {"devices": [{"allow": True, "access": "rwm"}]},
    }
    spec.pop("hostname")
    sets = ("bounding", "effective", "permitted", "inheritable")
    process["capabilities"] = dict.fromkeys(sets, _CAPABILITIES)
    process["noNewPrivileges"] = False
    return spec


@contextmanager
def worst_container(vm: SharedVm, *words: str) -> Iterator[Container]:
    """A container of that kind that is created, and removed once it has exited."""
    cid = secrets.token_hex(32)
    made = vm.container(cid)
    vm.call(made.create, worst_spec(vm, cid, *words), _LAYERS)
    yield made
    vm.call(made.remove)


async def _dial(container: Container, ports: Ports, probe: bytes) -> tuple[int, str]:
    """Run the probe in a container, and return its status and what it said."""
    streams = await container.start(ports, _PIPES, terminal=False)
    said: dict[StreamName, bytes] = {}

    async def read(name: StreamName) -> None:
        async with streams[name] as stream:
            said[name] = b"".join([bytes(data) async for data in stream])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, StreamName.STDOUT)
        nursery.start_soon(read, StreamName.STDERR)
        async with streams[StreamName.STDIN] as stdin:
            await stdin.send_all(probe)
    assert said[StreamName.STDERR] == b""
    status = await container.init.wait()
    await container.wait_notification()
    return status, said[StreamName.STDOUT].decode()


def _words(*ranges: tuple[int, int, int]) -> Sequence[str]:
    numbers = " ".join(str(number) for each in ranges for number in each)
    return ("sh", "-c", f"{_INSTALL} {numbers}")


def test_the_probe_reaches_a_port_that_is_listened_on(
    vm_connected: SharedVm, probe: bytes
) -> None:
    """So what it does not reach below is not there: only a port that can't be guessed hides."""
    ports = Ports()
    port = ports.take()

    async def listen_and_dial(container: Container) -> tuple[int, str]:
        with await vm_connected.vm.vsock.listen(port) as listener:
            result = await _dial(container, ports, probe)
            async with await listener.accept() as stolen:
                assert await stolen.receive_some() == b""
        return result

    with worst_container(vm_connected, *_words((_HOST, port, port))) as container:
        status, said = vm_connected.call(listen_and_dial, container)
    assert (status, said) == (1, f"open {_HOST} {port}\ncid {_HOST}: open=1\n")


def test_a_container_of_the_worst_kind_reaches_nothing_of_its_host(
    vm_connected: SharedVm, probe: bytes
) -> None:
    """Not the bridge, logs, files or entropy; no stream that is or was; no loopback."""
    ports = Ports()

    async def start_other(other: Container) -> list[trio.SocketStream]:
        return list((await other.start(ports, _PIPES, terminal=False)).values())

    async def end_other(other: Container, streams: list[trio.SocketStream]) -> None:
        await other.init.signal(9)
        assert await other.init.wait() == 137
        await other.wait_notification()
        for stream in streams:
            await stream.aclose()

    with worst_container(vm_connected, "sleep", "600") as other:
        streams = vm_connected.call(start_other, other)
        in_use = [(_HOST, port, port) for port in sorted(ports._taken)]
        ranges = [
            (_HOST, BRIDGE_PORT, BRIDGE_PORT + 100),
            (_HOST, 1, 1100),
            (_HOST, 0x80000000, 0x80000100),
            (_LOOPBACK, 1, 20),
            (_LOOPBACK, BRIDGE_PORT, BRIDGE_PORT),
        ]
        with worst_container(vm_connected, *_words(*in_use, *ranges)) as container:
            status, said = vm_connected.call(_dial, container, ports, probe)
        vm_connected.call(end_other, other, streams)
    assert len(in_use) == 3
    assert "open" not in said
    assert status == 0, said
    assert len(said.splitlines()) == len(in_use) + len(ranges)
    # The bridge is still ours, and so is the VM.
    assert not vm_connected.client.disconnected.is_set()


def test_our_own_spec_has_no_such_sockets(gcsctl: Stage, probe: bytes, tmp_path: Path) -> None:
    """gcsctl's seccomp profile refuses AF_VSOCK, so there is nothing to dial with."""
    _, *words = _words((_HOST, BRIDGE_PORT, BRIDGE_PORT))
    done = gcsctl.run("run", "-i", str(gcsctl.image), "sh", *words, stdin=probe, timeout_s=240)
    assert (done.returncode, done.stderr) == (3, b"")
    assert done.stdout in (
        b"socket: Operation not permitted\n",
        b"socket: Address family not supported by protocol\n",
    )
