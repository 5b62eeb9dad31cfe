"""A container as the service of its VM knows it: what was asked for, and what became of it."""

import logging
import signal
import time

import trio

from gcs.errors import (
    CallError,
    ContainerStoppedError,
    GcsError,
    InvalidArgumentError,
    NotFoundError,
    UnsupportedError,
    WrongStateError,
)
from gcs.host.container import CommandRefusedError, run_in_vm
from gcs.host.control import Answer
from gcs.host.deadline import deadline
from gcs.host.observe import observe
from gcs.host.process import Process, Streams
from gcs.host.run import Life, Started, wanted_streams
from gcs.host.signals import signal_number
from gcs.host.spec import Command, exec_process, vm_environment
from gcs.host.state import StateFolder
from gcs.host.steps import Steps
from gcs.host.users import find_user
from gcs.wire.control import (
    Describe,
    DescribeReply,
    Execute,
    ExecuteReply,
    ListMounts,
    Measure,
    Resize,
    Run,
    RunReply,
    ServiceState,
    Signal,
    StreamName,
    Wait,
    WaitReply,
)
from gcs.wire.messages import ProcessParameters
from gcs.wire.schema import Reply, Request

__all__ = ["Owned"]

_log = logging.getLogger("gcs.host.owned")

#: SIGKILL of a container's init ends it in milliseconds; a VM that takes this long is not well.
_KILL_S = 10.0
_NOT_SEEN = "the VM ended before the container's exit status was known"


