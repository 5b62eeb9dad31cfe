"""Containers whose runtime makes plain processes: what their end brings about."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from gcs.guest.agent import Agent, State
from gcs.guest.handlers import create
from gcs.guest.reaper import Children
from gcs.guest.transport import UnixTransport
from gcs.linux import cgroup
from gcs.wire.messages import (
    ContainerConfig,
    Create,
    DeleteContainerState,
    ExecuteProcess,
    ExecuteProcessSettings,
    ProcessParameters,
    SchemaVersion,
)
from tests.support.cgroups import make_cgroup
from tests.support.fake_runtime import FakeRuntime
from tests.support.requests import call


@pytest.fixture
async def agent(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Agent]:
    """Return an agent that makes no real containers, and kills in no real cgroup."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    runtime = FakeRuntime(Children())
    yield Agent(UnixTransport(tmp_path), runtime.children, runtime, nursery)
    runtime.close()


def _runtime(agent: Agent) -> FakeRuntime:
    assert isinstance(agent.runc, FakeRuntime)
    return agent.runc


async def _start(agent: Agent, folder: Path, pid_namespace: bool = True) -> int:
    """Start a container; return its init's pid."""
    kinds = ["mount", *(["pid"] if pid_namespace else [])]
    spec: dict[str, object] = {
        "root": {"path": str(folder)},
        "process": {"args": ["true"], "cwd": "/"},
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }
    config = ContainerConfig(
        schema_version=SchemaVersion(major=2, minor=1),
        oci_bundle_path=str(folder / "bundle"),
        oci_specification=spec,
    )
    await call(agent, Create(container_id="c", container_config=config))
    settings = ExecuteProcessSettings(process_parameters=ProcessParameters())
    await call(agent, ExecuteProcess(container_id="c", settings=settings))
    init = agent.containers["c"].init
    assert init is not None
    return init.pid


async def test_an_exit_is_told_though_the_rest_can_not_be_killed(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A privileged container can make its cgroup one that has no kill."""
    monkeypatch.setattr(create, "_WAIT_GRACE_S", 0)
    pid = await _start(agent, tmp_path, pid_namespace=False)
    container = agent.containers["c"]
    (cgroup.folder(container.cgroup) / "cgroup.kill").mkdir(parents=True)
    changed = agent.exits_changed
    _runtime(agent).end(pid, 3)
    with trio.fail_after(60):
        await changed.wait()
    assert container.state is State.STOPPED
    assert [exit_.container_id for exit_ in agent.exits] == ["c"]


async def test_a_kernel_that_takes_long_to_kill_delays_nobody(
    agent: Agent, tmp_path: Path
) -> None:
    """All cgroups have a mutex in common, and making one may hold it for long."""
    pid = await _start(agent, tmp_path, pid_namespace=False)
    container = agent.containers["c"]
    kill = cgroup.folder(container.cgroup) / "cgroup.kill"
    kill.parent.mkdir(parents=True)
    os.mkfifo(kill)  # whoever writes to it waits for a reader
    init = container.init
    assert init is not None
    _runtime(agent).end(pid, 3)
    await init.exited.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert not init.finished.is_set()
    reader = os.open(kill, os.O_RDWR)
    with trio.fail_after(60):
        await init.finished.wait()
    assert os.read(reader, 9) == b"1"
    os.close(reader)


async def test_threads_that_all_hang_keep_nothing_alive(agent: Agent, tmp_path: Path) -> None:
    """A dead disk may have them all, with whatever is done to its files."""
    pid = await _start(agent, tmp_path, pid_namespace=False)
    container = agent.containers["c"]
    kill = cgroup.folder(container.cgroup) / "cgroup.kill"
    kill.parent.mkdir(parents=True)
    threads = trio.to_thread.current_default_thread_limiter()
    for _ in range(int(threads.available_tokens)):
        threads.acquire_on_behalf_of_nowait(object())
    assert container.init is not None
    _runtime(agent).end(pid, 3)
    with trio.fail_after(60):
        await container.init.finished.wait()
    assert kill.read_text() == "1"
    kill.unlink()
    async with trio.open_nursery() as deletion:
        request = DeleteContainerState(container_id="c")
        deletion.start_soon(call, agent, request)
        with trio.fail_after(60):
            while not kill.exists():  # noqa: ASYNC110 - a thread's doing
                await trio.sleep(0.01)
        deletion.cancel_scope.cancel()


async def test_a_deletion_tells_the_exit_at_once(agent: Agent, tmp_path: Path) -> None:
    """Nobody can call for it any more, and the id may be used again."""
    pid = await _start(agent, tmp_path)
    container = agent.containers["c"]
    assert container.init is not None
    _runtime(agent).end(pid, 3)
    await container.init.finished.wait()
    assert agent.exits == []
    changed = agent.exits_changed
    await call(agent, DeleteContainerState(container_id="c"))
    with trio.fail_after(60):
        await changed.wait()
    assert [exit_.container_id for exit_ in agent.exits] == ["c"]


async def test_a_deletion_tells_of_the_last_kills_for_want_of_memory(
    agent: Agent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The kernel's counters go with the cgroup, however soon that is."""
    pid = await _start(agent, tmp_path)
    container = agent.containers["c"]
    group = cgroup.folder(container.cgroup)
    make_cgroup(group, memory_events="oom_kill 0\n")
    # One that the kernel ends last of all.
    monkeypatch.setattr(
        cgroup, "kill", lambda _: make_cgroup(group, memory_events="oom_kill 1\n")
    )
    assert container.init is not None
    _runtime(agent).end(pid, 137)
    await container.init.finished.wait()
    await call(agent, DeleteContainerState(container_id="c"))
    told = [r for r in caplog.records if r.getMessage() == "container ran out of memory"]
    assert [getattr(r, "fields", {})["cid"] for r in told] == ["c"]


async def test_counters_that_can_not_be_read_delay_no_deletion(
    agent: Agent, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All it has of them is a line for the log."""
    pid = await _start(agent, tmp_path)
    container = agent.containers["c"]
    (cgroup.folder(container.cgroup) / "memory.events").mkdir(parents=True)
    assert container.init is not None
    _runtime(agent).end(pid, 137)
    await container.init.finished.wait()
    await call(agent, DeleteContainerState(container_id="c"))
    assert agent.containers == {}
    assert "out-of-memory kills not read" in caplog.text
