"""`gcsctl run` and `gcsctl exec` without their words: a process, from start to exit status."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from gcs.errors import DisconnectedError, GcsError
from gcs.host.attach import Attachment, Ending, Interruption, attach, interruptible
from gcs.host.background import open_background
from gcs.host.connect import ServiceClient, connect
from gcs.host.containers import wait_settled
from gcs.host.launch import ServiceHandle, open_service
from gcs.host.state import container_folder, root_folder
from gcs.wire.control import Execute, Progress, Run, RunReply

__all__ = ["PodChangedError", "execute_in_foreground", "run_detached", "run_in_foreground"]

Show = Callable[[Progress | None], None]

#: The guest's part of it takes a second on a quiet machine; more than this is not worth waiting
#: for, since it goes on without us.
_TAKEDOWN_S = 20.0


class PodChangedError(GcsError):
    """A container's pod has just come, or is just going: it is to be looked up anew."""


async def run_in_foreground(run: Run, vm_folder: Path | None, show: Show) -> Ending:
    """Run a container to its end.

    Args:
        run: What to run.
        vm_folder: Of the VM of its pod; None if it is to have a new one.
        show: Called with every progress, and with None when the container's output begins.

    Raises PodChangedError when nothing was done, and GcsError when anything but the container
    fails. Leaves nothing of it behind, whatever
    happens, but the record that was asked for.
    """

    async def work(interruption: Interruption) -> Ending:
        container_id = ""
        try:
            async with _service_for(run, vm_folder) as handle, _shown(handle, show):
                reply = await _begin(handle, run, show)
                if reply.refusal:
                    return Ending(reply.refusal_status, reply.refusal)
                container_id = reply.container_id
                if run.pod:
                    handle.let_go()
                ending = await _attach(handle, run, reply, interruption)
                # It is taken down meanwhile, which is told as the way to its start was.
                await _wait_settled(container_id)
                return ending
        finally:
            if run.pod and container_id:
                with trio.CancelScope(shield=True):
                    await _wait_settled(container_id)

    return await interruptible(work)


@asynccontextmanager
async def _service_for(run: Run, vm_folder: Path | None) -> AsyncIterator[ServiceHandle]:
    """Start the service of a new VM, or connect to the one that a pod has."""
    if vm_folder is None:
        async with open_service(is_shared=bool(run.pod)) as handle:
            yield handle
        return
    async with AsyncExitStack() as stack:
        try:
            service = await stack.enter_async_context(connect(vm_folder))
        except DisconnectedError as error:
            raise PodChangedError(f"pod {run.pod}: it is ending") from error
        yield ServiceHandle(service)


async def _attach(
    handle: ServiceHandle, run: Run, reply: RunReply, interruption: Interruption
) -> Ending:
    streams = handle.service.take_streams(reply.streams)
    client = handle.service.client
    attached = Attachment(client, reply.container_id, 0, streams, run.terminal)
    return Ending(await attach(attached, interruption))


async def _wait_settled(container_id: str) -> None:
    """Wait until a container has been taken down, and its VM unless that goes on."""
    folder = container_folder(root_folder(), container_id)
    await wait_settled(folder, _TAKEDOWN_S)


async def run_detached(run: Run, vm_folder: Path | None, show: Show) -> tuple[Ending, str]:
    """Start a container that goes on without us; return its id, or why it did not start.

    Raises PodChangedError when nothing was done, and GcsError when anything but the container
    fails. Leaves nothing behind unless the
    container runs.
    """
    container_id = ""

    async def work(_: Interruption) -> Ending:
        nonlocal container_id
        async with _service_for(run, vm_folder) as handle, _shown(handle, show):
            reply = await _begin(handle, run, show)
            if reply.refusal:
                return Ending(reply.refusal_status, reply.refusal)
            handle.let_go()
            container_id = reply.container_id
            return Ending(0)

    return await interruptible(work), container_id


async def _begin(handle: ServiceHandle, run: Run, show: Show) -> RunReply:
    """Ask for the container, and tell that it runs. Raises PodChangedError."""
    reply = await handle.service.client.call(run)
    if reply.again:
        raise PodChangedError(f"pod {run.pod}: it has just come, or is just going")
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
    client, container_id = service.client, request.container_id
    attached = Attachment(client, container_id, reply.process_id, streams, request.terminal)
    return Ending(await attach(attached, interruption))
