"""A VM started by the kernel command line of hosts in use: entropy, log, memory, restart.

One VM for all of it: a boot under emulation takes ten seconds.
"""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from gcs.errors import CallError, DisconnectedError
from gcs.host.artifacts import BootForm, find_boot_image, find_kernel, find_vsock_program
from gcs.host.bootports import LOG_NAME, LOG_PORT, open_boot_ports, start_words
from gcs.host.bridge import accept_bridge, call, modify, open_bridge
from gcs.host.client import Client
from gcs.host.container import Container, rootfs_path, run_in_vm
from gcs.host.images import Image, open_image
from gcs.host.layer_mounts import LayerMounts
from gcs.host.layers import default_cache_dir, ensure_layers
from gcs.host.place import whole
from gcs.host.qemu import VmConfig
from gcs.host.scratch import open_scratch
from gcs.host.spec import Command, User, runtime_spec
from gcs.host.vm import Vm, VmError, find_vhost_vsock, open_vm
from gcs.host.vsock import BRIDGE_PORT, Listener, Ports
from gcs.wire.control import StreamName
from gcs.wire.extensions import WaitForOutOfMemory
from gcs.wire.messages import (
    GetProperties,
    ModifySettings,
    ProcessParameters,
    ShutdownForced,
)
from gcs.wire.metrics import MemoryOomControl, Metrics
from gcs.wire.properties import Properties, PropertyQuery
from gcs.wire.resource import (
    ContainerConstraints,
    ModificationRequest,
    NetworkAdapter,
    PodCgroupMemoryLimit,
    RequestType,
    ResourceType,
)
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.support.mounting import mount_layers

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

MIB, PAGE = 1024 * 1024, 4096
#: With the size of a block it takes that much memory.
TAKE = ("dd", "if=/dev/zero", "of=/dev/null", "count=1")
#: In a namespace without a container; its address comes by DHCP.
_NIC = NetworkAdapter(namespace_id="nobody", adapter_id="nic", mac_address="52:54:00:00:00:01")
CORES = "/run/cores/%e.%p"
WORDS = start_words(
    "debug",
    *("-runtime", "crun", "-kmsgLogLevel", "6", "-core-dump-location", CORES, "-no-such-flag"),
)
PATH = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}


@dataclass
class Started:
    """The VM, and what tests need to make containers in it."""

    vm: Vm
    client: Client
    ports: Ports
    folder: Path
    image: Image
    layers: Sequence[Path]
    stderr: dict[str, trio.SocketStream] = field(default_factory=dict)

    def log(self) -> list[dict[str, object]]:
        """Return the agent's log so far: every line of it is a JSON object."""
        data = (self.folder / LOG_NAME).read_bytes()
        return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]

    async def logged(self, message: str, count: int = 1) -> list[dict[str, object]]:
        """Wait until the log has so many records of a message; return them."""
        with trio.fail_after(30):
            # A file can't say that it has grown.
            while len(found := [r for r in self.log() if r["msg"] == message]) < count:  # noqa: ASYNC110
                await trio.sleep(0.1)
        return found

    async def in_vm(self, *argv: str) -> str:
        """Run a program of the VM itself; return what it printed."""
        parameters = ProcessParameters(
            command_args=argv,
            working_directory="/",
            environment=PATH,
            create_std_out_pipe=True,
        )
        process, streams = await run_in_vm(
            self.vm, self.client, parameters, self.ports, [StreamName.STDOUT]
        )
        async with streams[StreamName.STDOUT] as stdout:
            printed = b"".join([bytes(data) async for data in stdout])
        await process.wait()
        return printed.decode()

    async def container(self, *argv: str, limit: int = 0) -> Container:
        """Start a container; with a limit of its memory and its swap if there is one."""
        container = Container(self.vm, self.client, secrets.token_hex(32))
        cid = container.cid
        wish = Command(arguments=argv)
        spec = runtime_spec(self.image.config, wish, User(), cid, rootfs_path(cid))
        linux = spec["linux"]
        assert isinstance(linux, dict)
        if limit:
            linux["resources"] = {"memory": {"limit": limit, "swap": limit}}
        paths = [f"/run/layers/p{n}" for n in range(len(self.layers))]
        await container.create(spec, paths)
        streams = await container.start(self.ports, [StreamName.STDERR], terminal=False)
        self.stderr[cid] = streams[StreamName.STDERR]
        return container

    async def close(self) -> None:
        """Give up the streams of containers."""
        for stream in self.stderr.values():
            await stream.aclose()

    async def said(self, container: Container) -> str:
        """Return what an ended container has said on stderr."""
        async with self.stderr[container.cid] as stream:
            return b"".join([bytes(data) async for data in stream]).decode()

    async def properties(self, container_id: str, *names: str) -> Properties:
        query = PropertyQuery(property_types=names)
        request = GetProperties(container_id=container_id, query=query)
        return (await call(self.client, request)).properties

    async def statistics(self, container: Container) -> Metrics:
        metrics = (await self.properties(container.cid, "Statistics")).lcow_metrics
        assert metrics is not None
        return metrics


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a name short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="gcs-vm-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def configuration(
    memory_mib: int, vcpus: int, accel: str, words: Sequence[str], form: str
) -> VmConfig:
    image = find_boot_image(form)
    return VmConfig(
        kernel=find_kernel(None),
        initrd=image.initrd,
        root_image=image.root_image,
        memory_mib=memory_mib,
        cpus=vcpus,
        pmem_ports=8,
        nic_ports=1,
        accelerator=accel,
        init_args=tuple(words),
    )


