"""The agent's tables under any order of requests, failures and exits.

The tables and the handlers are the agent's own; only the OCI runtime is one that makes plain
processes. What a host may count on is stated as a model of a few lines.
"""

import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
import trio
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gcs.errors import (
    ContainerExistsError,
    ContainerNotFoundError,
    ContainerStoppedError,
    DeadlineError,
    GcsError,
    NotFoundError,
    RuncError,
    WrongStateError,
)
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
    ExecuteProcessReply,
    ExecuteProcessSettings,
    ExitType,
    ProcessParameters,
    SchemaVersion,
    ShutdownForced,
    SignalOptions,
    SignalProcess,
    WaitForProcess,
    WaitForProcessReply,
)
from gcs.wire.schema import Reply, Request
from tests.support.fake_runtime import FakeRuntime
from tests.support.requests import call

IDS = st.sampled_from(["a", "b", "c"])
FAILURES = st.sampled_from(["", "", "", "before", "after"])
#: More than any step takes on a busy machine.
_LIMIT_S = 20.0


@dataclass
class Modelled:
    """What a host knows of a container that it has created."""

    init: int
    state: State = State.CREATED
    #: a start has failed, and has used up the streams
    is_spent: bool = False
    kind: ExitType = ExitType.UNEXPECTED
    #: exit statuses by pid, None while the process runs; the init's too once it has started
    statuses: dict[int, int | None] = field(default_factory=dict)


