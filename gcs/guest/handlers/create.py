"""Create: from the host's spec to a container whose init waits to be started.

Whatever fails here takes along what was made before it, the runtime's container included, so
that the id can be used again.
"""

import errno
import logging
import os
import re
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from gcs.errors import ContainerExistsError, GcsError, InvalidArgumentError, InvalidRequestError
from gcs.guest.agent import Agent, Container, State
from gcs.guest.handlers import pod
from gcs.guest.log import fields
from gcs.guest.process import Process
from gcs.guest.runc import StandardStreams
from gcs.guest.stdio import Pipes
from gcs.linux import cgroup
from gcs.wire.messages import Create, CreateReply
from gcs.wire.schema import NULL_CONTAINER_ID

__all__ = ["create"]

_log = logging.getLogger("gcs.container")

_OLDEST_SCHEMA = (2, 1)
#: What both runtimes can name a folder: runc's own rule. crun has none, and takes a slash.
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9_+.-]+")
#: How long a host has, after a container's exit, to ask for its exit status before it is told
#: of the exit unasked. It asks right after ExecuteProcess, so this covers its round trip and a
#: busy machine; the order matters because hosts take the notification for the end of every
#: process.
_WAIT_GRACE_S = 2.0
#: Killed processes leave their cgroup within milliseconds; the kernel announces it only by
#: POLLPRI, which the event loop does not have.
_CGROUP_GRACE_S = 2.0
_CGROUP_RETRY_S = 0.02


async def create(agent: Agent, request: Create) -> CreateReply:
    """Create a container whose init waits to be started."""
    config = request.container_config
    if (config.schema_version.major, config.schema_version.minor) < _OLDEST_SCHEMA:
        raise InvalidRequestError("$.ContainerConfig.SchemaVersion: older than 2.1")
    container = Container(
        container_id=_checked_id(request.container_id),
        bundle=_folder(config.oci_bundle_path, "OciBundlePath"),
        scratch_dir=_folder(config.scratch_dir_path, "ScratchDirPath", may_be_empty=True),
        activity_id=request.activity_id,
    )
    with agent.reserve_container(container):
        async with pod.provisioned(agent, container, config.oci_specification) as prepared:
            container.take(prepared)
            init = await _make(agent, container, prepared.spec)
    # Only now: an exit is announced of what was created, and of nothing else.
    agent.start_soon(_attend, agent, container, init)
    _log.info("container created", extra=fields(cid=container.container_id, pid=init.pid))
    return CreateReply(selected_protocol_version=0)


async def _make(agent: Agent, container: Container, document: dict[str, object]) -> Process:
    """Write the bundle and have the runtime create the container of it, or leave neither."""
    bundle = _Bundle(container.bundle)
    try:
        bundle.write(document)
        return await _create_init(agent, container)
    except BaseException as error:
        with trio.CancelScope(shield=True):  # each step of it has a limit
            await _undo(agent, container, error)
            bundle.remove()
        raise


def _checked_id(container_id: str) -> str:
    """Return the id if it can be a folder's name. Raises InvalidArgumentError."""
    is_taken = container_id in (".", "..", NULL_CONTAINER_ID)
    if is_taken or not _ACCEPTABLE_ID.fullmatch(container_id):
        raise InvalidArgumentError(f"container id {container_id!r} is not acceptable")
    return container_id


def _folder(path: str, member: str, *, may_be_empty: bool = False) -> str:
    if may_be_empty and not path:
        return ""
    if not path.startswith("/") or os.path.normpath(path) == "/" or "\0" in path:
        raise InvalidArgumentError(f"{member} {path!r} is not an absolute path")
    return os.path.normpath(path)


class _Bundle:
    """The folder that the runtime takes a container from; the host may have made it already."""

    def __init__(self, path: str) -> None:
        self._folder = Path(path)
        self._is_new = not os.path.lexists(path)

    def write(self, document: dict[str, object]) -> None:
        """Put the spec into it."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._folder / "config.json").write_bytes(msgspec.json.encode(document) + b"\n")

    def remove(self) -> None:
        """Remove what was made here, and nothing that others have put there meanwhile."""
        with suppress(OSError):
            (self._folder / "config.json").unlink(missing_ok=True)
            if self._is_new:
                self._folder.rmdir()


async def _create_init(agent: Agent, container: Container) -> Process:
    """Have the runtime create the container; nothing of its streams stays when that fails."""
    pipes = None
    if not container.has_terminal:
        pipes = Pipes.make(stdin=True, stdout=True, stderr=True)
    streams = StandardStreams(*pipes.theirs) if pipes else StandardStreams()
    try:
        init, master = await agent.runc.create(
            container.container_id, container.bundle, streams, tty=container.has_terminal
        )
    except BaseException:
        if pipes is not None:
            pipes.close()
        raise
    if pipes is not None:
        pipes.close_theirs()
    container.init = init
    container.unstarted = pipes if pipes is not None else master
    return init


async def _undo(agent: Agent, container: Container, error: BaseException) -> None:
    """End what a failed Create has started; what can't be is said in a note."""
    container.close_unstarted()
    if container.init is not None:
        container.init.abandon(agent.children)
    # A container of that id that the runtime knows and we don't is not ours to remove.
    if not isinstance(error, ContainerExistsError):
        try:
            await agent.runc.destroy(container.container_id)
        except (GcsError, OSError) as failure:
            error.add_note(f"undoing it: {failure}")
        try:
            await _remove_cgroup(agent, container.cgroup)
        except OSError as failure:
            error.add_note(f"undoing it: {failure}")


async def _remove_cgroup(agent: Agent, name: str) -> None:
    """Kill what a runtime left in a cgroup, and remove it. Raises EBUSY when it stays."""
    threads = agent.cgroup_threads
    with trio.move_on_after(_CGROUP_GRACE_S):
        while not await trio.to_thread.run_sync(  # noqa: ASYNC110
            cgroup.remove_all, name, limiter=threads
        ):
            await trio.sleep(_CGROUP_RETRY_S)
        return
    raise OSError(errno.EBUSY, f"rmdir cgroup {name}: {os.strerror(errno.EBUSY)}")


async def _kill_rest(agent: Agent, container: Container) -> None:
    """Kill what outlives an init; if that is not possible its exit is told all the same."""
    try:
        await trio.to_thread.run_sync(
            cgroup.kill, container.cgroup, limiter=agent.cgroup_threads
        )
    except OSError as error:  # a container that may can make its cgroup one that has no kill
        members = fields(cid=container.container_id, error=error)
        _log.error("processes outlive their container", extra=members)


async def _attend(agent: Agent, container: Container, init: Process) -> None:
    """See a container's init to its end, and tell the host once it could have asked."""
    was_started = trio.Event()

    async def stop() -> None:
        if container.state is not State.CREATED:
            was_started.set()
        container.state = State.STOPPED
        if not container.owns_pid_namespace:
            await _kill_rest(agent, container)

    await init.watch(agent.children, stop)
    members = fields(cid=container.container_id, status=init.exit_status)
    _log.info("container exited", extra=members)
    with trio.move_on_after(_WAIT_GRACE_S if was_started.is_set() else 0):
        await container.wait_answered.wait()
    agent.announce_exit(container)
