"""What a service does for its clients: each request of the control socket, acted on.

One `Owner` has one VM and one container. Everything ends with the container, with the first
client unless the container is detached, and on demand.
"""

import logging
import signal
import time
from weakref import WeakSet

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
from gcs.host.control import Answer, Conversation
from gcs.host.deadline import deadline
from gcs.host.fdstream import FdStream
from gcs.host.output import keep_streams
from gcs.host.process import Process, Streams
from gcs.host.run import Life, Started, run_container, wanted_streams
from gcs.host.signals import signal_number
from gcs.host.spec import Command, exec_process, vm_environment
from gcs.host.state import Claim, StateFolder, keep_logs
from gcs.host.steps import Steps
from gcs.host.users import find_user
from gcs.wire.control import (
    Describe,
    DescribeReply,
    Execute,
    ExecuteReply,
    Remove,
    Resize,
    Run,
    RunReply,
    ServiceState,
    Signal,
    Stop,
    StreamName,
    Wait,
    WaitReply,
)
from gcs.wire.messages import ProcessParameters
from gcs.wire.schema import Reply, Request

__all__ = ["Owner"]

_log = logging.getLogger("gcs.host.owner")

#: How long clients may take to get their last answers and to close; they read all the time.
_DRAIN_S = 2.0
#: SIGKILL of a container's init ends it in milliseconds; a VM that takes this long is not well.
_KILL_S = 10.0
_NOT_SEEN = "the VM ended before the container's exit status was known"