@asynccontextmanager
async def booted(
    folder: Path, image_path: Path, config: VmConfig
) -> AsyncIterator[tuple[Vm, Image, Sequence[Path], trio.SocketStream]]:
    """Boot as a host does: all ports are there before, the bridge is accepted last."""
    image = await open_image(image_path)
    layers = await ensure_layers(image, default_cache_dir(), progress=lambda _: None)
    program = None if find_vhost_vsock() else str(find_vsock_program(None))
    with open_scratch() as scratch_fd:
        opening = open_vm(config, folder, vsock_program=program, scratch_fd=scratch_fd)
        async with opening as vm, open_boot_ports(vm.vsock, folder):
            with await vm.vsock.listen(BRIDGE_PORT) as listener:
                await vm.start()
                stream = await accept_bridge(listener)
            yield vm, image, layers, stream


async def test_a_vm_starts_as_hosts_in_use_start_it(
    folder: Path, image: Path, memory_mib: int, vcpus: int, accel: str
) -> None:
    """From the kernel command line to a log that no restart interrupts, and that has an end.

    The VM boots from a root image here, and from an initrd below.
    """
    config = configuration(memory_mib, vcpus, accel, ("-w", *WORDS), BootForm.PMEM)
    with pytest.raises(VmError, match="QEMU"):
        await play_start(folder, image, config)
    check_log((folder / LOG_NAME).read_bytes())


async def play_start(folder: Path, image: Path, config: VmConfig) -> None:
    async with booted(folder, image, config) as (vm, opened, layers, stream):
        ports = Ports()
        async with open_bridge(stream) as client:
            here = Started(vm, client, ports, folder, opened, layers)
            await check_start(here, config.memory_mib)
            await check_writable(here)
            await mount_layers(LayerMounts(vm, client), whole(layers))
            greedy = await check_memory(here)
            (told,) = await here.logged("container ran out of memory")
            assert (told["cid"], told["oom_kill"]) == (greedy, 1)
            await check_disk(here)
            await here.close()
        await check_restart(here)


def check_log(data: bytes) -> None:
    """Each byte that came is of a line that is an object, from the first to the last."""
    *lines, rest = data.split(b"\n")
    assert rest == b""
    records = [json.loads(line) for line in lines]
    assert all({"time", "level", "msg"} <= set(record) for record in records)
    assert "powering off" in {record["msg"] for record in records}


async def check_start(here: Started, memory_mib: int) -> None:
    """The log began with the agent, it is in its cgroup, and containers have a limit."""
    (odd,) = await here.logged("command line")
    assert "-no-such-flag" in str(odd["what"])
    await here.logged("kmsg read")
    assert (await here.in_vm("cat", "/proc/sys/kernel/core_pattern")).strip() == CORES
    assert (await here.in_vm("cat", "/proc/self/cgroup")).strip() == "0::/gcs"
    on, known = (f"/sys/fs/cgroup/cgroup.{name}" for name in ("subtree_control", "controllers"))
    assert (await here.in_vm("cat", on)).split() == (await here.in_vm("cat", known)).split()
    part = "/proc/sys/vm/percpu_pagelist_high_fraction"
    assert int(await here.in_vm("cat", part)) == 1024
    stderr = ("sh", "-c", "readlink /proc/$PPID/fd/2")
    assert await here.in_vm(*stderr) == "/dev/kmsg\n"  # no last words of it in its log
    found = await here.properties(NULL_CONTAINER_ID, "Memory", "Load", "ProcessList")
    assert found.memory is not None
    assert found.load is not None
    assert 0 < found.memory.available_bytes < found.memory.total_bytes < memory_mib * MIB
    await check_limits(here, 75 * MIB)
    assert "init" in {process.image_name for process in found.process_list}
    request = ModificationRequest(
        request_type="Update",
        resource_type="PodCgroupMemoryLimit",
        settings=PodCgroupMemoryLimit(),
    )
    await call(here.client, ModifySettings(container_id=NULL_CONTAINER_ID, request=request))
    assert "reading entropy" not in (here.folder / "serial.log").read_text(errors="replace")


