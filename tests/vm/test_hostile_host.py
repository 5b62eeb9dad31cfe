"""One VM against a host that sends garbage, comes back, and at last powers it off."""

import json
import os
import random
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from gcs.errors import DisconnectedError
from gcs.host.bridge import open_bridge
from gcs.host.client import Client
from gcs.host.qemu import VmConfig
from gcs.host.vm import Vm, VmError, open_vm
from gcs.host.vsock import BRIDGE_PORT
from gcs.wire import messages
from gcs.wire.frame import MAX_HOST_FRAME
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.support.shared_vm import SharedVm

IS_SOAK = bool(os.environ.get("GCS_SOAK"))
#: Connections full of garbage; `make soak` sends all thousand.
_CONNECTIONS = 1000 if IS_SOAK else 40

#: Each connection takes half a second of waiting for more, and a tenth for the next dial.
pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600 if IS_SOAK else 400)]

_BOOT_S, _STEP_S = 180.0, 30.0
_NEGOTIATE = b'{"MinimumVersion":4,"MaximumVersion":4}'


def _frame(word: int, payload: bytes, message_id: int = 1, size: int | None = None) -> bytes:
    return struct.pack("<IIQ", word, size or 16 + len(payload), message_id) + payload


#: What a broken or hostile host may send; the agent answers or closes, and serves the next one.
TORN = _frame(0x10100B01, _NEGOTIATE)[:-5]
HOSTILE = {
    "nothing": b"",
    "a torn frame": TORN,
    "a header alone": _frame(0x10100B01, b"", size=100),
    "size 0": struct.pack("<IIQ", 0x10100B01, 0, 1),
    "size 4": _frame(0x10100B01, b"", size=4),
    "size 2 GiB": _frame(0x10100B01, b"", size=2**31),
    "over the limit": _frame(0x10100B01, b"", size=MAX_HOST_FRAME + 1),
    "no payload": _frame(0x10100B01, b""),
    "a reply": _frame(0x20100B01, b"{}"),
    "a notification": _frame(0x30100101, b"{}"),
    "another version": _frame(0x10100B02, _NEGOTIATE),
    "another category": _frame(0x10200101, b"{}"),
    "version 3": _frame(0x10100B01, b'{"MinimumVersion":3,"MaximumVersion":3}'),
    "wrong types": _frame(0x10100B01, b'{"MinimumVersion":"4","MaximumVersion":[]}'),
    "not JSON": _frame(0x10100B01, b"\xff" * 200),
    "deep JSON": _frame(0x10100B01, b'{"a":' * 60_000),
    "one id twice": _frame(0x10100B01, _NEGOTIATE)
    + _frame(
        0x10100601,
        json.dumps(
            {"ContainerId": NULL_CONTAINER_ID, "ProcessId": 1, "TimeoutInMs": 2**32 - 1}
        ).encode(),
        2,
    )
    * 2,
}


async def _is_over(stream: trio.SocketStream) -> None:
    """Read until the agent closes, or has nothing more to say."""
    with trio.move_on_after(0.5):
        while await stream.receive_some(65536):
            pass


async def _throw(vm: Vm, data: bytes) -> None:
    """Accept the agent's next dial, send it that, and leave."""
    with await vm.vsock.listen(BRIDGE_PORT) as listener:
        with trio.fail_after(_STEP_S):
            stream = await listener.accept()
    async with stream:
        try:
            await stream.send_all(data)
            await _is_over(stream)
        except trio.BrokenResourceError:
            return  # the agent closed before it had read everything, as it may


@asynccontextmanager
async def _connected(vm: Vm) -> AsyncIterator[Client]:
    with await vm.vsock.listen(BRIDGE_PORT) as listener:
        with trio.fail_after(_BOOT_S):
            stream = await listener.accept()
    async with open_bridge(stream) as client:
        yield client


async def _agent_pid(vm: Vm, client: Client) -> bytes:
    """Return the pid of the agent, told by a process of the VM that it started."""
    with await vm.vsock.listen(BRIDGE_PORT + 1) as listener:
        parameters = messages.ProcessParameters(
            command_args=("sh", "-c", "echo $PPID"),
            environment={"PATH": "/bin"},
            create_std_out_pipe=True,
        )
        settings = messages.ExecuteProcessSettings(
            process_parameters=parameters,
            vsock_stdio_relay_settings=messages.VsockStdioRelaySettings(
                std_out=BRIDGE_PORT + 1
            ),
        )
        request = messages.ExecuteProcess(container_id=NULL_CONTAINER_ID, settings=settings)
        await client.call(request)
        async with await listener.accept() as stream:
            return b"".join([bytes(data) async for data in stream])


async def _scenario(config: VmConfig, folder: Path, program: str | None) -> None:
    numbers = random.Random(4)
    async with open_vm(config, folder, vsock_program=program) as vm:
        with await vm.vsock.listen(BRIDGE_PORT) as listener:
            await vm.start()
            with trio.fail_after(_BOOT_S):
                stream = await listener.accept()
        async with open_bridge(stream) as client:
            pid = await _agent_pid(vm, client)
        for data in HOSTILE.values():
            await _throw(vm, data)
        for _ in range(_CONNECTIONS):
            await _throw(vm, numbers.randbytes(numbers.randrange(1, 4096)))
        async with _connected(vm) as client:
            assert await _agent_pid(vm, client) == pid, "the agent was restarted"
            # It is not answered: first the agent ends, then the VM.
            with trio.fail_after(_STEP_S), pytest.raises(DisconnectedError):
                await client.call(messages.ShutdownGraceful(container_id=NULL_CONTAINER_ID))
            with trio.fail_after(_STEP_S):
                await vm.qemu.wait()


def test_the_agent_outlives_every_hostile_host_and_powers_off(vm: SharedVm) -> None:
    """After all of it the same agent serves the next host, and a shutdown ends the VM."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as name:
        with pytest.raises(VmError, match="QEMU ended"):
            trio.run(_scenario, vm.config, Path(name), vm.vsock_program)
        console = (Path(name) / "serial.log").read_text(errors="replace").splitlines()
    for line in console:
        if line.startswith("["):
            continue  # the kernel's own
        assert "stack" not in json.loads(line), line
