"""The agent's tables: rows are reserved, settled and released, never two ways at once."""

from pathlib import Path

import pytest
import trio

from gcs.errors import (
    ContainerExistsError,
    ContainerNotFoundError,
    ContainerStoppedError,
    NotFoundError,
    WrongStateError,
)
from gcs.guest import agent as agent_module
from gcs.guest.agent import Agent, Container, MountRecord, State
from gcs.guest.process import Process
from gcs.guest.reaper import Children
from gcs.guest.runc import Runc
from gcs.guest.transport import UnixTransport
from gcs.wire.messages import ExitType
from gcs.wire.schema import NULL_CONTAINER_ID


@pytest.fixture
async def agent(nursery: trio.Nursery) -> Agent:
    """Return an agent without containers, processes and mounts."""
    children = Children()
    return Agent(UnixTransport(Path("/nowhere")), children, Runc(children), nursery)


def _container(name: str = "c") -> Container:
    return Container(name, f"/run/{name}", "", activity_id="")


class _FailureError(Exception):
    """What goes wrong in a test."""


async def test_a_container_is_known_once_it_is_made(agent: Agent) -> None:
    """Until then its id is taken, and it can't be used."""
    container = _container()
    with agent.reserve_container(container):
        with pytest.raises(WrongStateError, match="container c is still being created"):
            agent.container("c")
        with (
            pytest.raises(ContainerExistsError, match="container c already exists"),
            agent.reserve_container(_container()),
        ):
            pytest.fail("the id is taken")
    assert agent.container("c") is container
    assert container.state is State.CREATED


async def test_a_container_that_could_not_be_made_leaves_its_id(agent: Agent) -> None:
    """Whether it failed or was cancelled."""
    with pytest.raises(_FailureError), agent.reserve_container(_container()):
        raise _FailureError
    with trio.CancelScope() as scope, agent.reserve_container(_container()):
        scope.cancel()
        await trio.lowlevel.checkpoint()
    assert agent.containers == {}
    with pytest.raises(ContainerNotFoundError, match="container c does not exist"):
        agent.container("c")


async def test_a_second_request_does_not_take_the_first_one_s_row(agent: Agent) -> None:
    """What is refused because the id is taken leaves the row that has it."""
    first = _container()
    with agent.reserve_container(first):
        pass
    with pytest.raises(ContainerExistsError), agent.reserve_container(_container()):
        pytest.fail("the id is taken")
    assert agent.container("c") is first


async def test_a_mount_is_reserved_once(agent: Agent) -> None:
    """While it is made and afterwards; a failure frees the target."""
    with pytest.raises(_FailureError), agent.reserve_mount(MountRecord("/a")):
        raise _FailureError
    with (
        agent.reserve_mount(MountRecord("/a")),
        pytest.raises(WrongStateError, match="/a is mounted already"),
        agent.reserve_mount(MountRecord("/a")),
    ):
        pytest.fail("the target is taken")
    assert agent.mounts["/a"].settled
    with pytest.raises(WrongStateError), agent.reserve_mount(MountRecord("/a")):
        pytest.fail("the target is taken")


async def test_a_mount_that_others_stand_on_stays(agent: Agent) -> None:
    """They are named, in order; also while they are being made."""
    with agent.reserve_mount(MountRecord("/a")):
        pass
    record = MountRecord("/y", uses=frozenset({"/a"}))
    with (
        agent.reserve_mount(record),
        pytest.raises(WrongStateError, match="/a is in use by /y"),
        agent.release_mount("/a"),
    ):
        pytest.fail("it is in use")
    with agent.reserve_mount(MountRecord("/x", uses=frozenset({"/a"}))):
        pass
    with (
        pytest.raises(WrongStateError, match="/a is in use by /x, /y"),
        agent.release_mount("/a"),
    ):
        pytest.fail("it is in use")
    for target in ("/x", "/y", "/a"):
        with agent.release_mount(target):
            pass
    assert agent.mounts == {}


async def test_a_mount_is_released_once_at_a_time(agent: Agent) -> None:
    """Neither twice at once, nor while it is made."""
    with (
        agent.reserve_mount(MountRecord("/a")),
        pytest.raises(WrongStateError, match="/a is being mounted or unmounted"),
        agent.release_mount("/a"),
    ):
        pytest.fail("it is being made")
    with (
        agent.release_mount("/a"),
        pytest.raises(WrongStateError, match="/a is being mounted or unmounted"),
        agent.release_mount("/a"),
    ):
        pytest.fail("it is being released")
    assert agent.mounts == {}


async def test_a_mount_that_could_not_be_released_is_still_known(agent: Agent) -> None:
    """So that it can be asked for again."""
    with agent.reserve_mount(MountRecord("/a")):
        pass
    with pytest.raises(_FailureError), agent.release_mount("/a"):
        raise _FailureError
    assert agent.mounts["/a"].settled
    with agent.release_mount("/a"):
        pass
    assert agent.mounts == {}


async def test_what_nobody_mounted_can_be_released(agent: Agent) -> None:
    """The kernel knows better than the table; it stays empty."""
    with agent.release_mount("/a"):
        pass
    assert agent.mounts == {}