async def check_limits(here: Started, reserve: int) -> None:
    """All containers together have what the reserve leaves, and the agent has no limit."""
    memory = (await here.properties(NULL_CONTAINER_ID, "Memory")).memory
    assert memory is not None
    limit = int(await here.in_vm("cat", "/sys/fs/cgroup/pods/memory.max"))
    assert limit == memory.containers_limit_bytes // PAGE * PAGE  # as the kernel keeps it
    assert abs(memory.total_bytes - reserve - limit) < PAGE
    assert await here.in_vm("cat", "/sys/fs/cgroup/gcs/memory.max") == "max\n"


async def check_memory(here: Started) -> str:
    """A container that takes more than its limit dies alone, and is counted; return its id."""
    other = await here.container("sleep", "600", limit=32 * MIB)
    greedy = await here.container(*TAKE, "bs=128M", limit=64 * MIB)
    request = WaitForOutOfMemory(container_id=NULL_CONTAINER_ID, timeout_in_ms=60_000)
    (event,) = (await call(here.client, request)).events
    assert (event.number, event.container_id) == (1, greedy.cid)
    assert (event.oom_kill, event.limit) == (1, 64 * MIB)
    assert await greedy.init.wait() == 128 + 9
    counted = await here.statistics(greedy)
    assert counted.memory_oom_control == MemoryOomControl(oom_kill=1)
    assert counted.memory is not None
    assert counted.memory.usage.limit == 64 * MIB
    assert counted.memory.usage.failcnt > 0
    alive = await here.statistics(other)
    assert alive.memory_oom_control == MemoryOomControl()
    assert alive.memory is not None
    assert alive.memory.usage.limit == 32 * MIB
    assert alive.pids is not None
    assert alive.pids.current == 1
    assert alive.cpu is not None
    assert alive.cpu.usage.total > 0
    await check_new_limits(here, other)
    await greedy.wait_notification()
    await greedy.remove()
    return greedy.cid


async def check_disk(here: Started) -> None:
    """What a container has written to its disk is counted, by operation and device."""
    size = 8 * MIB
    writer = await here.container(
        *("dd", "if=/dev/zero", "of=/big", "bs=1M", "count=8", "conv=fsync")
    )
    said = await here.said(writer)
    assert await writer.init.wait() == 0, said
    counted = (await here.statistics(writer)).blkio
    assert counted is not None
    written = {e.device: e.value for e in counted.io_service_bytes_recursive if e.op == "Write"}
    assert size <= written["/dev/sda"] < 2 * size
    operations = {e.device: e.value for e in counted.io_serviced_recursive if e.op == "Write"}
    assert operations["/dev/sda"] > 0
    await writer.wait_notification()
    await writer.remove()


async def check_new_limits(here: Started, container: Container) -> None:
    """What is not named keeps its limit."""
    linux: dict[str, object] = {
        "memory": {"limit": 48 * MIB, "swap": 96 * MIB},
        "cpu": {"quota": 20_000, "period": 100_000},
    }
    request = ModificationRequest(
        request_type="Update",
        resource_type="ContainerConstraints",
        settings=ContainerConstraints(linux=linux),
    )
    await call(here.client, ModifySettings(container_id=container.cid, request=request))
    changed = await here.statistics(container)
    assert changed.memory is not None
    assert changed.memory.usage.limit == 48 * MIB
    folder = f"/sys/fs/cgroup/pods/{container.cid}"
    assert (await here.in_vm("cat", f"{folder}/cpu.max")).split() == ["20000", "100000"]


async def check_restart(here: Started) -> None:
    """An agent that is killed comes back, to the same log and to a new bridge."""
    with await here.vm.vsock.listen(BRIDGE_PORT) as listener:
        stream = await accept_bridge(listener)
    with await here.vm.vsock.listen(BRIDGE_PORT) as listener:
        async with open_bridge(stream) as client:
            here.client = client
            before = len(here.log())
            await here.vm.add_nic(0, _NIC.mac_address, {"type": "user"})
            await modify(client, RequestType.ADD, ResourceType.NETWORK, _NIC)
            assert "eth0" not in await here.in_vm("ip", "-o", "link")
            # Not before the agent has answered that it has started it.
            agent = ProcessParameters(
                command_args=("sh", "-c", "read -r _; kill -KILL $PPID"),
                working_directory="/",
                environment=PATH,
            )
            names = [StreamName.STDIN]
            process, streams = await run_in_vm(here.vm, client, agent, here.ports, names)
            async with streams[StreamName.STDIN]:
                pass
            with pytest.raises(DisconnectedError):
                await process.wait()
        again = await accept_bridge(listener)
    async with open_bridge(again) as here.client:
        assert (await here.in_vm("cat", "/proc/self/cgroup")).strip() == "0::/gcs"
        assert len(await here.logged("command line", 2)) == 2
        assert len(here.log()) > before
        # The NIC is there again, as soon as its namespace, which was nobody's, is gone.
        await modify(here.client, RequestType.ADD, ResourceType.NETWORK, _NIC)
        await power_off(here)


