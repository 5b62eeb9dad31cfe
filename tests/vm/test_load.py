"""Many containers one after the other, and many execs at once, in one VM."""

import os
import secrets
import signal
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import pytest
import trio

from gcs.host.container import Container, rootfs_path
from gcs.host.spec import Command, User, runtime_spec
from gcs.wire import messages
from tests.support.patience import nothing_grows
from tests.support.shared_vm import SharedVm
from tests.vm.test_container import OUTPUTS, PORTS, in_vm

IS_SOAK = bool(os.environ.get("GCS_SOAK"))
#: Containers of the leak test, and execs at once; the second number is the full count.
_CONTAINERS = 200 if IS_SOAK else 6
_EXECS = 100 if IS_SOAK else 20
#: Of the image, in the guest, bottom first.
_LAYERS = tuple(f"/run/layers/p{n}" for n in range(7))
#: Growth of the agent's resident memory that is no leak: the allocator's own steps.
_STEADY_KIB = 1024
#: A kill is answered at once: no runtime process and no thread is between.
_KILL_S, _SIGNAL_EACH_S = 3.0, 0.2

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600 if IS_SOAK else 600)]

#: Each line is a name and a count; what is counted is what containers may leave behind.
_COUNT = r"""
agent=$PPID
echo mounts $(wc -l </proc/mounts)
echo cgroups $(find /sys/fs/cgroup -type d | wc -l)
echo zombies $(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l)
echo descriptors $(ls /proc/$agent/fd | wc -l)
echo threads $(ls /proc/$agent/task | wc -l)
echo files $(find /run /tmp | grep -v '^/run/layers/\|/lower/' | wc -l)
echo resident $(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' /proc/$agent/status)
"""


def _count(vm: SharedVm) -> dict[str, int]:
    lines = in_vm(vm, "sh", "-c", _COUNT).splitlines()
    found = {name: int(number) for name, number in (line.split() for line in lines)}
    assert found["resident"] > 0, "the agent was not found"
    return found


async def _live_and_die(vm: SharedVm) -> None:
    """Create, run, read, wait for and remove one container."""
    cid = secrets.token_hex(32)
    container = vm.container(cid)
    command = Command(arguments=("sh", "-c", "echo $$; cat /proc/mounts | head -1"))
    spec = runtime_spec(vm.image.config, command, User(), cid, rootfs_path(cid))
    await container.create(spec, _LAYERS)
    streams = await container.start(PORTS, OUTPUTS, terminal=False)
    for stream in streams.values():
        async with stream:
            async for _ in stream:
                pass
    assert await container.init.wait() == 0
    await container.wait_notification()
    await container.remove()


def test_containers_leave_nothing_behind(
    vm_connected: SharedVm, record_property: Callable[[str, object], None]
) -> None:
    """Not a mount, cgroup, zombie, descriptor, folder, nor steadily growing memory."""
    for _ in range(3):
        vm_connected.call(_live_and_die, vm_connected)
    before = _count(vm_connected)
    for _ in range(_CONTAINERS):
        vm_connected.call(_live_and_die, vm_connected)
    first = before.pop("resident")
    # Cached threads of the event loop may have come.
    before["threads"] += 3
    nothing_grows(before, lambda: _count(vm_connected))
    resident = _count(vm_connected)["resident"]
    grown = resident - first
    record_property("containers", _CONTAINERS)
    record_property("resident KiB of the agent at the end", resident)
    record_property("grown by KiB", grown)
    assert grown <= _STEADY_KIB, f"{grown} KiB after {_CONTAINERS} containers"


async def _exec(vm: SharedVm, cid: str, *, is_read: bool) -> None:
    """Run one exec; when it is not to be read, its stream is accepted and left alone."""
    port = PORTS.take()
    script = "echo out; echo $((6*7))" if is_read else "head -c 1000000 /dev/zero; echo out"
    process: dict[str, object] = {"cwd": "/", "args": ["sh", "-c", script]}
    process["env"] = ["PATH=/bin:/usr/bin"]
    with await vm.vm.vsock.listen(port) as listener:
        settings = messages.ExecuteProcessSettings(
            process_parameters=messages.ProcessParameters(
                oci_process=process, create_std_out_pipe=True
            ),
            vsock_stdio_relay_settings=messages.VsockStdioRelaySettings(std_out=port),
        )
        request = messages.ExecuteProcess(container_id=cid, settings=settings)
        async with trio.open_nursery() as nursery:
            said = bytearray()

            async def read() -> None:
                stream = await listener.accept()
                async with stream:
                    if is_read:
                        async for data in stream:
                            said.extend(data)
                    else:
                        await trio.sleep_forever()

            nursery.start_soon(read)
            reply = await vm.client.call(request)
            wait = messages.WaitForProcess(
                container_id=cid, process_id=reply.process_id, timeout_in_ms=0xFFFFFFFF
            )
            assert (await vm.client.call(wait)).exit_code == 0
        assert said == b"out\n42\n"


async def _execs_beside_a_stalled_reader(vm: SharedVm, container: Container) -> float:
    """Return the seconds that a signal took while the execs were at work: their median."""
    answered: list[float] = []

    async def send_signals() -> None:
        while True:
            await trio.sleep(_SIGNAL_EACH_S)
            began = time.monotonic()
            await container.init.signal(signal.SIGCONT)
            answered.append(time.monotonic() - began)

    async with trio.open_nursery() as beside:
        beside.start_soon(partial(_exec, vm, container.cid, is_read=False))
        beside.start_soon(send_signals)
        async with trio.open_nursery() as nursery:
            for _ in range(_EXECS - 1):
                nursery.start_soon(partial(_exec, vm, container.cid, is_read=True))
        beside.cancel_scope.cancel()
    assert answered, "the execs were over too soon"
    return median(answered)


@pytest.mark.alone
@pytest.mark.parametrize("command", [("sleep", "6000")])
def test_execs_at_once_all_finish_and_a_kill_does_not_wait(
    vm_connected: SharedVm,
    container: Container,
    record_property: Callable[[str, object], None],
) -> None:
    """One of them is never read: the others finish, and a signal meanwhile is answered."""
    vm_connected.call(_start, container)
    began = time.monotonic()
    answered = vm_connected.call_long(_execs_beside_a_stalled_reader, vm_connected, container)
    record_property("execs", _EXECS)
    record_property("seconds for all", round(time.monotonic() - began, 1))
    record_property("seconds of the signal", round(answered, 2))
    vm_connected.call(container.init.signal, 9)
    assert vm_connected.call(container.init.wait) == 137
    vm_connected.call(container.wait_notification)
    assert answered < _KILL_S


async def _start(container: Container) -> None:
    await container.start(PORTS, (), terminal=False)
