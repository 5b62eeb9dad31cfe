"""A pod in a VM: what only its kernel and its devices can show."""

import re
import secrets

import pytest

from gcs.guest.spec import annotations
from gcs.host.container import Container, rootfs_path
from gcs.host.spec import Command, User, runtime_spec
from gcs.wire.control import StreamName
from tests.support.shared_vm import SharedVm
from tests.vm.test_container import PORTS, in_vm, run

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

Tree = dict[str, object]

#: Of the image, in the guest, bottom first.
_LAYERS = tuple(f"/run/layers/p{n}" for n in range(7))
_LIMIT = 96 * 1024 * 1024
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def _spec(vm: SharedVm, container: Container, **given: str) -> Tree:
    """Return the spec of a container that prints what it sees, with annotations."""
    script = "cat /etc/hostname; : </dev/pmem0 && echo open; cat /proc/mounts"
    words = ("sleep", "1000") if len(given) == 1 else ("sh", "-c", script)
    root = rootfs_path(container.cid)
    spec = runtime_spec(vm.image.config, Command(arguments=words), User(), container.cid, root)
    spec["annotations"] = dict(given)
    return spec


def _set_limits(spec: Tree) -> None:
    """Limit a sandbox as hosts do: no swap beside its memory, and no limit of time as -1."""
    linux = spec["linux"]
    assert isinstance(linux, dict)
    linux["resources"] = {
        **linux["resources"],
        "memory": {"limit": _LIMIT, "swap": _LIMIT},
        "cpu": {"shares": 1024, "period": 100_000, "quota": -1},
    }


def _join(spec: Tree, sandbox: int, device: str) -> None:
    """Put a workload into its sandbox's namespaces, and give it a device and huge pages."""
    linux, mounts = spec["linux"], spec["mounts"]
    assert isinstance(linux, dict)
    assert isinstance(mounts, list)
    links = {"network": "net", "ipc": "ipc", "uts": "uts"}
    joined = [{"type": k, "path": f"/proc/{sandbox}/ns/{v}"} for k, v in links.items()]
    own = [{"type": kind} for kind in ("pid", "mount", "cgroup")]
    linux["namespaces"] = [*joined, *own]
    source = {"type": "bind", "source": "hugepages://2M/h", "options": ["bind"]}
    spec["mounts"] = [*mounts, {"destination": "/huge", **source}]
    spec["windows"] = {"devices": [{"id": device, "idType": "vpci"}]}
    spec.pop("hostname")


async def _start(container: Container, spec: Tree) -> int:
    await container.create(spec, _LAYERS)
    await container.start(PORTS, (), terminal=False)
    return container.init.process_id


async def _run(container: Container, spec: Tree) -> tuple[int, dict[str, bytes]]:
    await container.create(spec, _LAYERS)
    return await run(container)


async def _end(container: Container) -> None:
    await container.init.signal(9)
    await container.init.wait()
    await container.wait_notification()
    await container.remove()


def test_a_pod_has_limits_and_its_workload_a_device_and_huge_pages(
    vm_connected: SharedVm,
) -> None:
    """The limits are the kernel's, the device's node is found by its PCI address."""
    sandbox, workload = (vm_connected.container(secrets.token_hex(32)) for _ in range(2))
    spec = _spec(vm_connected, sandbox, **{annotations.CONTAINER_TYPE: "sandbox"})
    spec["hostname"] = "pod.example"
    _set_limits(spec)
    pid = vm_connected.call(_start, sandbox, spec)
    cgroup = f"/sys/fs/cgroup/pods/{sandbox.cid}"
    assert in_vm(vm_connected, "cat", f"{cgroup}/memory.max") == f"{_LIMIT}\n"
    assert in_vm(vm_connected, "cat", f"{cgroup}/cpu.max") == "max 100000\n"
    assert in_vm(vm_connected, "cat", f"{cgroup}/cpu.weight") == "39\n"
    device = _PCI_ADDRESS.findall(in_vm(vm_connected, "readlink", "-f", "/sys/block/pmem0"))[-1]
    kind = {annotations.CONTAINER_TYPE: "container", annotations.SANDBOX_ID: sandbox.cid}
    spec = _spec(vm_connected, workload, **kind)
    _join(spec, pid, device)
    status, said = vm_connected.call(_run, workload, spec)
    assert said["stderr"] == b""
    assert said["stdout"].startswith(b"pod.example\nopen\n")
    assert b" /huge hugetlbfs " in said["stdout"]
    assert status == 0
    vm_connected.call(workload.remove)
    vm_connected.call(_end, sandbox)
    assert in_vm(vm_connected, "sh", "-c", f"ls -d {cgroup} 2>/dev/null; true") == ""
    mounts = in_vm(vm_connected, "cat", "/proc/mounts")
    assert sandbox.cid not in mounts
    assert workload.cid not in mounts
    folders = in_vm(vm_connected, "ls", "/run/gcs/c")
    assert not {sandbox.cid, workload.cid} & set(folders.split())


def test_a_standalone_container_has_files_of_its_own(vm_connected: SharedVm) -> None:
    """They are mounted, whatever its image has in /etc."""
    container = vm_connected.container(secrets.token_hex(32))
    words = ("cat", "/etc/hostname", "/etc/resolv.conf", "/etc/hosts")
    root = rootfs_path(container.cid)
    wish = Command(arguments=words, hostname="alone")
    spec = runtime_spec(vm_connected.image.config, wish, User(), container.cid, root)
    status, said = vm_connected.call(_run, container, spec)
    assert (status, said[StreamName.STDERR]) == (0, b"")
    assert said[StreamName.STDOUT].startswith(b"alone\n127.0.0.1 localhost\n127.0.0.1 alone\n")
    vm_connected.call(container.remove)
