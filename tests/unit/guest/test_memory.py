"""What is kept of the VM's memory, and how the limit of all containers follows it."""

from pathlib import Path

import pytest
import trio
import trio.testing

from gcs.guest import memory
from gcs.guest.agent import Agent
from gcs.guest.memory import PodMemory, reserve_of
from gcs.guest.reaper import Children
from gcs.guest.runc import Runc
from gcs.guest.transport import UnixTransport
from gcs.linux import cgroup
from gcs.wire.messages import ModifySettings
from gcs.wire.resource import (
    ModificationRequest,
    PodCgroupMemoryLimit,
    RequestType,
    ResourceType,
)
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.support.cgroups import MIB
from tests.support.requests import call


@pytest.mark.parametrize(
    ("total", "asked", "kept"),
    [
        (64, None, 32),
        (128, None, 64),
        (150, None, 75),
        (256, None, 75),
        (1024, None, 75),
        (4096, 1024, 1024),
        (256, 0, 0),
        (256, 255, 255),
        (256, 256, 75),
        (64, 75, 32),
        (128, 1024, 64),
        (1024, -1, 75),
    ],
)
def test_the_reserve_leaves_something_to_containers(
    total: int, asked: int | None, kept: int
) -> None:
    """What is asked for counts if it is less than the memory; else 75 MiB, at most half."""
    wanted = None if asked is None else asked * MIB
    assert reserve_of(total * MIB, wanted) == kept * MIB


def test_the_memory_is_the_kernel_s_number() -> None:
    """MemTotal of /proc/meminfo."""
    words = Path("/proc/meminfo").read_text().split()
    assert memory.total() == int(words[words.index("MemTotal:") + 1]) * 1024


@pytest.fixture
def pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of /pods in a made-up cgroup file system."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(memory, "total", lambda: 256 * MIB)
    folder = tmp_path / "pods"
    folder.mkdir()
    (folder / "memory.max").write_text("")
    return folder


async def test_the_limit_is_written_when_it_changes_and_only_then(
    pods: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that is plugged in goes to the containers."""
    limit = PodMemory(asked=56 * MIB)
    await limit.refresh()
    assert (pods / "memory.max").read_text() == str(200 * MIB)
    (pods / "memory.max").write_text("")
    await limit.refresh()
    assert (pods / "memory.max").read_text() == ""
    monkeypatch.setattr(memory, "total", lambda: 512 * MIB)
    await limit.refresh()
    assert (pods / "memory.max").read_text() == str(456 * MIB)
    assert limit.limit == 456 * MIB


async def test_a_host_that_has_changed_the_memory_says_so(
    pods: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PodCgroupMemoryLimit does not wait for the next look."""
    children = Children()
    agent = Agent(UnixTransport(Path("/nowhere")), children, Runc(children), nursery)
    await agent.pod_memory.refresh()
    monkeypatch.setattr(memory, "total", lambda: 1024 * MIB)
    change = ModificationRequest(
        request_type=RequestType.UPDATE,
        resource_type=ResourceType.POD_CGROUP_MEMORY_LIMIT,
        settings=PodCgroupMemoryLimit(),
    )
    await call(agent, ModifySettings(container_id=NULL_CONTAINER_ID, request=change))
    assert (pods / "memory.max").read_text() == str(949 * MIB)


async def test_a_reserve_of_all_memory_is_said_and_half_is_kept(
    pods: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent goes on; elsewhere the VM would have ended."""
    monkeypatch.setattr(memory, "total", lambda: 64 * MIB)
    await PodMemory(asked=75 * MIB).refresh()
    assert (pods / "memory.max").read_text() == str(32 * MIB)
    assert "reserve not below memory" in caplog.text


async def test_a_limit_that_cannot_be_written_leaves_the_old_one(pods: Path) -> None:
    """The error names the file, and the next refresh tries again."""
    limit = PodMemory()
    (pods / "memory.max").unlink()
    with pytest.raises(FileNotFoundError, match=r"write \d+ to .*/pods/memory\.max"):
        await limit.refresh()
    assert limit.limit is None
    (pods / "memory.max").write_text("")
    await limit.refresh()
    assert (pods / "memory.max").read_text() == str(181 * MIB)


async def test_a_limit_that_cannot_be_written_is_said_once_and_tried_again(
    pods: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing ends over it."""
    limit = PodMemory()
    (pods / "memory.max").unlink()
    for _ in range(3):
        await limit.settle()
    assert [r.getMessage() for r in caplog.records] == ["no limit of all containers"]
    (pods / "memory.max").write_text("")
    await limit.settle()
    assert (pods / "memory.max").read_text() == str(181 * MIB)


async def test_the_agent_s_own_memory_is_told_of_at_each_rise_above_its_threshold(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Once, and again only after it was well below; 0 is never."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    (tmp_path / "gcs").mkdir()
    usage = tmp_path / "gcs/memory.current"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.watch_own, 100)
        await trio.sleep(30.0)  # so that each value is there when it is looked at
        for value in (95, 101, 150, 95, 101, 89, 101):
            usage.write_text(f"{value}\n")
            await trio.sleep(60.0)
        nursery.cancel_scope.cancel()
    await memory.watch_own(0)
    told = [getattr(record, "fields", {}).get("memoryUsage") for record in caplog.records]
    assert told == [101, 101]