class Loop:
    """An agent in an event loop of its own, in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        assert self._is_ready.wait(_LIMIT_S)

    async def _main(self) -> None:
        self._token, self._stop = trio.lowlevel.current_trio_token(), trio.Event()
        async with trio.open_nursery() as nursery:
            self.runtime = FakeRuntime(Children())
            transport = UnixTransport(self._folder / "none")
            children = self.runtime.children
            self.agent = Agent(transport, children, self.runtime, nursery)
            self._is_ready.set()
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    def run(self, function: Callable[[], Awaitable[object]]) -> object:
        """Run something in the loop; return what it returns."""

        async def limited() -> object:
            with trio.fail_after(_LIMIT_S):
                return await function()

        return trio.from_thread.run(limited, trio_token=self._token)

    def call(self, *requests: Request[Reply]) -> list[Reply | GcsError | None]:
        """Make requests at the same time; return the answer to each."""
        answers: list[Reply | GcsError | None] = [None] * len(requests)

        async def one(index: int) -> None:
            try:
                answers[index] = await call(self.agent, requests[index])
            except GcsError as error:
                answers[index] = error

        async def everyone() -> None:
            async with trio.open_nursery() as nursery:
                for index in range(len(requests)):
                    nursery.start_soon(one, index)

        self.run(everyone)
        return answers

    def until(self, is_so: Callable[[], bool]) -> None:
        """Let the loop go on until something is so."""

        async def wait() -> None:
            while not is_so():  # noqa: ASYNC110 - the state has no event
                await trio.sleep(0.002)

        self.run(wait)

    def close(self) -> None:
        """End the loop and what it has started."""
        self.runtime.close()
        self.until(self._has_reaped_all)
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(_LIMIT_S)
        assert not self._thread.is_alive()

    def _has_reaped_all(self) -> bool:
        self.agent.children.reap()
        containers = self.agent.containers.values()
        running = [p for c in containers for p in (c.init, *c.processes.values())]
        return all(p is None or p.finished.is_set() for p in running)


def create_request(container_id: str, bundle: str) -> Create:
    """Return the request for a container."""
    namespaces = [{"type": "pid"}]
    spec = {"process": {}, "root": {"path": "rootfs"}, "linux": {"namespaces": namespaces}}
    config = ContainerConfig(
        schema_version=SchemaVersion(major=2, minor=1),
        oci_bundle_path=bundle,
        oci_specification=spec,
    )
    return Create(container_id=container_id, container_config=config)


def exec_request(container_id: str) -> ExecuteProcess:
    """Return the request for an exec."""
    parameters = ProcessParameters(oci_process={"args": ["x"]})
    settings = ExecuteProcessSettings(process_parameters=parameters)
    return ExecuteProcess(container_id=container_id, settings=settings)


class AgentMachine(RuleBasedStateMachine):
    """A host that does anything in any order, and knows what it may count on."""

    @initialize()
    def start_agent(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.grace, create._WAIT_GRACE_S = create._WAIT_GRACE_S, 0.0
        # The cgroups of these ids may be those of real containers, of a test beside this one.
        self.root, cgroup.ROOT = cgroup.ROOT, Path("/nowhere")
        self.loop = Loop(self.folder)
        self.model: dict[str, Modelled] = {}
        #: (id, exit type) of every exit that there has been
        self.exits: list[tuple[str, ExitType]] = []

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()
            create._WAIT_GRACE_S = self.grace
            cgroup.ROOT = self.root
            shutil.rmtree(self.folder)

    def path_of(self, container_id: str) -> str:
        return str(self.folder / container_id)

    def expect(self, request: Request[Reply], error: type[GcsError] | None) -> Reply:
        """Make a request; it must succeed, or be refused just so."""
        (answer,) = self.loop.call(request)
        if error is None:
            assert isinstance(answer, Reply), answer
            return answer
        assert type(answer) is error, answer
        return Reply()

    # -- what the host does --------------------------------------------------------------

    @rule(name=IDS, failure=FAILURES, times=st.sampled_from([1, 1, 1, 3]))
    def create_container(self, name: str, failure: str, times: int) -> None:
        """One of several equal requests succeeds at the most, and a failure frees the id.

        What no host was told of an earlier container of that id is told no more.
        """
        if name not in self.model:
            self.exits = [told for told in self.exits if told[0] != name]
        self.loop.runtime.failure = "" if name in self.model else failure
        answers = self.loop.call(*[create_request(name, self.path_of(name))] * times)
        made = [answer for answer in answers if isinstance(answer, Reply)]
        refused = [type(answer) for answer in answers if isinstance(answer, GcsError)]
        assert len(made) + len(refused) == times
        first = ContainerExistsError if name in self.model else RuncError
        if made:
            assert len(made) == 1
            assert name not in self.model
            assert not failure
            init = self.loop.agent.container(name).init
            assert init is not None
            self.model[name] = Modelled(init.pid)
        else:
            assert first in refused
        assert set(refused) <= {first, ContainerExistsError}

    @rule(name=IDS, failure=FAILURES)
    def start_init(self, name: str, failure: str) -> None:
        """It starts once; a start that failed leaves a container that can only be deleted."""
        made, request = self.model.get(name), ExecuteProcess(container_id=name)
        if made is None:
            self.expect(request, ContainerNotFoundError)
        elif made.state is State.STOPPED:
            self.expect(request, ContainerStoppedError)
        elif made.state is State.RUNNING or made.is_spent:
            self.expect(request, WrongStateError)
        elif failure:
            self.loop.runtime.failure = failure
            self.expect(request, RuncError)
            made.is_spent = True
        else:
            reply = self.expect(request, None)
            assert isinstance(reply, ExecuteProcessReply)
            assert reply.process_id == made.init
            made.state = State.RUNNING
            made.statuses[made.init] = None

    @rule(name=IDS, failure=FAILURES)
    def start_exec(self, name: str, failure: str) -> None:
        """It joins a container that runs, and a failed one leaves nothing."""
        made = self.model.get(name)
        if made is None:
            self.expect(exec_request(name), ContainerNotFoundError)
        elif made.state is State.STOPPED:
            self.expect(exec_request(name), ContainerStoppedError)
        elif made.state is not State.RUNNING:
            self.expect(exec_request(name), WrongStateError)
        elif failure:
            self.loop.runtime.failure = failure
            self.expect(exec_request(name), RuncError)
        else:
            reply = self.expect(exec_request(name), None)
            assert isinstance(reply, ExecuteProcessReply)
            assert reply.process_id not in made.statuses
            made.statuses[reply.process_id] = None

    @precondition(lambda self: self.running())
    @rule(data=st.data(), status=st.integers(0, 255), signal=st.sampled_from([0, 0, 9, 15]))
    def end(self, data: st.DataObject, status: int, signal: int) -> None:
        """A process exits by itself or by a signal; the wait that is open is answered."""
        name, pid = data.draw(st.sampled_from(self.running()))
        if signal:
            options = SignalOptions(signal=signal)
            kill = SignalProcess(container_id=name, process_id=pid, options=options)
            self.expect(kill, None)
        else:
            self.loop.runtime.end(pid, status)
        self.settle(name, pid, 128 + signal if signal else status, signal)

    @precondition(lambda self: any(m.state is State.CREATED for m in self.model.values()))
    @rule(data=st.data())
    def kill_unstarted(self, data: st.DataObject) -> None:
        """A container that was never started can be ended, and its exit is announced."""
        names = [n for n, m in self.model.items() if m.state is State.CREATED]
        name = data.draw(st.sampled_from(names))
        self.expect(ShutdownForced(container_id=name), None)
        self.settle(name, self.model[name].init, 137, 9)

    @rule(name=IDS)
    def wait_again(self, name: str) -> None:
        """Each exit status is kept, and a process that runs is none yet."""
        for pid, status in self.model[name].statuses.items() if name in self.model else ():
            request = WaitForProcess(container_id=name, process_id=pid)
            reply = self.expect(request, DeadlineError if status is None else None)
            if status is not None:
                assert isinstance(reply, WaitForProcessReply)
                assert reply.exit_code == status
        missing = ContainerNotFoundError if name not in self.model else NotFoundError
        self.expect(WaitForProcess(container_id=name, process_id=1), missing)

    @rule(name=IDS, failure=FAILURES, times=st.sampled_from([1, 1, 3]))
    def delete(self, name: str, failure: str, times: int) -> None:
        """It ends the container's life once; a failed one can be asked for again."""
        made, request = self.model.get(name), DeleteContainerState(container_id=name)
        if made is None:
            self.expect(request, ContainerNotFoundError)
            return
        if made.state is State.RUNNING:
            self.expect(request, WrongStateError)
            return
        if failure:
            self.loop.runtime.failure = failure
            self.expect(request, RuncError)
        answers = self.loop.call(*[request] * times)
        assert [isinstance(a, Reply) for a in answers].count(True) == 1
        assert all(isinstance(a, Reply | ContainerNotFoundError) for a in answers)
        del self.model[name]
        if made.state is State.CREATED:
            self.exits.append((name, ExitType.UNEXPECTED))
            self.loop.until(lambda: len(self.loop.agent.exits) == len(self.exits))

    # -- what it knows -------------------------------------------------------------------

    def running(self) -> list[tuple[str, int]]:
        """Return (container, pid) of what has started and not ended."""
        return [
            (name, pid)
            for name, made in self.model.items()
            for pid, status in made.statuses.items()
            if status is None
        ]

    def settle(self, name: str, pid: int, status: int, signal: int) -> None:
        """Wait for an exit, and take it into the model."""
        made = self.model[name]
        request = WaitForProcess(
            container_id=name, process_id=pid, timeout_in_ms=int(_LIMIT_S * 500)
        )
        reply = self.expect(request, None)
        assert isinstance(reply, WaitForProcessReply)
        assert reply.exit_code == status
        made.statuses[pid] = status
        if pid == made.init:
            made.state = State.STOPPED
            kinds = {15: ExitType.GRACEFUL, 9: ExitType.FORCED}
            self.exits.append((name, kinds.get(signal, ExitType.UNEXPECTED)))
            self.loop.until(lambda: len(self.loop.agent.exits) == len(self.exits))

    @invariant()
    def the_tables_are_what_the_host_knows(self) -> None:
        """No reservation stays, no state differs, no process is lost."""
        if not hasattr(self, "loop"):
            return
        containers = self.loop.agent.containers
        assert {name: c.state for name, c in containers.items()} == {
            name: made.state for name, made in self.model.items()
        }
        for name, made in self.model.items():
            execs = set(made.statuses) - {made.init}
            assert set(containers[name].processes) == execs
            assert containers[name].waiters == 0

    @invariant()
    def each_exit_is_announced_once(self) -> None:
        """In the order in which they came, with how it came to them."""
        if hasattr(self, "loop"):
            told = [(e.container_id, e.type) for e in self.loop.agent.exits]
            assert told == self.exits

    @invariant()
    def nothing_is_left_of_what_is_gone(self) -> None:
        """Neither a bundle nor anything that the runtime knows."""
        if hasattr(self, "loop"):
            assert {path.name for path in self.folder.iterdir()} == set(self.model)
            assert set(self.loop.runtime.made) <= set(self.model)


TestAgent = AgentMachine.TestCase
#: Each process takes milliseconds, whatever the profile: 30 steps have ten of them.
TestAgent.settings = settings(max_examples=100, stateful_step_count=30)