class Owner:
    """A VM, its container, and what is known of both."""

    def __init__(self, folder: StateFolder, container_id: str, nursery: trio.Nursery) -> None:
        self._folder = folder
        self._container_id = container_id
        self._nursery = nursery
        self._clients: WeakSet[Conversation] = WeakSet()
        self._first: Conversation | None = None
        self._run: Run | None = None
        self._life = Life()
        self._processes: dict[int, Process] = {}
        self._created_at = round(time.time())
        self._started_at = 0
        self._finished_at = 0
        self._error = ""
        self._is_removed = False
        self.has_failed = False

    async def serve_first(self, stream: FdStream) -> None:
        """Serve the client that started us; everything ends with it, unless it has detached."""
        self._first = Conversation(stream)
        await self._first.serve(self.handle)
        if not (self._run and self._run.detached and self._started_at):
            self._nursery.cancel_scope.cancel()

    async def handle(self, client: Conversation, request: Request[Reply]) -> Answer:
        """Answer one request."""
        self._clients.add(client)
        match request:
            case Describe():
                return Answer(self.describe())
            case Run():
                return await self._begin(client, request)
            case Execute():
                return await self._execute(request)
            case Wait():
                return Answer(WaitReply(exit_status=await self._wait(request.process_id)))
            case _:
                await self._act(request)
                return Answer(Reply())

    async def _act(self, request: Request[Reply]) -> None:
        """Do what has no result but its success."""
        match request:
            case Signal():
                await self._signal(request.process_id, request.signal)
            case Resize():
                process = await self._process(request.process_id)
                await process.resize(request.height, request.width)
            case Stop():
                await self._stop(request.seconds)
            case Remove():
                await self._remove(force=request.force)
            case _:
                raise UnsupportedError(f"{type(request).__name__}: not known here")

    # -- what is known -------------------------------------------------------------------------

    def describe(self) -> DescribeReply:
        """Return what there is to know for a list."""
        run, image = self._run, self._life.image.value
        words = run.arguments if run else ()
        if image is not None and run is not None and not run.entrypoint:
            words = (*image.config.entrypoint, *(run.arguments or image.config.cmd))
        return DescribeReply(
            container_id=self._container_id,
            name=run.name if run else "",
            image=run.image if run else "",
            command=(*(run.entrypoint if run else ()), *words),
            state=self._state(),
            created_at=self._created_at,
            started_at=self._started_at,
            finished_at=self._finished_at,
            exit_status=self._life.exited.value or 0,
            error=self._error,
        )

    def _state(self) -> ServiceState:
        if self._error:
            return ServiceState.FAILED
        if self._life.exited.is_set:
            return ServiceState.EXITED
        return ServiceState.RUNNING if self._started_at else ServiceState.STARTING

    def record(self) -> DescribeReply | None:
        """Return what is to be left in the state folder when all is over; None: nothing."""
        if self._run is None or not self._run.keep or not self._started_at or self._is_removed:
            return None
        if not self._life.exited.is_set:
            self._error = self._error or _NOT_SEEN
        self._finished_at = self._finished_at or round(time.time())
        return self.describe()

    async def _started(self) -> Started:
        if not self._started_at:
            raise WrongStateError(f"container {self._shown} has not started yet")
        if self._life.exited.is_set:
            raise ContainerStoppedError(f"container {self._shown} is not running")
        return await self._life.started.get()

    @property
    def _shown(self) -> str:
        """What a person calls the container."""
        return (self._run.name if self._run else "") or self._folder.path.name

    # -- run -----------------------------------------------------------------------------------

    async def _begin(self, client: Conversation, run: Run) -> Answer:
        if client is not self._first or self._run is not None:
            raise WrongStateError("run: this service has its container already")
        self._folder.claim(Claim(self._container_id, run.name))
        self._run = run
        self._nursery.start_soon(self._own, client, run)
        try:
            started = await self._life.started.get()
        except CommandRefusedError as error:
            refusal = RunReply(refusal=str(error), refusal_status=error.exit_status)
            return Answer(refusal)
        self._started_at = round(time.time())
        streams: Streams = {}
        if run.detached:
            self._nursery.start_soon(keep_streams, started.streams, self._folder.path)
        else:
            streams = started.streams
        names, fds = _hand_over(streams)
        reply = RunReply(
            container_id=self._container_id,
            process_id=started.container.init.process_id,
            streams=names,
        )
        return Answer(reply, fds)

    async def _own(self, client: Conversation, run: Run) -> None:
        """Run the container to its end; then there is nothing left to own."""
        steps = Steps(client.notify)
        try:
            await run_container(run, self._container_id, self._folder, steps, self._life)
        except CommandRefusedError as error:
            self._fail(error)
        except GcsError as error:
            self._fail_with_logs(error)
        except Exception as error:  # noqa: BLE001 - the edge: a bug, told and logged
            _log.exception("internal error")
            self._fail_with_logs(GcsError(f"run: internal error: {error!r}"))
        await self._finish()

    def _fail_with_logs(self, error: GcsError) -> None:
        _log.error("failed", extra={"error": str(error)})
        self.has_failed = True
        if not self._life.exited.is_set:
            self._error = str(error)
        error.add_note(f"logs are in {keep_logs(self._folder.path)}")
        self._fail(error)

    def _fail(self, error: GcsError) -> None:
        self._life.image.fail(error)
        self._life.started.fail(error)
        self._life.exited.fail(error)

    async def _finish(self) -> None:
        """Answer whoever is connected until all have closed, then end everything.

        A client that has its answer closes. One whose question is still on its way gets an
        answer too: if the socket were closed on it, it could not say how the container ended.
        """
        self._finished_at = round(time.time())
        with trio.move_on_after(_DRAIN_S):
            for client in list(self._clients):
                await client.wait_gone()
        self._nursery.cancel_scope.cancel()

    # -- processes -----------------------------------------------------------------------------

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
            raise NotFoundError(f"process {process_id} of container {self._shown}: not known")
        return process

    async def _wait(self, process_id: int) -> int:
        if process_id == 0:
            return await self._life.exited.get()
        process = await self._process(process_id)
        status = await process.wait()
        self._processes.pop(process_id, None)
        return status

    async def _signal(self, process_id: int, number: int) -> None:
        process = await self._process(process_id)
        try:
            await process.signal(number)
        except CallError:
            if self._life.exited.is_set:
                raise ContainerStoppedError(f"container {self._shown} is not running") from None
            raise

    # -- the end -------------------------------------------------------------------------------

    async def _stop(self, seconds: int) -> None:
        if not self._started_at:
            self._give_up()
            self._nursery.start_soon(self._finish)
            return
        image = await self._life.image.get()
        await self._end_init(signal_number(image.config.stop_signal or "TERM"), seconds)
        await self._kill()

    def _give_up(self) -> None:
        """Tell whoever waits for the container that it will not start any more."""
        self._fail(
            ContainerStoppedError(f"container {self._shown} was ended before it started")
        )

    async def _kill(self) -> None:
        with deadline(_KILL_S, f"container {self._shown}: its end after SIGKILL"):
            await self._end_init(signal.SIGKILL, _KILL_S)
            await self._life.exited.wait()

    async def _end_init(self, number: int, seconds: float) -> None:
        """Send a signal to init if it runs, and wait for its end for so long."""
        if self._life.exited.is_set:
            return
        try:
            await self._signal(0, number)
        except (CallError, ContainerStoppedError):
            _log.info("signal not sent", extra={"signal": number}, exc_info=True)
        with trio.move_on_after(seconds):
            await self._life.exited.wait()

    async def _remove(self, *, force: bool) -> None:
        is_over = self._life.exited.is_set
        if not (force or is_over):
            raise WrongStateError(
                f"container {self._shown} is running: stop it first, or force the removal"
            )
        self._is_removed = True
        if not self._started_at:
            self._give_up()
        elif not is_over:
            try:
                await self._kill()
            except GcsError as error:
                # The VM goes, and everything in it.
                _log.warning("not killed", extra={"error": str(error)})
        self._folder.release()
        self._nursery.start_soon(self._finish)


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
