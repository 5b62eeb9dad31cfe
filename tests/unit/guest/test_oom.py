"""Containers that ran out of memory are told of by name."""

from pathlib import Path

import pytest
import trio

from gcs.guest import oom
from gcs.guest.agent import Agent, Container
from gcs.guest.reaper import Children
from gcs.guest.runc import Runc
from gcs.guest.transport import UnixTransport
from gcs.linux import cgroup
from tests.support.cgroups import MIB, make_cgroup


async def test_each_new_kill_is_logged_with_its_container(
    nursery: trio.Nursery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once for each change, and not for a container that lost nothing."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    children = Children()
    agent = Agent(UnixTransport(Path("/nowhere")), children, Runc(children), nursery)
    for name, kills in (("a", 0), ("b", 1)):
        agent.containers[name] = Container(name, "", "", "", cgroup=f"/pods/{name}")
        make_cgroup(tmp_path / "pods" / name, memory_events=f"oom_kill {kills}\n")
    oom.report(agent)
    oom.report(agent)
    make_cgroup(tmp_path / "pods/b", memory_events="oom_kill 3\n")
    oom.report(agent)
    assert [getattr(record, "fields", {}) for record in caplog.records] == [
        {"cid": "b", "oom_kill": 1, "limit": str(64 * MIB)},
        {"cid": "b", "oom_kill": 3, "limit": str(64 * MIB)},
    ]


async def test_a_kernel_that_does_not_count_is_no_end(
    nursery: trio.Nursery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is said, and the agent goes on."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    children = Children()
    await oom.run(Agent(UnixTransport(Path("/nowhere")), children, Runc(children), nursery))
    assert "out-of-memory kills are not seen" in caplog.text
