"""A process of a VM in the foreground: our streams are its streams, our signals its signals.

Signals: without a raw terminal, SIGINT and SIGTERM go to the process once it runs. The same
signal again within a few seconds, any signal before, and SIGHUP at any time end everything.
"""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

import trio

from gcs.errors import CallError, DisconnectedError, GcsError
from gcs.host.background import open_background
from gcs.host.client import Client
from gcs.host.process import Streams
from gcs.host.streams import OutputClosedError, copy_in, copy_out
from gcs.host.terminal import raw_mode, size
from gcs.wire.control import Resize, Signal, StreamName, Wait

__all__ = ["Attachment", "Ending", "Interruption", "attach", "interruptible"]

#: A second Ctrl-C this soon means that the first was not enough.
_AGAIN_S = 3.0
#: After the exit the rest of the output is on its way already; this is for a slow reader.
_OUTPUT_S = 10.0
_STDIN, _STDOUT, _STDERR = 0, 1, 2
#: What a shell makes of SIGPIPE.
_PIPE_STATUS = 128 + signal.SIGPIPE


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended."""

    exit_status: int
    #: the OCI runtime's sentence when it could not execute the command
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A process that runs, and what connects us to it."""

    client: Client
    container_id: str
    #: 0: the container's init
    process_id: int
    streams: Streams
    terminal: bool


class Interruption:
    """What signals do, and what they have done."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self._attached: Attachment | None = None
        self._last: tuple[int, float] = (0, 0.0)
        #: 128 + N when signal N has ended everything
        self.exit_status = 0
        #: what has ended everything when it was no signal
        self.failure: GcsError | None = None

    def is_running(self, attached: Attachment) -> None:
        """Send signals to the process from now on."""
        self._attached = attached

    async def watch(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Act on signals until cancelled."""
        handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        with trio.open_signal_receiver(*handled) as signals:
            task_status.started()
            async with trio.open_nursery() as nursery:
                async for number in signals:
                    if (
                        self._attached is None
                        or number == signal.SIGHUP
                        or self._is_again(number)
                    ):
                        self.end(128 + number)
                    else:
                        nursery.start_soon(_forward, self._attached, number)

    def _is_again(self, number: int) -> bool:
        (last, when), now = self._last, trio.current_time()
        self._last = (number, now)
        return number == last and now - when < _AGAIN_S

    def end(self, exit_status: int) -> None:
        """End everything, with this status."""
        self.exit_status = self.exit_status or exit_status
        self._scope.cancel()

    def fail(self, failure: GcsError) -> None:
        """End everything, because of this."""
        self.failure = self.failure or failure
        self._scope.cancel()


async def _forward(attached: Attachment, number: int) -> None:
    try:
        await attached.client.call(
            Signal(
                container_id=attached.container_id,
                signal=number,
                process_id=attached.process_id,
            )
        )
    except (CallError, DisconnectedError):
        return  # it has exited meanwhile, and that is being told


async def interruptible(work: Callable[[Interruption], Awaitable[Ending]]) -> Ending:
    """Do something that signals can end, and return how it ended.

    Raises what the work raises, and GcsError when our own output can't be written.
    """
    scope = trio.CancelScope()
    interruption = Interruption(scope)
    # Signals are taken until everything is cleaned up: one more must not cut that short.
    async with open_background() as nursery:
        await nursery.start(interruption.watch)
        with scope:
            return await work(interruption)
    if interruption.failure is not None:
        raise interruption.failure
    return Ending(interruption.exit_status)


async def attach(attached: Attachment, interruption: Interruption) -> int:
    """Copy the streams until the process has exited and its output has ended.

    Returns its exit status.
    """
    interruption.is_running(attached)
    stdin = attached.streams.get(StreamName.STDIN)
    is_raw = attached.terminal and stdin is not None
    with raw_mode(_STDIN) if is_raw else nullcontext():
        async with _copying(attached, interruption) as outputs:
            request = Wait(container_id=attached.container_id, process_id=attached.process_id)
            status = (await attached.client.call(request)).exit_status
            with trio.move_on_after(_OUTPUT_S):
                await outputs.wait()
            return status


@asynccontextmanager
async def _copying(
    attached: Attachment, interruption: Interruption
) -> AsyncIterator[trio.Event]:
    """Copy the streams during the block; the event is set when all output has ended."""
    async with open_background() as nursery:
        if attached.terminal:
            await nursery.start(_follow_size, attached)
        stdin = attached.streams.get(StreamName.STDIN)
        if stdin is not None:
            nursery.start_soon(copy_in, _STDIN, stdin)
        yield await nursery.start(_copy_outputs, attached.streams, interruption)


async def _copy_outputs(
    streams: Streams, interruption: Interruption, task_status: trio.TaskStatus[trio.Event]
) -> None:
    """Copy stdout and stderr; the event that is announced is set when both have ended."""
    ended = trio.Event()
    task_status.started(ended)
    async with trio.open_nursery() as nursery:
        for name, fd in ((StreamName.STDOUT, _STDOUT), (StreamName.STDERR, _STDERR)):
            if name in streams:
                nursery.start_soon(_copy_output, streams[name], fd, interruption)
    ended.set()


async def _copy_output(stream: trio.SocketStream, fd: int, interruption: Interruption) -> None:
    try:
        await copy_out(stream, fd)
    except OutputClosedError:
        # As SIGPIPE does to any program whose stdout is closed; a lost stderr is bearable.
        if fd == _STDOUT:
            interruption.end(_PIPE_STATUS)
    except OSError as error:
        name = "stdout" if fd == _STDOUT else "stderr"
        interruption.fail(GcsError(f"write to {name}: {error.strerror}"))


async def _follow_size(
    attached: Attachment, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Give the process's terminal the size of ours, now and whenever ours changes."""
    with trio.open_signal_receiver(signal.SIGWINCH) as changes:
        task_status.started()
        await _resize(attached)
        async for _ in changes:
            await _resize(attached)


async def _resize(attached: Attachment) -> None:
    height, width = size()
    if height and width:
        try:
            request = Resize(
                container_id=attached.container_id,
                height=height,
                width=width,
                process_id=attached.process_id,
            )
            await attached.client.call(request)
        except (CallError, DisconnectedError):
            return  # it has exited meanwhile, and that is being told
