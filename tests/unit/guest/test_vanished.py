"""A VM whose host has gone powers itself off, if it was asked to."""

from pathlib import Path

import pytest
import trio
import trio.testing

from gcs.guest import vanished
from gcs.guest.agent import Agent
from gcs.guest.reaper import Children
from gcs.guest.runc import Runc
from gcs.guest.transport import UnixTransport


@pytest.fixture
async def agent(nursery: trio.Nursery) -> Agent:
    children = Children()
    return Agent(UnixTransport(Path("/nowhere")), children, Runc(children), nursery)


async def test_the_time_runs_from_the_loss_and_stops_with_a_host(
    agent: Agent, autojump_clock: trio.testing.MockClock
) -> None:
    """Not before the first host, not while one is there; then once."""
    acted: list[float] = []

    async def act() -> None:
        acted.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(vanished.watch, agent, 60.0, act)
        await trio.sleep(1000)
        agent.host_lost_at = trio.current_time()
        await trio.sleep(59)
        agent.host_lost_at = None
        await trio.sleep(1000)
        assert acted == []
        lost = agent.host_lost_at = trio.current_time()
    assert acted == [pytest.approx(lost + 60, abs=1)]


async def test_it_is_off_unless_asked_for(
    agent: Agent, autojump_clock: trio.testing.MockClock
) -> None:
    """A host that moves VMs may be away for any time."""
    agent.host_lost_at = trio.current_time() - 1e6

    async def act() -> None:
        pytest.fail("powered off")

    await vanished.watch(agent, 0, act)
