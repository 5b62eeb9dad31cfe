"""The other OCI runtime, in a VM whose agent was told to use it."""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from gcs.errors import CallError, Hresult
from gcs.host.bridge import call
from gcs.host.container import CommandRefusedError, Container, rootfs_path
from gcs.host.spec import Command, User, exec_process, runtime_spec
from gcs.wire import messages
from gcs.wire.control import StreamName
from tests.support.shared_vm import SharedVm
from tests.vm.test_container import PORTS, in_vm

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

#: Of the image, in the guest, bottom first.
_LAYERS = tuple(f"/run/layers/p{n}" for n in range(7))


@pytest.fixture(scope="module")
def crun_vm(vm: SharedVm) -> Iterator[SharedVm]:
    """A VM of its own, its layers mounted."""
    config = replace(vm.config, init_args=("/bin/gcs", "-v4", "-runtime", "crun"))
    folder = Path(tempfile.mkdtemp(prefix="gcs-vm-", dir="/tmp"))
    machine = SharedVm(config, folder, vm.vsock_program, vm.image_path)
    machine.boot()
    machine.connect()
    yield machine
    machine.stop()
    shutil.rmtree(folder)


async def _create(vm: SharedVm, *words: str) -> tuple[Container, dict[str, object]]:
    container = vm.container(secrets.token_hex(32))
    root = rootfs_path(container.cid)
    wish = Command(arguments=words)
    spec = runtime_spec(vm.image.config, wish, User(), container.cid, root)
    await container.create(spec, _LAYERS)
    process = spec["process"]
    assert isinstance(process, dict)
    return container, process


async def _read(stream: trio.SocketStream) -> bytes:
    async with stream:
        return b"".join([bytes(data) async for data in stream])


async def _end(container: Container) -> int:
    status = await container.init.wait()
    await container.wait_notification()
    await container.remove()
    return status


async def _live(vm: SharedVm) -> tuple[bytes, bytes, int, int]:
    """Run a container and an exec in it; return what both say and how both end."""
    container, process = await _create(vm, "sh", "-c", "echo $$; read -r _; exit 7")
    names = (StreamName.STDIN, StreamName.STDOUT)
    streams = await container.start(PORTS, names, terminal=False)
    # The runtime has started it before it has become its program.
    own = await streams[StreamName.STDOUT].receive_some()
    wish = Command(arguments=("sh", "-c", "cat /proc/1/comm; exit 5"))
    joined = exec_process(process, wish, None, "")
    other, outputs = await container.execute(PORTS, (StreamName.STDOUT,), joined)
    said = await _read(outputs[StreamName.STDOUT])
    status = await other.wait()
    async with streams[StreamName.STDIN] as stdin:
        await stdin.send_all(b"go\n")
    own += await _read(streams[StreamName.STDOUT])
    return bytes(own), said, status, await _end(container)


def test_a_container_and_an_exec_run_under_crun(crun_vm: SharedVm) -> None:
    """Their streams and statuses are those that runc gives."""
    assert crun_vm.call(_live, crun_vm) == (b"1\n", b"sh\n", 5, 7)
    # It keeps its containers' state where runc has nothing.
    assert "crun" in in_vm(crun_vm, "sh", "-c", "ls /run")


async def _terminated(vm: SharedVm) -> int:
    container, _ = await _create(vm, "sh", "-c", "kill -TERM $$; exec sleep 600")
    await container.start(PORTS, (), terminal=False)
    await container.init.signal(9)
    return await _end(container)


def test_a_signal_is_128_and_its_number(crun_vm: SharedVm) -> None:
    """SIGTERM is nothing to a shell that is a pid 1; SIGKILL is its end."""
    assert crun_vm.call(_terminated, crun_vm) == 137


async def _run_missing(vm: SharedVm) -> None:
    container, _ = await _create(vm, "no-such-command")
    await container.start(PORTS, (), terminal=False)


async def _refused(vm: SharedVm) -> tuple[int, int]:
    with pytest.raises(CommandRefusedError) as at_create:
        await _run_missing(vm)
    container, process = await _create(vm, "sleep", "600")
    await container.start(PORTS, (), terminal=False)
    joined = exec_process(process, Command(arguments=("no-such-command",)), None, "")
    with pytest.raises(CommandRefusedError) as at_exec:
        await container.execute(PORTS, (StreamName.STDOUT,), joined)
    await container.init.signal(9)
    assert await _end(container) == 137
    return at_create.value.exit_status, at_exec.value.exit_status


def test_a_missing_command_is_told_as_with_runc(crun_vm: SharedVm) -> None:
    """127, for a container and for an exec."""
    assert crun_vm.call(_refused, crun_vm) == (127, 127)


async def _unknown(vm: SharedVm) -> CallError:
    with pytest.raises(CallError) as caught:
        await call(vm.client, messages.DeleteContainerState(container_id="nobody"))
    return caught.value


def test_an_unknown_container_is_not_found(crun_vm: SharedVm) -> None:
    """The code that hosts act on does not depend on the runtime."""
    assert crun_vm.call(_unknown, crun_vm).result == Hresult.SYSTEM_NOT_FOUND