async def power_off(here: Started) -> None:
    """Have the VM end as it should: the agent says so, and everything is written out."""
    # It is not answered: first the agent ends, then the VM.
    with pytest.raises(DisconnectedError):
        await here.client.call(ShutdownForced(container_id=NULL_CONTAINER_ID))
    with trio.fail_after(60):
        await here.vm.qemu.wait()


async def test_a_relayed_log_outlives_its_connection_and_a_disk_the_power_off(
    folder: Path, image: Path, memory_mib: int, vcpus: int, accel: str
) -> None:
    """With -r and -w: the log is dialled again, and what was written is on the disk at last.

    The runtime is runc here, and crun above.
    """
    agent = ("/bin/gcs", "-v4", "-log-format", "json", "-loglevel", "debug")
    words = ("-w", "/bin/vsockexec", "-r", "-o", "109", "-e", "109", *agent)
    config = configuration(memory_mib, vcpus, accel, words, BootForm.INITRD)
    with open_scratch() as disk:
        with pytest.raises(VmError, match="QEMU"):
            await play_relayed(folder, await open_image(image), config, disk)
        path = f"/proc/{os.getpid()}/fd/{disk}"
        assert debugfs("cat /kept", path) == "kept\n"
        assert "needs_recovery" not in debugfs("features", path)


async def play_relayed(folder: Path, image: Image, config: VmConfig, disk: int) -> None:
    program = None if find_vhost_vsock() else str(find_vsock_program(None))
    layers = await ensure_layers(image, default_cache_dir(), progress=lambda _: None)
    async with open_vm(config, folder, vsock_program=program, scratch_fd=disk) as vm:
        with (
            await vm.vsock.listen(LOG_PORT) as log,
            await vm.vsock.listen(BRIDGE_PORT) as bridge,
        ):
            await vm.start()
            first = await log.accept()
            stream = await accept_bridge(bridge)
        async with open_bridge(stream) as client:
            here = Started(vm, client, Ports(), folder, image, layers)
            await check_relay(here, first)
            await check_writable(here)
            await mount_layers(LayerMounts(vm, client), whole(layers))
            await check_memory(here)
            await here.close()
            await here.in_vm("sh", "-c", "echo kept > /run/mounts/scsi/0_0_0/kept")
            await power_off(here)


async def check_relay(here: Started, first: trio.SocketStream) -> None:
    """Every line of both connections is whole."""
    seen = bytearray()
    with trio.fail_after(30):
        while b"bridge connected" not in seen:
            seen += await first.receive_some()
    with await here.vm.vsock.listen(LOG_PORT) as log:
        await first.aclose()
        with trio.fail_after(60):
            second = await until_accepted(here, log)
    again = bytearray()
    async with second:
        with trio.fail_after(30):
            while again.count(b"\n") < 3:
                await refused(here)
                again += await second.receive_some()
    for data in (seen, again):
        for line in data[: data.rfind(b"\n")].splitlines():
            assert {"time", "level", "msg"} <= set(json.loads(line))


async def until_accepted(here: Started, log: Listener) -> trio.SocketStream:
    """Have the agent say things until its relay has noticed and dials."""
    found: list[trio.SocketStream] = []

    async def accept() -> None:
        found.append(await log.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        while not found:
            await refused(here)
            await trio.sleep(0.2)
    return found[0]


async def refused(here: Started) -> None:
    """Ask for something that is not there: the agent logs that."""
    with pytest.raises(CallError):
        await call(here.client, GetProperties(container_id="nobody"))


async def check_writable(here: Started) -> None:
    """What is written to /etc and /var is there, and the rest of the root is as read-only."""
    script = "for d in /etc /var /usr; do echo x > $d/written && cat $d/written; done 2>&1"
    printed = (await here.in_vm("sh", "-c", script)).splitlines()
    assert printed[:2] == ["x", "x"]
    assert "Read-only" in printed[2]


def debugfs(command: str, path: str) -> str:
    """Look into a file system without mounting it."""
    argv = ["debugfs", "-R", command, path]
    environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    return subprocess.run(
        argv, capture_output=True, text=True, check=True, env=environment
    ).stdout