async def test_processes_are_found_where_they_belong(agent: Agent) -> None:
    """The init and execs in their container, others in the VM; nowhere else."""
    container = _container()
    with agent.reserve_container(container):
        container.init, container.processes[11] = Process(10, -1), Process(11, -1)
    agent.add_vm_process(Process(12, -1))
    assert [agent.process("c", pid).pid for pid in (10, 11)] == [10, 11]
    assert agent.process(NULL_CONTAINER_ID, 12).pid == 12
    with pytest.raises(NotFoundError, match="container c: no process 12"):
        agent.process("c", 12)
    with pytest.raises(NotFoundError, match="no process 10 in the utility VM"):
        agent.process(NULL_CONTAINER_ID, 10)
    with pytest.raises(ContainerNotFoundError):
        agent.process("d", 10)


async def test_of_the_vm_s_ended_processes_the_oldest_go(agent: Agent) -> None:
    """256 of them are kept, and all that run."""
    agent.add_vm_process(Process(1, -1))
    for pid in range(2, 302):
        process = Process(pid, -1)
        process.finished.set()
        agent.add_vm_process(process)
    assert list(agent.vm_processes) == [1, *range(46, 302)]


def test_a_state_is_left_from_itself_only() -> None:
    """The error says which it is; one that has exited says that."""
    container = _container()
    container.state = State.CREATED
    container.move(State.CREATED, State.STARTING)
    with pytest.raises(WrongStateError, match="container c is starting, not created"):
        container.move(State.CREATED, State.STARTING)
    container.state = State.STOPPED
    with pytest.raises(ContainerStoppedError, match="container c has exited"):
        container.move(State.CREATED, State.STARTING)


@pytest.mark.parametrize(
    ("signals", "kind"),
    [
        ([], ExitType.UNEXPECTED),
        ([15], ExitType.GRACEFUL),
        ([9], ExitType.FORCED),
        ([15, 9], ExitType.FORCED),
        ([15, 1], ExitType.GRACEFUL),
        ([1], ExitType.UNEXPECTED),
    ],
)
async def test_the_last_signal_that_ends_is_how_it_ended(
    signals: list[int], kind: ExitType
) -> None:
    """Of those sent to the init; others and those to an exec say nothing."""
    container = _container()
    container.init, other = Process(10, -1), Process(11, -1)
    for signal in signals:
        container.record_signal(container.init, signal)
        container.record_signal(other, 9 if signal != 9 else 15)
    assert container.exit_type is kind


async def test_exits_are_told_in_order(agent: Agent) -> None:
    """Whoever waits for one is woken, and the activity is that of the Create."""
    changed = agent.exits_changed
    for name in ("a", "b"):
        container = _container(name)
        container.activity_id = "act" if name == "a" else ""
        agent.announce_exit(container)
    assert changed.is_set()
    assert not agent.exits_changed.is_set()
    assert [(e.container_id, e.activity_id) for e in agent.exits] == [
        ("a", "act"),
        ("b", NULL_CONTAINER_ID),
    ]


async def test_background_work_that_fails_ends_nothing_else(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its name, and what runs beside it goes on."""
    went_on = trio.Event()

    async def fail(text: str) -> None:
        raise _FailureError(text)

    async def go_on() -> None:
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        went_on.set()

    agent.start_soon(go_on)
    agent.start_soon(fail, "as it must")
    with trio.fail_after(60):
        await went_on.wait()
    (record,) = caplog.records
    assert record.message == "background work failed"
    assert "fail" in str(getattr(record, "fields", {}))
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "as it must"


async def test_nothing_is_made_once_the_vm_is_to_power_off(agent: Agent) -> None:
    """The refusal says why, and takes no id."""
    agent.is_powering_off = True
    with (
        pytest.raises(WrongStateError, match="powering off"),
        agent.reserve_container(_container()),
    ):
        pytest.fail("it is too late")
    assert agent.containers == {}


async def test_an_id_that_is_used_again_has_no_exit_of_before(agent: Agent) -> None:
    """A host that did not know the first container would take its end for the second one's."""
    first, second = _container(), _container()
    agent.announce_exit(_container("other"))
    agent.announce_exit(first)
    with agent.reserve_container(second):
        agent.announce_exit(first)  # it was seen late
    assert [exit_.container_id for exit_ in agent.exits] == ["other"]
    agent.announce_exit(second)
    assert [exit_.container_id for exit_ in agent.exits] == ["other", "c"]


async def test_a_folder_that_is_used_again_is_no_remainder(agent: Agent) -> None:
    """The unmount that the earlier container's folder waited for must not remove this one's."""
    agent.remains.update({"/run/c", "/run/other"})
    with agent.reserve_container(_container()):
        pass
    assert agent.remains == {"/run/other"}


async def test_the_newest_execs_are_remembered(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that run stay, however old; of those that are over a bounded number does."""
    monkeypatch.setattr(agent_module, "_MAX_ENDED_EXECS", 2)
    container = _container()
    for pid in (1, 2, 3, 4, 2, 5):
        process = Process(pid, -1)
        if pid != 1:
            process.finished.set()
        container.add_exec(process)
    assert list(container.processes) == [1, 2, 5]
