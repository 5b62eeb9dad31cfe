"""Start, Shutdown… and DeleteContainerState."""

import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

import trio

from gcs.errors import (
    ContainerNotFoundError,
    ContainerStoppedError,
    NotFoundError,
    WrongStateError,
)
from gcs.guest import bundles, oom, provision
from gcs.guest.agent import Agent, Container, State
from gcs.guest.handlers import pod
from gcs.guest.log import fields, flush
from gcs.linux import cgroup
from gcs.wire.messages import (
    DeleteContainerState,
    ShutdownForced,
    ShutdownGraceful,
    Start,
)
from gcs.wire.schema import NULL_CONTAINER_ID, Reply

__all__ = ["delete_state", "power_off", "shutdown_forced", "shutdown_graceful", "start"]

_log = logging.getLogger("gcs.container")

#: PID 1 stops everything, syncs and powers off on this signal.
_POWER_OFF = signal.SIGTERM
#: How long containers have to end when the VM is to power off; docker's default.
_STOP_GRACE_S = 10.0
#: How long they have after SIGKILL, which nothing but the kernel itself can delay.
_KILL_GRACE_S = 2.0
#: How long file systems have to be written out; PID 1 tries once more.
_SYNC_TIMEOUT_S = 10.0


def start(_agent: Agent, _request: Start) -> Reply:
    """Acknowledge."""
    return Reply()


async def shutdown_graceful(agent: Agent, request: ShutdownGraceful) -> Reply | None:
    """Send SIGTERM to a container's init, or power the VM off without a reply."""
    return await _shut_down(agent, request.container_id, signal.SIGTERM)


async def shutdown_forced(agent: Agent, request: ShutdownForced) -> Reply | None:
    """Send SIGKILL to a container's init, or power the VM off without a reply."""
    return await _shut_down(agent, request.container_id, signal.SIGKILL)


async def _shut_down(agent: Agent, container_id: str, number: signal.Signals) -> Reply | None:
    if container_id == NULL_CONTAINER_ID:
        await power_off(agent, number)
        return None
    container = agent.container(container_id)
    if container.init is None or container.state is State.STOPPED:
        raise ContainerStoppedError(f"container {container_id} has exited")
    container.init.kill(number)
    container.record_signal(container.init, number)
    return Reply()


async def power_off(agent: Agent, number: signal.Signals) -> None:
    """Stop all containers with the signal, write everything out, and have PID 1 power off.

    Each step has a limit: a VM that was told to go goes.
    """
    agent.is_powering_off = True
    running = [c for c in agent.containers.values() if c.init and not c.init.exited.is_set()]
    _log.info("powering off", extra=fields(running=len(running)))
    if not await _end_all(running, number, _STOP_GRACE_S):
        await _end_all(running, signal.SIGKILL, _KILL_GRACE_S)
    with trio.move_on_after(_SYNC_TIMEOUT_S) as scope:
        # Nothing follows that a thread left in the kernel could disturb.
        await trio.to_thread.run_sync(os.sync, abandon_on_cancel=True)
    if scope.cancelled_caught:
        _log.error("file systems not written out", extra=fields(limit=_SYNC_TIMEOUT_S))
    # PID 1 ends the agent with everything else, and its last words are to be heard.
    await trio.to_thread.run_sync(flush, abandon_on_cancel=True)
    os.kill(1, _POWER_OFF)


async def _end_all(
    containers: Sequence[Container], number: signal.Signals, grace_s: float
) -> bool:
    """Send a signal to the inits that run; return whether all have exited in time."""
    inits = []
    for container in containers:
        if container.init is None or container.init.exited.is_set():
            continue
        # A runtime's own stage, which waits to be started, is deaf to anything else.
        is_started = container.state is not State.CREATED
        with suppress(NotFoundError):
            container.init.kill(number if is_started else signal.SIGKILL)
        inits.append(container.init)
    with trio.move_on_after(grace_s) as scope:
        for init in inits:
            await init.exited.wait()
    return not scope.cancelled_caught


async def delete_state(agent: Agent, request: DeleteContainerState) -> Reply:
    """Forget a container and remove what it left behind.

    It stays known when something can't be removed, so that the host can ask again. Mounts below
    its folders are left alone: removing them is a request of its own, before or after this, and
    the last of them takes the folders along.
    """
    container = agent.container(request.container_id)
    _check_not_running(container)
    async with container.deletion:
        agent.container(request.container_id)  # it may have gone while this one waited
        async with container.gate.closed():
            _check_not_running(container)  # a start that was at work has come to its end
            await _delete(agent, container)
    _log.info("container deleted", extra=fields(cid=container.container_id))
    return Reply()


def _check_not_running(container: Container) -> None:
    if container.state is State.RUNNING:
        raise WrongStateError(f"container {container.container_id} is running")


async def _delete(agent: Agent, container: Container) -> None:
    if container.state is State.STOPPED:
        await trio.to_thread.run_sync(
            cgroup.kill, container.cgroup, limiter=agent.cgroup_threads
        )
        # The runtime takes its cgroup away, and the counters with it.
        await oom.report(agent.kills, container.reads, (container,))
    with suppress(ContainerNotFoundError):  # an earlier request came this far, and no further
        await agent.runc.delete(container.container_id)
    container.close_unstarted()
    for process in (container.init, *container.processes.values()):
        if process is not None:
            process.close()
    await pod.leave(agent, container)
    is_off = await bundles.leave_scratch(agent, container.bundle, deleted=container)
    for folder in filter(None, (container.scratch_dir, container.bundle)):
        # The root may still be mounted in a bundle that the scratch holds.
        if not is_off or not await trio.to_thread.run_sync(provision.remove_folder, folder):
            agent.remains.add(folder)
    del agent.containers[container.container_id]
    container.wait_answered.set()  # nobody can ask any more: its exit is announced now
