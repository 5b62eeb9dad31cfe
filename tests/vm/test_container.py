"""Containers in one shared VM, over the bridge."""

import re
from collections.abc import Mapping, Sequence

import pytest
import trio

from gcs.host.container import Container
from gcs.host.vsock import Ports
from gcs.wire import messages
from gcs.wire.control import StreamName
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.support.shared_vm import SharedVm

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

PORTS = Ports()
OUTPUTS = (StreamName.STDOUT, StreamName.STDERR)


async def _read_all(streams: Mapping[StreamName, trio.SocketStream]) -> dict[str, bytes]:
    found = dict.fromkeys(streams, b"")

    async def read(name: StreamName) -> None:
        async with streams[name] as stream:
            async for data in stream:
                found[name] += data

    async with trio.open_nursery() as nursery:
        for name in streams:
            nursery.start_soon(read, name)
    return {str(name): data for name, data in found.items()}


async def run(container: Container) -> tuple[int, dict[str, bytes]]:
    """Start a container and see it to its end; return its status and what it printed."""
    streams = await container.start(PORTS, OUTPUTS, terminal=False)
    said = await _read_all(streams)
    status = await container.init.wait()
    await container.wait_notification()
    return status, said


def in_vm(vm: SharedVm, *words: str) -> str:
    """Run a program of the VM itself, and return what it printed."""
    return vm.call(_run_in_vm, vm, words).decode()


async def _run_in_vm(vm: SharedVm, words: Sequence[str]) -> bytes:
    port = PORTS.take()
    with await vm.vm.vsock.listen(port) as listener:
        request = messages.ExecuteProcess(
            container_id=NULL_CONTAINER_ID,
            settings=messages.ExecuteProcessSettings(
                process_parameters=messages.ProcessParameters(
                    command_args=tuple(words),
                    working_directory="/",
                    environment={"PATH": "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"},
                    create_std_out_pipe=True,
                ),
                vsock_stdio_relay_settings=messages.VsockStdioRelaySettings(std_out=port),
            ),
        )
        reply = await vm.client.call(request)
        said = await _read_all({StreamName.STDOUT: await listener.accept()})
    wait = messages.WaitForProcess(
        container_id=NULL_CONTAINER_ID, process_id=reply.process_id, timeout_in_ms=60_000
    )
    assert (await vm.client.call(wait)).exit_code == 0
    return said[StreamName.STDOUT]


@pytest.mark.parametrize("command", [("sh", "-c", "echo x >/dev/stdout; exit 7")])
def test_stdout_can_be_opened_by_name(vm_connected: SharedVm, container: Container) -> None:
    """Images that log to /dev/stdout work: it is a pipe, not a socket."""
    assert vm_connected.call(run, container) == (7, {"stdout": b"x\n", "stderr": b""})


@pytest.mark.parametrize("command", [("sh", "-c", "sh -c 'kill -TERM $$'")])
def test_a_process_killed_by_sigterm_gives_143(
    vm_connected: SharedVm, container: Container
) -> None:
    """128 and the number of the signal, as every shell has it."""
    status, _ = vm_connected.call(run, container)
    assert status == 143


@pytest.mark.parametrize("command", [("cat", "/proc/mounts")])
def test_the_root_is_an_overlay_of_seven_layers(
    vm_connected: SharedVm, container: Container
) -> None:
    """The topmost layer comes first, and the upper directory is on the scratch disk."""
    status, said = vm_connected.call(run, container)
    assert status == 0
    (root,) = re.findall(r"^overlay / overlay (\S+) ", said["stdout"].decode(), re.MULTILINE)
    options = dict(option.partition("=")[::2] for option in root.split(","))
    assert options["lowerdir"].split(":") == [f"/run/layers/p{n}" for n in reversed(range(7))]
    assert options["upperdir"] == f"/run/mounts/scsi/0_0_0/scratch/{container.cid}/upper"


@pytest.mark.parametrize("command", [("cat", "/proc/self/status")])
def test_a_containers_process_is_confined(vm_connected: SharedVm, container: Container) -> None:
    """seccomp filters it, it gains no privileges, and its capabilities are the default ones."""
    status, said = vm_connected.call(run, container)
    assert status == 0
    fields = dict(line.split(":\t") for line in said["stdout"].decode().splitlines())
    assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "1")
    # containerd's fourteen, as the mask that /proc shows.
    assert fields["CapBnd"] == fields["CapEff"] == "00000000a80425fb"


def test_seven_layers_are_mounted_from_persistent_memory_with_dax(
    vm_connected: SharedVm,
) -> None:
    """Each from a device of its own, read-only, without a copy in the guest's page cache.

    The first device is the root's, in the form that has one.
    """
    mounts = in_vm(vm_connected, "cat", "/proc/mounts").splitlines()
    layers = [line.split() for line in mounts if " /run/layers/" in line]
    assert sorted(fields[1] for fields in layers) == [f"/run/layers/p{n}" for n in range(7)]
    first = 0 if vm_connected.config.root_image is None else 1
    devices = [f"/dev/pmem{n}" for n in range(first, first + 7)]
    assert sorted(fields[0] for fields in layers) == devices
    for fields in layers:
        assert fields[2] == "ext4"
        assert {"ro", "dax=always"} <= set(fields[3].split(",")), fields
    scratch = [line.split() for line in mounts if " /run/mounts/scsi/0_0_0 " in line]
    assert [fields[:3] for fields in scratch] == [
        ["/dev/sda", "/run/mounts/scsi/0_0_0", "ext4"]
    ]


@pytest.mark.parametrize("command", [("sleep", "600")])
def test_the_vm_runs_the_agent_and_the_containers_process(
    vm_connected: SharedVm, container: Container
) -> None:
    """`ps` in the VM shows both, and a signal ends the container with 137."""
    vm_connected.call(_start, container)
    pid = container.init.process_id
    # The runtime has started it before it has become its program.
    until = f"ps -o pid,args | grep -q '^ *{pid} sleep 600' && break"
    script = f"for i in $(seq 600); do {until}; sleep 0.1; done; ps -o pid,args"
    listing = in_vm(vm_connected, "sh", "-c", script)
    assert re.search(r"\d+ .*gcs", listing), listing
    assert re.search(rf"\b{pid} sleep 600", listing), listing
    vm_connected.call(container.init.signal, 9)
    assert vm_connected.call(container.init.wait) == 137
    vm_connected.call(container.wait_notification)


async def _start(container: Container) -> None:
    await container.start(PORTS, (), terminal=False)


@pytest.mark.parametrize("command", [("sh", "-c", "echo mine > /file; cat /file")])
def test_what_a_container_writes_is_its_own(
    vm_connected: SharedVm, container: Container
) -> None:
    """A file that one container writes to its root is on the scratch disk, not in a layer."""
    status, said = vm_connected.call(run, container)
    assert (status, said["stdout"]) == (0, b"mine\n")
    upper = f"/run/mounts/scsi/0_0_0/scratch/{container.cid}/upper/file"
    assert in_vm(vm_connected, "cat", upper) == "mine\n"
