"""Containers that ran out of memory are told of by name."""

import os
from pathlib import Path

import pytest
import trio

from gcs.guest import oom, reads
from gcs.guest.agent import Agent, Container
from gcs.guest.reads import Reads
from gcs.guest.reaper import Children
from gcs.guest.runc import Runc
from gcs.guest.transport import UnixTransport
from gcs.linux import cgroup
from tests.support.cgroups import MIB, make_cgroup


async def test_each_new_kill_is_logged_with_its_container(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once for each change, and not for a container that lost nothing."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    place, containers = Reads("the VM"), list[Container]()
    for name, kills in (("a", 0), ("b", 1)):
        containers.append(Container(name, "", "", "", cgroup=f"/pods/{name}"))
        make_cgroup(tmp_path / "pods" / name, memory_events=f"oom_kill {kills}\n")
    await oom.report(place, containers)
    await oom.report(place, containers)
    make_cgroup(tmp_path / "pods/b", memory_events="oom_kill 3\n")
    async with trio.open_nursery() as both:
        both.start_soon(oom.report, place, containers)
        both.start_soon(oom.report, containers[1].reads, containers[1:])
    assert [getattr(record, "fields", {}) for record in caplog.records] == [
        {"cid": "b", "oom_kill": 1, "limit": str(64 * MIB)},
        {"cid": "b", "oom_kill": 3, "limit": str(64 * MIB)},
    ]


async def test_counters_that_cannot_be_read_delay_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are read beside the event loop, and given up in the end."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(reads, "_TIMEOUT_S", 0.1)
    (tmp_path / "pods/c").mkdir(parents=True)
    os.mkfifo(tmp_path / "pods/c/memory.events")
    container = Container("c", "", "", "", cgroup="/pods/c")
    try:
        with trio.fail_after(10):
            await oom.report(container.reads, [container])
    finally:
        # Whoever still waits for a writer gets an end-of-file.
        os.close(os.open(tmp_path / "pods/c/memory.events", os.O_RDWR))
    assert "out-of-memory kills not read" in caplog.text


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