class Owned:
    """A container of a service, from the request for it on."""

    def __init__(self, run: Run, container_id: str, folder: StateFolder, steps: Steps) -> None:
        self.run = run
        self.container_id = container_id
        self.folder = folder
        #: told of the way to its start
        self.steps = steps
        self.life = Life()
        self.is_removed = False
        #: whether the client that has asked for it is gone
        self.is_left = False
        #: whether its state folder is as it stays
        self.is_settled = False
        #: when whoever has asked for it was told; 0: not yet
        self.started_at = 0
        self._processes: dict[int, Process] = {}
        self._created_at = round(time.time())
        self._finished_at = 0
        self._error = ""

    @property
    def shown(self) -> str:
        """What a person calls the container."""
        return self.run.name or self.folder.path.name

    @property
    def has_started(self) -> bool:
        """Tell whether its init runs, or has run."""
        return self.life.started.value is not None

    # -- what is known -------------------------------------------------------------------------

    def describe(self) -> DescribeReply:
        """Return what there is to know for a list."""
        run, image = self.run, self.life.image.value
        words = run.arguments
        if image is not None and not run.entrypoint:
            words = (*image.config.entrypoint, *(run.arguments or image.config.cmd))
        return DescribeReply(
            container_id=self.container_id,
            name=run.name,
            pod=run.pod,
            image=run.image,
            command=(*run.entrypoint, *words),
            state=self._state(),
            created_at=self._created_at,
            started_at=self.started_at,
            finished_at=self._finished_at,
            exit_status=self.life.exited.value or 0,
            error=self._error,
        )

    def _state(self) -> ServiceState:
        if self._error:
            return ServiceState.FAILED
        if self.life.exited.is_set:
            return ServiceState.EXITED
        return ServiceState.RUNNING if self.started_at else ServiceState.STARTING

    def settle(self) -> None:
        """Leave its state folder to others, with a record of its end if one is to be kept.

        The folder stays locked. No effect when it is done already.
        """
        if self.is_settled:
            return
        self.is_settled = True
        if not self.run.keep or not self.started_at or self.is_removed:
            self.folder.remove()
            return
        if not self.life.exited.is_set:
            self._error = self._error or _NOT_SEEN
        self.finish()
        self.folder.retire(self.describe())

    def finish(self) -> None:
        """Note when it was over."""
        self._finished_at = self._finished_at or round(time.time())

    def fail(self, error: GcsError, *, is_told: bool = False) -> None:
        """Have whoever waits for something of it see this; `is_told`: its record, too."""
        if is_told and not self.life.exited.is_set:
            self._error = str(error)
        self.life.image.fail(error)
        self.life.started.fail(error)
        self.life.exited.fail(error)

    async def _started(self) -> Started:
        if not self.has_started:
            raise WrongStateError(f"container {self.shown} has not started yet")
        if self.life.exited.is_set:
            raise ContainerStoppedError(f"container {self.shown} is not running")
        return await self.life.started.get()

    # -- requests ------------------------------------------------------------------------------

    async def answer(self, request: Request[Reply]) -> Answer:
        """Answer a request that is about this container and its processes alone."""
        match request:
            case Describe():
                return Answer(self.describe())
            case Execute():
                return await self._execute(request)
            case Wait():
                return Answer(WaitReply(exit_status=await self._wait(request.process_id)))
            case ListMounts() | Measure():
                return Answer(await observe((await self._started()).container, request))
            case Signal():
                await self._signal(request.process_id, request.signal)
            case Resize():
                process = await self._process(request.process_id)
                await process.resize(request.height, request.width)
            case _:
                raise UnsupportedError(f"{type(request).__name__}: not known here")
        return Answer(Reply())

    async def started(self) -> Answer:
        """Return the answer to the request for the container, once it has started."""
        try:
            started = await self.life.started.get()
        except CommandRefusedError as error:
            refusal = RunReply(refusal=str(error), refusal_status=error.exit_status)
            return Answer(refusal)
        self.started_at = round(time.time())
        names, fds = _hand_over({} if self.run.detached else started.streams)
        reply = RunReply(
            container_id=self.container_id,
            process_id=started.container.init.process_id,
            streams=names,
        )
        return Answer(reply, fds)

    async def _execute(self, request: Execute) -> Answer:
        started = await self._started()
        names = wanted_streams(stdin=request.stdin, terminal=request.terminal)
        try:
            if request.in_vm:
                process, streams = await _execute_in_vm(started, request, names)
            else:
                process, streams = await _execute_in_container(started, request, names)
        except CommandRefusedError as error:
            refusal = ExecuteReply(refusal=str(error), refusal_status=error.exit_status)
            return Answer(refusal)
        self._processes[process.process_id] = process
        connected, fds = _hand_over(streams)
        return Answer(ExecuteReply(process_id=process.process_id, streams=connected), fds)

    async def _process(self, process_id: int) -> Process:
        """Return a process of a container that runs; 0 is its init."""
        started = await self._started()
        if process_id == 0:
            return started.container.init
        process = self._processes.get(process_id)
        if process is None:
            raise NotFoundError(f"process {process_id} of container {self.shown}: not known")
        return process

    async def _wait(self, process_id: int) -> int:
        if process_id == 0:
            return await self.life.exited.get()
        process = await self._process(process_id)
        status = await process.wait()
        self._processes.pop(process_id, None)
        return status

    async def _signal(self, process_id: int, number: int) -> None:
        process = await self._process(process_id)
        try:
            await process.signal(number)
        except CallError:
            if self.life.exited.is_set:
                raise ContainerStoppedError(f"container {self.shown} is not running") from None
            raise

    # -- the end -------------------------------------------------------------------------------

    def give_up(self) -> None:
        """Tell whoever waits for the container that it will not start any more."""
        self.life.give_up()
        self.fail(ContainerStoppedError(f"container {self.shown} was ended before it started"))

    async def abandon(self) -> None:
        """End it because nobody is there for it any more."""
        started = self.life.started.value
        if started is None:
            self.give_up()
            return
        if not self.started_at:  # its streams were never handed over
            for stream in started.streams.values():
                await trio.aclose_forcefully(stream)
        await self.kill()

    async def stop(self, seconds: int) -> None:
        """Let a container that has started end, by force after so many seconds."""
        image = await self.life.image.get()
        await self._end_init(signal_number(image.config.stop_signal or "TERM"), seconds)
        await self.kill()

    async def kill(self) -> None:
        """End a container that has started, if it runs."""
        with deadline(_KILL_S, f"container {self.shown}: its end after SIGKILL"):
            await self._end_init(signal.SIGKILL, _KILL_S)
            await self.life.exited.wait()

    async def _end_init(self, number: int, seconds: float) -> None:
        """Send a signal to init if it runs, and wait for its end for so long."""
        if self.life.exited.is_set:
            return
        try:
            await self._signal(0, number)
        except (CallError, ContainerStoppedError):
            _log.info("signal not sent", extra={"signal": number}, exc_info=True)
        with trio.move_on_after(seconds):
            await self.life.exited.wait()


def _hand_over(streams: Streams) -> tuple[tuple[StreamName, ...], list[int]]:
    """Return the streams' descriptors; from here on the client owns the connections."""
    names = tuple(name for name in StreamName if name in streams)
    return names, [streams[name].socket.detach() for name in names]


async def _execute_in_container(
    started: Started, request: Execute, names: tuple[StreamName, ...]
) -> tuple[Process, Streams]:
    user = await find_user(request.user, started.layers) if request.user else None
    process = exec_process(started.process, _wish(request), user, request.working_directory)
    return await started.container.execute(started.ports, names, process)


async def _execute_in_vm(
    started: Started, request: Execute, names: tuple[StreamName, ...]
) -> tuple[Process, Streams]:
    if request.user:
        raise InvalidArgumentError(f"user {request.user!r}: in the VM there is only root")
    parameters = ProcessParameters(
        command_args=request.arguments,
        environment=vm_environment(_wish(request)),
        working_directory=request.working_directory,
        emulate_console=request.terminal,
    )
    container = started.container
    return await run_in_vm(container.vm, container.client, parameters, started.ports, names)


def _wish(request: Execute) -> Command:
    return Command(
        arguments=request.arguments,
        environment=request.environment,
        terminal=request.terminal,
        height=request.height,
        width=request.width,
    )
