"""`gcsctl run` and `gcsctl exec` without their words: a process, from start to exit status."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from gcs.host.attach import Attachment, Ending, Interruption, attach, interruptible
from gcs.host.background import open_background
from gcs.host.connect import ServiceClient, connect
from gcs.host.launch import ServiceHandle, open_service
from gcs.wire.control import Execute, Progress, Run, RunReply

__all__ = ["execute_in_foreground", "run_detached", "run_in_foreground"]

Show = Callable[[Progress | None], None]

#: The guest's part of it takes a second on a quiet machine; more than this is not worth waiting
#: for, since the VM goes anyway.
_TAKEDOWN_S = 20.0


async def run_in_foreground(run: Run, show: Show) -> Ending:
    """Run a container to its end.

    Args:
        run: What to run.
        show: Called with every progress, and with None when the container's output begins.

    Raises GcsError when anything but the container fails. Leaves nothing behind, whatever
    happens, but the record that was asked for.
    """

    async def work(interruption: Interruption) -> Ending:
        async with open_service() as handle, _shown(handle, show):
            reply = await _begin(handle, run, show)
            if reply.refusal:
                return Ending(reply.refusal_status, reply.refusal)
            streams = handle.service.take_streams(reply.streams)
            attached = Attachment(handle.service.client, 0, streams, run.terminal)
            ending = Ending(await attach(attached, interruption))
            # The service takes the container down and ends; leaving now would cut it short.
            with trio.move_on_after(_TAKEDOWN_S):
                await handle.service.client.disconnected.wait()
            return ending

    return await interruptible(work)


async def run_detached(run: Run, show: Show) -> tuple[Ending, str]:
    """Start a container that goes on without us; return its id, or why it did not start.

    Raises GcsError when anything but the container fails. Leaves nothing behind unless the
    container runs.
    """
    container_id = ""

    async def work(_: Interruption) -> Ending:
        nonlocal container_id
        async with open_service() as handle, _shown(handle, show):
            reply = await _begin(handle, run, show)
            if reply.refusal:
                return Ending(reply.refusal_status, reply.refusal)
            handle.let_go()
            container_id = reply.container_id
            return Ending(0)

    return await interruptible(work), container_id


async def _begin(handle: ServiceHandle, run: Run, show: Show) -> RunReply:
    """Ask for the container, and tell that it runs."""
    reply = await handle.service.client.call(run)
    show(None)
    return reply


@asynccontextmanager
async def _shown(handle: ServiceHandle, show: Show) -> AsyncIterator[None]:
    """Show the service's progress for the length of the block."""
    async with open_background() as nursery:
        nursery.start_soon(_show_all, handle, show)
        yield


async def _show_all(handle: ServiceHandle, show: Show) -> None:
    async for notification in handle.service.client.notifications:
        if isinstance(notification, Progress):
            show(notification)


async def execute_in_foreground(folder: Path, request: Execute) -> Ending:
    """Run one more process in a container or its VM, to its end.

    Raises CallError when the service refuses, DisconnectedError when there is none.
    """

    async def work(interruption: Interruption) -> Ending:
        async with connect(folder) as service:
            return await _execute(service, request, interruption)

    return await interruptible(work)


async def _execute(
    service: ServiceClient, request: Execute, interruption: Interruption
) -> Ending:
    reply = await service.client.call(request)
    if reply.refusal:
        return Ending(reply.refusal_status, reply.refusal)
    streams = service.take_streams(reply.streams)
    attached = Attachment(service.client, reply.process_id, streams, request.terminal)
    return Ending(await attach(attached, interruption))
