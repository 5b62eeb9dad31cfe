"""Requests at the edge of what a host sends, in the VM: served, or refused in words."""

import secrets
import time

import pytest
import trio

from gcs.errors import CallError, Hresult
from gcs.host.bridge import call
from gcs.host.container import Container, rootfs_path
from gcs.host.spec import Command, User, runtime_spec
from gcs.wire import messages
from tests.support.patience import is_soon
from tests.support.shared_vm import SharedVm
from tests.vm.test_container import OUTPUTS, PORTS, in_vm

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

#: Of the image, in the guest, bottom first.
_LAYERS = tuple(f"/run/layers/p{n}" for n in range(7))
_MIB = 1024 * 1024
_VARIABLES = 10_000
#: What a stream that nobody listens on may take: 3 s, and what a busy machine adds.
_DEAD_PORT_S = 3.0 + 1.5


async def _create(vm: SharedVm, spec: dict[str, object], container: Container) -> None:
    await container.create(spec, _LAYERS)


def spec_for(vm: SharedVm, container: Container, *words: str) -> dict[str, object]:
    """Return the spec of a container that runs a command."""
    root = rootfs_path(container.cid)
    command = Command(arguments=words)
    return runtime_spec(vm.image.config, command, User(), container.cid, root)


async def _output(container: Container) -> bytes:
    """Run a created container to its end, remove it, and return its stdout."""
    streams = await container.start(PORTS, OUTPUTS, terminal=False)
    said = {name: bytearray() for name in streams}

    async def read(name: str, stream: trio.SocketStream) -> None:
        async with stream:
            async for data in stream:
                said[name] += data  # type: ignore[index] # a StreamName is a string

    async with trio.open_nursery() as nursery:
        for name, stream in streams.items():
            nursery.start_soon(read, name, stream)
    assert await container.init.wait() == 0
    await container.wait_notification()
    await container.remove()
    return bytes(said[OUTPUTS[0]])


def test_a_spec_of_a_mebibyte_is_served(vm_connected: SharedVm) -> None:
    """Annotations that fill a mebibyte reach the runtime, and the container runs."""
    container = vm_connected.container(secrets.token_hex(32))
    spec = spec_for(vm_connected, container, "echo", "large")
    spec["annotations"] = {f"com.example/{n}": "x" * 1024 for n in range(_MIB // 1024)}
    vm_connected.call(_create, vm_connected, spec, container)
    assert vm_connected.call(_output, container) == b"large\n"


def test_ten_thousand_variables_are_served(vm_connected: SharedVm) -> None:
    """Each of them is in the container's environment."""
    container = vm_connected.container(secrets.token_hex(32))
    spec = spec_for(vm_connected, container, "sh", "-c", "env | wc -l")
    process = spec["process"]
    assert isinstance(process, dict)
    process["env"] += [f"VARIABLE_{n}=value" for n in range(_VARIABLES)]
    vm_connected.call(_create, vm_connected, spec, container)
    # Over PATH, HOSTNAME and what the shell adds.
    assert _VARIABLES < int(vm_connected.call(_output, container)) < _VARIABLES + 10


def test_a_deep_document_is_served(vm_connected: SharedVm) -> None:
    """A spec with an unknown member sixty levels deep reaches the runtime, which ignores it."""
    container = vm_connected.container(secrets.token_hex(32))
    spec = spec_for(vm_connected, container, "echo", "deep")
    nested: dict[str, object] = {}
    for _ in range(60):
        nested = {"level": nested}
    spec["unknown"] = nested
    vm_connected.call(_create, vm_connected, spec, container)
    assert vm_connected.call(_output, container) == b"deep\n"


async def _exec_into_nowhere(vm: SharedVm, cid: str) -> tuple[CallError, float]:
    settings = messages.ExecuteProcessSettings(
        process_parameters=messages.ProcessParameters(
            oci_process={"cwd": "/", "args": ["true"], "env": []}, create_std_out_pipe=True
        ),
        vsock_stdio_relay_settings=messages.VsockStdioRelaySettings(std_out=PORTS.take()),
    )
    began = time.monotonic()
    with pytest.raises(CallError) as caught:
        await call(vm.client, messages.ExecuteProcess(container_id=cid, settings=settings))
    return caught.value, time.monotonic() - began


@pytest.mark.parametrize("command", [("sleep", "600")])
def test_a_port_that_nobody_listens_on_fails_its_exec_soon(
    vm_connected: SharedVm, container: Container
) -> None:
    """The exec is refused with the port in the text, and the process never started."""
    vm_connected.call(_start, container)

    def measure() -> float:
        error, seconds = vm_connected.call(_exec_into_nowhere, vm_connected, container.cid)
        assert error.result in (Hresult.TIMEOUT, Hresult.FAIL)
        assert "port" in error.message
        return seconds

    assert is_soon(measure, _DEAD_PORT_S)
    assert " true" not in in_vm(vm_connected, "ps", "-o", "pid,args")
    vm_connected.call(container.init.signal, 9)
    assert vm_connected.call(container.init.wait) == 137
    vm_connected.call(container.wait_notification)


async def _start(container: Container) -> None:
    await container.start(PORTS, (), terminal=False)


#: The limits of a process of the VM, and those of the agent, which has started it.
_LIMITS = r"""
for pid in self $PPID; do
  sed -n 's/^Max open files *//p' /proc/$pid/limits
  cat /proc/$pid/oom_score_adj
done
"""


def test_the_agent_has_more_than_its_processes(vm_connected: SharedVm) -> None:
    """They have what the kernel gives every process, the agent what many streams take."""
    words = in_vm(vm_connected, "sh", "-c", _LIMITS).replace("files", "").split()
    soft, hard, score, own_soft, own_hard, own_score = map(int, words)
    assert (soft, score) == (1024, 0)
    assert own_soft == own_hard == max(hard, 65_536)
    assert own_score == -999
