"""GetProperties against a made-up cgroup tree and processes of our own."""

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing

from gcs.errors import DeadlineError
from gcs.guest import dispatch, reads
from gcs.guest.agent import Agent, Container, State
from gcs.guest.process import Process
from gcs.guest.reaper import Children
from gcs.guest.runc import Runc
from gcs.guest.transport import UnixTransport
from gcs.linux import cgroup
from gcs.wire.messages import (
    GetProperties,
    GetPropertiesReply,
    SignalOptions,
    SignalProcess,
)
from gcs.wire.properties import Properties, PropertyQuery
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.support.cgroups import MIB, make_cgroup
from tests.support.requests import call


@pytest.fixture
async def agent(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Agent]:
    """Return an agent with a container `c` whose cgroup is made up."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    make_cgroup(tmp_path / "pods/c")
    children = Children()
    agent = Agent(UnixTransport(Path("/nowhere")), children, Runc(children), nursery)
    agent.containers["c"] = Container(
        "c", "/run/c", "", activity_id="", state=State.RUNNING, cgroup="/pods/c"
    )
    yield agent
    agent.kept.close()


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process that does nothing for long."""
    with subprocess.Popen(["sleep", "300"]) as process:
        yield process
        process.kill()


async def read(agent: Agent, *names: str, container: str = "c") -> Properties:
    query = PropertyQuery(property_types=names)
    reply = await call(agent, GetProperties(container_id=container, query=query))
    assert isinstance(reply, GetPropertiesReply)
    return reply.properties


async def test_nothing_is_read_that_was_not_asked_for(agent: Agent) -> None:
    """Names that are not known are left out, and those of the VM are not a container's."""
    assert await read(agent) == Properties()
    assert await read(agent, "Odd", "Memory", "Load", "GuestMemory") == Properties()
    assert await read(agent, "Odd", container=NULL_CONTAINER_ID) == Properties()


async def test_processes_have_their_particulars(
    agent: Agent, tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    """Name, start, times and memory, in the units that hosts read."""
    (tmp_path / "pods/c/cgroup.procs").write_text(f"{sleeper.pid}\n")
    (listed,) = (await read(agent, "ProcessList")).process_list
    assert (listed.process_id, listed.image_name) == (sleeper.pid, "sleep")
    started = datetime.fromisoformat(listed.create_timestamp)
    assert abs(datetime.now(UTC) - started) < timedelta(minutes=1)
    assert listed.memory_commit_bytes > 0
    resident = listed.memory_working_set_private_bytes + listed.memory_working_set_shared_bytes
    assert 0 < resident < 64 * MIB
    assert listed.kernel_time_100ns + listed.user_time_100ns < 600_000_000


@pytest.fixture
def oddly_named(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process under a name that is long and clears terminals."""
    program = tmp_path / ("\x1b[2J\udcff" + "é" * 40)
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "300"]) as process:
        yield process
        process.kill()


async def test_a_name_is_short_and_can_be_shown(
    agent: Agent, tmp_path: Path, oddly_named: "subprocess.Popen[bytes]"
) -> None:
    """A process gives itself any name it likes."""
    (tmp_path / "pods/c/cgroup.procs").write_text(f"{oddly_named.pid}\n")
    (listed,) = (await read(agent, "ProcessList")).process_list
    assert listed.image_name.startswith("?[2J?é")
    assert len(listed.image_name) <= 32


async def test_a_long_list_has_pids_alone(agent: Agent, tmp_path: Path) -> None:
    """More than 64 are not looked at one by one, and more than 1,000 are cut off."""
    pids = range(5_000_000, 5_002_000)
    (tmp_path / "pods/c/cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    listed = (await read(agent, "ProcessList")).process_list
    assert [one.process_id for one in listed] == list(pids[:1000])


async def test_the_vm_itself_has_properties(agent: Agent) -> None:
    """Its processes, memory, load and statistics; the limit of containers is there if set."""
    agent.pod_memory.limit = 181 * MIB
    names = ("ProcessList", "Memory", "Load", "Statistics")
    found = await read(agent, *names, container=NULL_CONTAINER_ID)
    assert os.getpid() in {one.process_id for one in found.process_list}
    assert found.memory is not None
    assert found.memory.total_bytes > found.memory.available_bytes > 0
    assert found.memory.containers_limit_bytes == 181 * MIB
    assert found.load is not None
    assert found.load.processors == os.cpu_count()
    assert found.lcow_metrics is not None


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


async def test_the_vm_s_counters_need_no_waiting_and_few_descriptors(agent: Agent) -> None:
    """They are read at once, whoever else reads, from files that are opened the first time."""
    names = ("Statistics", "Memory", "Load")
    await read(agent, *names, container=NULL_CONTAINER_ID)
    before = descriptors()
    query = PropertyQuery(property_types=names)
    request = GetProperties(container_id=NULL_CONTAINER_ID, query=query)
    for _ in range(50):
        assert isinstance(dispatch.dispatch(agent, request), GetPropertiesReply)
    assert descriptors() == before


@pytest.fixture
def stuck(agent: Agent, tmp_path: Path) -> Iterator[Path]:
    """Let reads of the container's memory statistics hang; its other ones are as they were."""
    path = tmp_path / "pods" / agent.containers["c"].container_id / "memory.stat"
    path.unlink()
    os.mkfifo(path)
    yield path
    # Whoever still waits for a writer gets an end-of-file.
    os.close(os.open(path, os.O_RDWR))


async def test_a_read_that_hangs_is_given_up(
    agent: Agent, stuck: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So are those of the same property after it: its thread is still in the kernel."""
    monkeypatch.setattr(reads, "_TIMEOUT_S", 0.1)
    for _ in range(3):
        with pytest.raises(DeadlineError, match="Statistics of container c: not read within"):
            await read(agent, "Statistics")


async def test_a_kill_does_not_wait_for_statistics(
    agent: Agent, stuck: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    """Reads that hang take none of its threads."""
    init = Process.adopt(agent.children, sleeper.pid)
    agent.containers["c"].init = init
    kill = SignalProcess(
        container_id="c",
        process_id=sleeper.pid,
        options=SignalOptions(signal=signal.SIGKILL),
    )
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read, agent, "Statistics")
            await trio.testing.wait_all_tasks_blocked(0.05)
            with trio.fail_after(60):
                await call(agent, kill)
                await trio.lowlevel.wait_readable(init.pidfd)
            assert len(nursery.child_tasks) == 5
            nursery.cancel_scope.cancel()
    finally:
        os.close(init.pidfd)


async def test_what_hangs_delays_no_other_property(
    agent: Agent, stuck: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of the same container, nor of others, nor of the VM; nor once it is given up."""
    make_cgroup(tmp_path / "pods/d")
    agent.containers["d"] = Container(
        "d", "/run/d", "", activity_id="", state=State.RUNNING, cgroup="/pods/d"
    )
    with monkeypatch.context() as short:
        short.setattr(reads, "_TIMEOUT_S", 0.1)
        for _ in range(4):
            with pytest.raises(DeadlineError):
                await read(agent, "Statistics")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, agent, "Statistics")
        await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(60):
            assert (await read(agent, "ProcessList")).process_list == ()
            assert (await read(agent, "Statistics", container="d")).lcow_metrics is not None
            await read(agent, "Statistics", "Memory", container=NULL_CONTAINER_ID)
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()
