"""Containers that ran out of memory are told of by name."""

import os
from datetime import datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from gcs.guest import oom, reads
from gcs.guest.agent import Agent, Container
from gcs.guest.kills import Kills
from gcs.guest.reads import Reads
from gcs.guest.reaper import Children
from gcs.guest.runc import Runc
from gcs.guest.transport import UnixTransport
from gcs.linux import cgroup
from gcs.wire import codec
from gcs.wire.extensions import OutOfMemory, WaitForOutOfMemory, WaitForOutOfMemoryReply
from gcs.wire.metrics import UNLIMITED
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.support.cgroups import MIB, make_cgroup
from tests.support.requests import call


async def test_each_new_kill_is_logged_with_its_container(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once for each change, and not for a container that lost nothing."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    kills, place, containers = Kills(), Reads("the VM"), list[Container]()
    for name, count in (("a", 0), ("b", 1)):
        containers.append(Container(name, "", "", "", cgroup=f"/pods/{name}"))
        make_cgroup(tmp_path / "pods" / name, memory_events=f"oom_kill {count}\n")
    await oom.report(kills, place, containers)
    await oom.report(kills, place, containers)
    make_cgroup(tmp_path / "pods/b", memory_events="oom_kill 3\n")
    async with trio.open_nursery() as both:
        both.start_soon(oom.report, kills, place, containers)
        both.start_soon(oom.report, kills, containers[1].reads, containers[1:])
    assert [getattr(record, "fields", {}) for record in caplog.records] == [
        {"cid": "b", "oom_kill": 1, "limit": 64 * MIB},
        {"cid": "b", "oom_kill": 3, "limit": 64 * MIB},
    ]
    told = [(one.number, one.container_id, one.oom_kill) for one in await kills.after(0)]
    assert told == [(1, "b", 1), (2, "b", 3)]


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
        with trio.fail_after(60):
            await oom.report(Kills(), container.reads, [container])
    finally:
        # Whoever still waits for a writer gets an end-of-file.
        os.close(os.open(tmp_path / "pods/c/memory.events", os.O_RDWR))
    assert "out-of-memory kills not read" in caplog.text


async def test_counters_are_read_when_the_kernel_says_so_and_only_then(
    nursery: trio.Nursery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not every second."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "Watch", _Watch)
    children = Children()
    agent = Agent(UnixTransport(Path("/nowhere")), children, Runc(children), nursery)
    agent.containers["c"] = Container("c", "", "", "", cgroup="/pods/c")
    make_cgroup(tmp_path / "pods/c", memory_events="oom_kill 1\n")
    nursery.start_soon(oom.run, agent)
    await trio.sleep(1.2)
    assert caplog.text == ""
    os.write(_Watch.writer, b"x")
    with trio.fail_after(60):
        while "container ran out of memory" not in caplog.text:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_counters_that_can_not_be_read_are_read_again(
    nursery: trio.Nursery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The kernel does not tell of the same kill twice."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "Watch", _Watch)
    monkeypatch.setattr(oom, "_PAUSE_S", 0.01)
    children = Children()
    agent = Agent(UnixTransport(Path("/nowhere")), children, Runc(children), nursery)
    agent.containers["c"] = Container("c", "", "", "", cgroup="/pods/c")
    events = tmp_path / "pods/c/memory.events"
    events.mkdir(parents=True)
    nursery.start_soon(oom.run, agent)
    await trio.testing.wait_all_tasks_blocked()
    os.write(_Watch.writer, b"x")
    with trio.fail_after(60):
        while "out-of-memory kills not read" not in caplog.text:  # noqa: ASYNC110
            await trio.sleep(0.01)
        events.rmdir()
        make_cgroup(events.parent, memory_events="oom_kill 1\n")
        (kill,) = await agent.kills.after(0)
    assert (kill.container_id, kill.oom_kill) == ("c", 1)


async def ask(agent: Agent, after: int, timeout_in_ms: int = 0) -> tuple[OutOfMemory, ...]:
    request = WaitForOutOfMemory(
        container_id=NULL_CONTAINER_ID, after=after, timeout_in_ms=timeout_in_ms
    )
    reply = await call(agent, request)
    assert isinstance(reply, WaitForOutOfMemoryReply)
    return reply.events


async def test_a_host_is_told_of_each_kill_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """At once of those it does not know, else when one comes, and of none in the time given."""
    children = Children()
    agent = Agent(UnixTransport(Path("/nowhere")), children, Runc(children), nursery)
    assert await ask(agent, 0) == ()
    began = trio.current_time()
    assert await ask(agent, 0, 60_000) == ()
    assert trio.current_time() - began == 60
    for count in (1, 2):
        agent.kills.add("c", count, 64 * MIB)
    assert [event.oom_kill for event in await ask(agent, 0)] == [1, 2]
    (second,) = await ask(agent, 1)
    assert (second.number, second.container_id, second.limit) == (2, "c", 64 * MIB)
    assert datetime.fromisoformat(second.time).tzinfo is not None
    told = list[OutOfMemory]()

    async def wait() -> None:
        told.extend(await ask(agent, 2, 0xFFFFFFFF))

    async with trio.open_nursery() as waiting:
        waiting.start_soon(wait)
        await trio.sleep(1)
        agent.kills.add("d", 1, 0)
    assert [(event.number, event.container_id) for event in told] == [(3, "d")]


async def test_a_number_of_an_earlier_agent_hides_nothing(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """It comes from a host that knows none of this agent's events."""
    children = Children()
    agent = Agent(UnixTransport(Path("/nowhere")), children, Runc(children), nursery)
    for count in (1, 2):
        agent.kills.add("c", count, 64 * MIB)
    assert [event.number for event in await ask(agent, 3)] == [1, 2]
    assert await ask(agent, 2) == ()


async def test_a_wait_for_ever_is_answered_before_a_host_gives_up(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Hosts take five minutes without an answer for a dead VM."""
    children = Children()
    agent = Agent(UnixTransport(Path("/nowhere")), children, Runc(children), nursery)
    with trio.fail_after(270):
        assert await ask(agent, 0, 0xFFFFFFFF) == ()


async def test_the_newest_kills_are_kept_and_fit_into_a_frame() -> None:
    """A gap in their numbers tells what was missed."""
    kills = Kills()
    for count in range(1, 100):
        kills.add("c" * 255, count, UNLIMITED)
    events = await kills.after(0)
    assert [event.number for event in events] == list(range(36, 100))
    reply = WaitForOutOfMemoryReply(events=events)
    assert len(codec.encode(reply, codec.Encoding.JSON)) < 65_000


class _Watch:
    """The kernel's word, which this test gives."""

    writer = -1

    def __init__(self, _group: str, _name: str) -> None:
        self._reader, _Watch.writer = os.pipe()

    def fileno(self) -> int:
        return self._reader

    def clear(self) -> None:
        os.read(self._reader, 1)

    def close(self) -> None:
        os.close(self._reader)
        os.close(_Watch.writer)


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
