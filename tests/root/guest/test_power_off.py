"""The shutdown of the VM: containers end first, and nothing keeps it from going."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from gcs.errors import CallError, DisconnectedError, Hresult
from gcs.host.client import Client
from gcs.wire.messages import DumpStacks, ExecuteProcess, ShutdownForced, ShutdownGraceful
from gcs.wire.schema import Reply, Request
from tests.support.agent import VM, AgentHost, Streams, open_agent, vm_process
from tests.support.scenario import check_log, logged

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

#: PID 1 in short: it starts the agent, and powers off on SIGTERM.
_INIT = 'trap "echo off >$0; exit" TERM; "$@" & while :; do wait; done'


#: In which a container that listens ends for certain.
_GRACE_S = 4.0
#: Less than what is not to be waited for.
_LIMIT_S = 100.0


@dataclass
class Machine:
    """An agent below a PID 1 of its own."""

    host: AgentHost
    client: Client
    off: Path

    async def power_off(self, request: Request[Reply]) -> None:
        """Ask for it; there is no reply, and PID 1 is told within a limit."""
        with trio.fail_after(_LIMIT_S), pytest.raises(DisconnectedError):
            await self.client.call(request)
        assert self.off.read_text() == "off\n"


@asynccontextmanager
async def machine(folder: Path, before: str = "") -> AsyncIterator[Machine]:
    """Start an agent below a PID 1."""
    off = folder / "off"
    init = ("sh", "-c", _INIT, str(off))
    async with (
        open_agent(folder, (), before, init) as host,
        host.connected() as client,
    ):
        with trio.fail_after(240):
            yield Machine(host, client, off)
    check_log(folder)


def grace(stop_s: float) -> str:
    """Return Python that sets how long containers have."""
    return f"from gcs.guest.handlers import container as c; c._STOP_GRACE_S = {stop_s}"


async def test_running_containers_are_stopped_first(tmp_path: Path) -> None:
    """By SIGTERM, and SIGKILL when it is ignored or they were never started."""
    polite = 'trap "echo bye >/bye; exit 0" TERM; echo up; while :; do sleep 0.05; done'
    deaf = 'trap "" TERM; echo up; while :; do sleep 0.05; done'
    async with machine(tmp_path, grace(_GRACE_S)) as vm:
        for name, script in (("polite", polite), ("deaf", deaf)):
            await vm.host.create(vm.client, name, "sh", "-c", script)
            streams = Streams()
            await vm.host.execute(vm.client, name, streams)
            await streams.has_printed(b"up")
        await vm.host.create(vm.client, "unstarted", "true")
        began = trio.current_time()
        await vm.power_off(ShutdownGraceful(container_id=VM))
        assert trio.current_time() - began >= _GRACE_S
        assert (vm.host.rootfs / "bye").read_text() == "bye\n"
    ended = {r["cid"]: r["status"] for r in logged(tmp_path) if r["msg"] == "container exited"}
    assert ended == {"polite": 0, "deaf": 137, "unstarted": 137}


async def test_a_forced_shutdown_waits_for_nobody(tmp_path: Path) -> None:
    """Containers get SIGKILL at once."""
    async with machine(tmp_path, grace(1000.0)) as vm:
        await vm.host.create(vm.client, "deaf", "sh", "-c", 'trap "" TERM; sleep 100')
        await vm.client.call(ExecuteProcess(container_id="deaf"))
        await vm.power_off(ShutdownForced(container_id=VM))


async def test_a_forced_shutdown_ends_a_graceful_one(tmp_path: Path) -> None:
    """A host that has lost patience need not wait for the grace; nothing is started then."""
    async with machine(tmp_path, grace(1000.0)) as vm:
        await vm.host.create(vm.client, "deaf", "sh", "-c", 'trap "" TERM; sleep 100')
        await vm.client.call(ExecuteProcess(container_id="deaf"))
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(DisconnectedError):
                    await vm.client.call(ShutdownGraceful(container_id=VM))

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.1)
            await vm.client.call(DumpStacks())  # so that the other has begun
            for request in (
                vm.host.create_request("late", vm.host.spec("true")),
                ExecuteProcess(container_id="deaf"),
                ExecuteProcess(container_id=VM),
            ):
                with pytest.raises(CallError, match="powering off") as caught:
                    await vm.client.call(request)
                assert caught.value.result == Hresult.INVALID_STATE
            await vm.power_off(ShutdownForced(container_id=VM))


async def test_a_disk_that_hangs_does_not_keep_the_vm(tmp_path: Path) -> None:
    """File systems are written out before PID 1 hears of it, but only within a limit."""
    stuck = "import os, time; os.sync = lambda: time.sleep(1000)\n"
    limit = "from gcs.guest.handlers import container as c; c._SYNC_TIMEOUT_S = 0.5"
    async with machine(tmp_path, stuck + limit) as vm:
        await vm.host.execute(vm.client, VM, Streams(), vm_process("/bin/sleep", "100"))
        began = trio.current_time()
        await vm.power_off(ShutdownGraceful(container_id=VM))
        assert trio.current_time() - began >= 0.5
    assert "file systems not written out" in [record["msg"] for record in logged(tmp_path)]
