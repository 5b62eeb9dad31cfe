"""Pods in a shared VM, each in a network namespace, and programs that run in them as root.

They have the VM's busybox beside what is in the image, and may set up their own network.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from gcs.guest.spec import annotations
from gcs.host import network
from gcs.host.bridge import modify
from gcs.host.container import Container, rootfs_path
from gcs.host.process import start_process
from gcs.host.spec import Command, User, exec_process, runtime_spec
from gcs.host.vsock import Ports
from gcs.wire.control import StreamName
from gcs.wire.messages import ProcessParameters
from gcs.wire.resource import NetworkAdapter, RequestType, ResourceType
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.support.shared_vm import SharedVm

__all__ = ["GuestPod", "adapt", "adapted", "in_vm", "open_pod", "plugged"]

Tree = dict[str, object]

#: Of the image, in the guest, bottom first.
_LAYERS = tuple(f"/run/layers/p{n}" for n in range(7))
_PORTS = Ports()
_OUTPUTS = (StreamName.STDOUT, StreamName.STDERR)
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
#: What root needs to be a nuisance to its network.
_MORE = ("CAP_NET_ADMIN", "CAP_NET_RAW")


@dataclass
class GuestPod:
    """A running container with a namespace of its own, or of the pod that it is in."""

    vm: SharedVm
    container: Container
    process: Tree

    @property
    def pid(self) -> int:
        """Its init, as the VM counts."""
        return self.container.init.process_id

    def run(self, *argv: str, stdin: bytes = b"") -> tuple[int, str]:
        """Run a program in it; return its exit status and what it printed."""
        process = exec_process(self.process, Command(arguments=argv), None, "")
        parameters = ProcessParameters(oci_process=process)
        return self.vm.call(_run, self.vm, self.container.cid, parameters, stdin)

    def output(self, *argv: str, stdin: bytes = b"") -> str:
        """Return what a program prints; it must succeed."""
        status, text = self.run(*argv, stdin=stdin)
        assert status == 0, f"{argv}: exit status {status}: {text}"
        return text

    def busybox(self, *argv: str) -> str:
        """Return what one of busybox's programs prints; it must succeed."""
        return self.output("/busybox", *argv)

    def links(self) -> list[str]:
        """Return its links but loopback."""
        lines = self.busybox("ip", "-o", "link").splitlines()
        names = [line.split(":")[1].strip().partition("@")[0] for line in lines]
        return sorted(name for name in names if name != "lo")


def in_vm(vm: SharedVm, *argv: str) -> str:
    """Return what a program of the VM itself prints; it must succeed."""
    parameters = ProcessParameters(command_args=argv, environment={"PATH": _PATH})
    status, text = vm.call(_run, vm, NULL_CONTAINER_ID, parameters, b"")
    assert status == 0, f"{argv}: exit status {status}: {text}"
    return text


async def _run(
    vm: SharedVm, cid: str, parameters: ProcessParameters, stdin: bytes
) -> tuple[int, str]:
    wanted = (*_OUTPUTS, StreamName.STDIN) if stdin else _OUTPUTS
    ports = {name: _PORTS.take() for name in wanted}
    process, streams = await start_process(vm.vm.vsock, vm.client, cid, parameters, ports)
    said = bytearray()

    async def read(stream: trio.SocketStream) -> None:
        async with stream:
            async for data in stream:
                said.extend(data)

    async with trio.open_nursery() as nursery:
        for name in _OUTPUTS:
            nursery.start_soon(read, streams[name])
        if stdin:
            async with streams[StreamName.STDIN] as stream:
                await stream.send_all(stdin)
    return await process.wait(), said.decode(errors="replace")


# -- pods --------------------------------------------------------------------------------------


@contextmanager
def open_pod(
    vm: SharedVm,
    namespace: str,
    *argv: str,
    is_sandbox: bool = False,
    joins: GuestPod | None = None,
) -> Iterator[GuestPod]:
    """Run a pod for the length of the block; its NICs are the VM's again afterwards.

    Args:
        vm: Where.
        namespace: The host's name for its network.
        argv: Its first process; without one it does nothing.
        is_sandbox: Whether others may join it, otherwise it is alone.
        joins: A sandbox that this is another container of.
    """
    container = vm.container(secrets.token_hex(32))
    spec = _spec(vm, container, namespace, argv or ("sleep", "6000"), joins)
    if is_sandbox:
        spec["annotations"] = {annotations.CONTAINER_TYPE: "sandbox"}
    process = spec["process"]
    assert isinstance(process, dict)
    vm.call(_start, container, spec)
    try:
        yield GuestPod(vm, container, process)
    finally:
        vm.call(_end, container)


def _spec(
    vm: SharedVm,
    container: Container,
    namespace: str,
    argv: Sequence[str],
    joins: GuestPod | None,
) -> Tree:
    root = rootfs_path(container.cid)
    wish = Command(arguments=tuple(argv))
    spec = runtime_spec(vm.image.config, wish, User(), container.cid, root)
    process, mounts, linux = spec["process"], spec["mounts"], spec["linux"]
    assert isinstance(process, dict)
    assert isinstance(mounts, list)
    assert isinstance(linux, dict)
    process["capabilities"] = {
        kind: sorted({*held, *_MORE}) for kind, held in process["capabilities"].items()
    }
    busybox = {"destination": "/busybox", "type": "bind", "source": "/bin/busybox"}
    mounts.append({**busybox, "options": ["bind", "ro"]})
    if joins is None:
        network.use_namespace(spec, namespace)
    else:
        path = f"/proc/{joins.pid}/ns/net"
        kinds = ("pid", "mount", "ipc", "uts", "cgroup")
        linux["namespaces"] = [
            {"type": "network", "path": path},
            *({"type": kind} for kind in kinds),
        ]
        spec["annotations"] = {
            annotations.CONTAINER_TYPE: "container",
            annotations.SANDBOX_ID: joins.container.cid,
        }
        spec.pop("hostname")
    return spec


async def _start(container: Container, spec: Tree) -> None:
    await container.create(spec, _LAYERS)
    await container.start(_PORTS, (), terminal=False)


async def _end(container: Container) -> None:
    await container.init.signal(9)
    await container.init.wait()
    await container.wait_notification()
    await container.remove()


# -- NICs --------------------------------------------------------------------------------------


@contextmanager
def plugged(
    vm: SharedVm, number: int, mac: str, backend: Mapping[str, object]
) -> Iterator[None]:
    """Have a NIC in the VM for the length of the block, of which the agent is not told."""
    vm.call(vm.vm.add_nic, number, mac, backend)
    try:
        yield
    finally:
        vm.call(vm.vm.remove_nic, number)


@contextmanager
def adapted(
    vm: SharedVm, number: int, settings: NetworkAdapter, backend: Mapping[str, object]
) -> Iterator[None]:
    """Have a NIC in its pod for the length of the block."""
    with plugged(vm, number, settings.mac_address, backend):
        adapt(vm, settings)
        try:
            yield
        finally:
            adapt(vm, settings, RequestType.REMOVE)


def adapt(vm: SharedVm, settings: NetworkAdapter, kind: RequestType = RequestType.ADD) -> None:
    """Have the agent add, change or remove an adapter."""
    vm.call(modify, vm.client, kind, ResourceType.NETWORK, settings)
