"""A pod: containers of one VM that have the network, the host name and System V IPC in common.

What they share belongs to a process that does nothing else, the sandbox, so that it outlives
each of the containers, the first one too. The sandbox is the VM's own busybox, asleep, on a
root that holds nothing but that program: no image is needed for it.

Source: PROTOCOL.md, "Kinds of containers", "Pods"; the CRI's pod sandbox.
"""

from dataclasses import dataclass

from gcs.host import network
from gcs.host.bridge import modify
from gcs.host.client import Client
from gcs.host.container import Container, rootfs_path
from gcs.host.images import ImageConfig
from gcs.host.spec import Command, User, runtime_spec
from gcs.host.vm import Vm
from gcs.host.vsock import Ports
from gcs.wire.resource import RequestType, ResourceType, TemporaryFilesystem

__all__ = ["Sandbox", "join", "open_sandbox"]

_CONTAINER_TYPE = "io.kubernetes.cri.container-type"
_SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
#: Longer than any VM lives, and every busybox knows the number.
_SLEEP = ("sleep", "2147483647")
#: Empty folders and files to mount on.
_ROOT_SIZE = 1 << 20
_NO_IMAGE = ImageConfig(
    env=(), entrypoint=(), cmd=(), working_dir="", user="", stop_signal="", labels={}
)
#: What the OCI spec calls a namespace, and what the kernel calls it.
_SHARED = {"network": "net", "ipc": "ipc", "uts": "uts"}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's first container, which holds what the others share."""

    container: Container
    hostname: str

    async def wait(self) -> int:
        """Wait until it has ended, which it does not do by itself."""
        return await self.container.init.wait()


async def open_sandbox(
    vm: Vm, client: Client, sandbox_id: str, *, hostname: str, has_network: bool
) -> Sandbox:
    """Start a pod's sandbox.

    Args:
        vm: Where.
        client: The bridge to it.
        sandbox_id: The pod's id as well.
        hostname: Of all its containers.
        has_network: Whether adapters were added to the namespace of that id.
    """
    root = TemporaryFilesystem(mount_path=rootfs_path(sandbox_id), size_in_bytes=_ROOT_SIZE)
    await modify(client, RequestType.ADD, ResourceType.TEMPORARY_FILESYSTEM, root)
    wish = Command(arguments=_SLEEP, environment=("PATH=/bin",), hostname=hostname)
    spec = runtime_spec(_NO_IMAGE, wish, User(), sandbox_id, rootfs_path(sandbox_id))
    spec["annotations"] = {_CONTAINER_TYPE: "sandbox"}
    mounts = spec["mounts"]
    assert isinstance(mounts, list), "runtime_spec makes one"
    program = {"destination": "/bin/sleep", "type": "bind", "source": "/bin/busybox"}
    mounts.append({**program, "options": ["bind", "ro"]})
    if has_network:
        network.use_namespace(spec, sandbox_id)
    container = Container(vm, client, sandbox_id)
    await container.create_of(spec)
    await container.start(Ports(), (), terminal=False)
    return Sandbox(container, hostname)


def join(spec: dict[str, object], sandbox: Sandbox) -> None:
    """Put a container into a pod: the namespaces of its sandbox in place of its own."""
    linux = spec["linux"]
    assert isinstance(linux, dict), "runtime_spec makes one"
    pid = sandbox.container.init.process_id
    for entry in linux["namespaces"]:
        if entry["type"] in _SHARED:
            entry["path"] = f"/proc/{pid}/ns/{_SHARED[entry['type']]}"
    # The sandbox has set it: nobody may again, from outside that namespace.
    spec.pop("hostname")
    spec["annotations"] = {
        _CONTAINER_TYPE: "container",
        _SANDBOX_ID: sandbox.container.cid,
    }
