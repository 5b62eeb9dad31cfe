"""The containers of this user: found by name or id, asked and told through their services.

A running container is known to the service that owns its VM. Of an ended one that was kept, a
record is left in its state folder. In a pod that has others it is gone from the service then.
"""

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from gcs.errors import (
    CallError,
    ContainerNotFoundError,
    ContainerStoppedError,
    DeadlineError,
    DisconnectedError,
    GcsError,
    Hresult,
    InvalidArgumentError,
)
from gcs.host.client import Client
from gcs.host.connect import connect
from gcs.host.deadline import deadline
from gcs.host.state import Claim, claims, read_record, remove_ended
from gcs.wire.control import (
    Describe,
    DescribeReply,
    Remove,
    ServiceState,
    Signal,
    Stop,
    Wait,
)

__all__ = [
    "Known",
    "all_containers",
    "describe",
    "find",
    "kill",
    "remove",
    "running",
    "stop",
    "wait",
    "wait_gone",
    "wait_settled",
]

#: A service answers from memory.
_DESCRIBE_S = 10.0
#: After its last answer a service ends its VM: QEMU and its helper have a second each.
_END_S = 30.0
#: SIGKILL and its consequences, over what the container is given to end by itself.
_STOP_S = 30.0
#: Of the ids that are shown; a shorter beginning will do if it is the only one.
_SHORT = 12


@dataclass(frozen=True, slots=True)
class Known:
    """A container that exists, or of which a record is left."""

    folder: Path
    claim: Claim

    @property
    def container_id(self) -> str:
        """What its service and its guest call it."""
        return self.claim.container_id

    @property
    def shown(self) -> str:
        """What a person calls it."""
        return self.claim.name or self.container_id[:_SHORT]

    @property
    def vm_folder(self) -> Path:
        """The folder of its VM, where its service listens."""
        return self.folder.with_name(self.claim.vm) if self.claim.vm else self.folder

    def record(self) -> DescribeReply | None:
        """Return what is left of it; None while it has not ended."""
        return read_record(self.folder)


def all_containers(root: Path) -> list[Known]:
    """Return the containers of a root folder, in no order that means anything."""
    return [Known(folder, claim) for folder, claim in claims(root).items()]


def find(root: Path, text: str) -> Known:
    """Return the container of a name, an id, or the beginning of an id.

    Raises ContainerNotFoundError for none, InvalidArgumentError for several.
    """
    known = all_containers(root)
    named = [each for each in known if text and each.claim.name == text]
    found = named or [
        each for each in known if text and each.claim.container_id.startswith(text)
    ]
    if not found:
        raise ContainerNotFoundError(f"no such container: {text}")
    if len(found) > 1:
        raise InvalidArgumentError(f"{text}: {len(found)} containers have an id like that")
    return found[0]


def running(known: Known) -> Known:
    """Return a container that has not ended. Raises ContainerStoppedError."""
    if known.record() is not None:
        raise ContainerStoppedError(f"container {known.shown} is not running")
    return known


async def describe(known: Known) -> DescribeReply | None:
    """Return what there is to know of a container; None when it is gone meanwhile.

    Of one whose service does not answer, that is said in `error`.
    """
    record = known.record()
    if record is not None:
        return record
    try:
        with _lock_of(known.folder) as lock:
            try:
                with deadline(_DESCRIBE_S, f"container {known.shown}: its service's answer"):
                    async with _service(known) as client:
                        return await client.call(Describe(container_id=known.container_id))
            except DisconnectedError:
                # It is ending: what it leaves is there when it is gone.
                await _wait_for_end(f"container {known.shown}", lock)
                return known.record()
    except DeadlineError as error:
        return DescribeReply(
            container_id=known.container_id,
            name=known.claim.name,
            state=ServiceState.FAILED,
            error=str(error),
        )


async def stop(known: Known, seconds: int) -> None:
    """Let a container end, by force after so many seconds; no effect on one that has ended."""
    if known.record() is not None:
        return
    with _lock_of(known.folder) as lock:
        try:
            async with _service(known) as client:
                with deadline(seconds + _STOP_S, f"stop container {known.shown}"):
                    await client.call(Stop(container_id=known.container_id, seconds=seconds))
        except DisconnectedError:
            await _wait_for_end(f"container {known.shown}", lock)


async def kill(known: Known, number: int) -> None:
    """Send a signal to a container's init. Raises ContainerStoppedError when it has ended."""
    running(known)
    with deadline(_STOP_S, f"signal {number} to container {known.shown}"):
        try:
            async with _service(known) as client:
                await client.call(Signal(container_id=known.container_id, signal=number))
        except DisconnectedError:
            raise ContainerStoppedError(f"container {known.shown} is not running") from None


async def wait(known: Known) -> int:
    """Wait until a container has exited, and return its exit status.

    Raises GcsError that says why when the exit status is not known.
    """
    record = known.record()
    if record is None:
        with _lock_of(known.folder) as lock:
            try:
                async with _service(known) as client:
                    reply = await client.call(Wait(container_id=known.container_id))
                    return reply.exit_status
            except DisconnectedError:
                await _wait_for_end(f"container {known.shown}", lock)
        record = known.record()
    if record is None:
        raise ContainerNotFoundError(f"container {known.shown} is gone, with its exit status")
    if record.state is not ServiceState.EXITED:
        raise GcsError(f"container {known.shown}: no exit status: {record.error}")
    return record.exit_status


async def wait_settled(folder: Path, seconds: float) -> None:
    """Wait until a container is over and its folder as it stays, but no longer than that."""
    with _lock_of(folder) as lock, trio.move_on_after(seconds):
        if lock is not None:
            await _lock_shared(lock)


async def wait_gone(vm_folder: Path) -> None:
    """Wait until a VM that is ending has gone. Raises DeadlineError."""
    with _lock_of(vm_folder) as lock:
        await _wait_for_end(f"VM {vm_folder.name}", lock)


async def remove(known: Known, *, force: bool) -> None:
    """End a container if need be, and remove what is left of it.

    Returns when nothing of it is left. Raises CallError when it runs and is not to be forced.
    """
    if known.record() is None:
        with _lock_of(known.folder) as lock:
            try:
                async with _service(known) as client:
                    with deadline(_END_S, f"remove container {known.shown}"):
                        request = Remove(container_id=known.container_id, force=force)
                        await client.call(request)
            except DisconnectedError:
                pass  # it is ending by itself
            await _wait_for_end(f"container {known.shown}", lock)
    remove_ended(known.folder)


@asynccontextmanager
async def _service(known: Known) -> AsyncIterator[Client]:
    """Speak with a container's service for the length of the block.

    Raises DisconnectedError when that is ending, or has nothing to do with it any more.
    """
    async with connect(known.vm_folder) as service:
        try:
            yield service.client
        except CallError as error:
            if error.result != Hresult.SYSTEM_NOT_FOUND:
                raise
            raise DisconnectedError(str(error)) from error


@contextmanager
def _lock_of(folder: Path) -> Iterator[int | None]:
    """Open the lock that a service holds to its end; None when it is gone with its folder."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield lock
    finally:
        os.close(lock)


async def _wait_for_end(what: str, lock: int | None) -> None:
    """Wait until the service is gone, and its folder removed or left to others."""
    if lock is not None:
        with deadline(_END_S, f"{what}: the end of its service"):
            await _lock_shared(lock)


async def _lock_shared(lock: int) -> None:
    await trio.to_thread.run_sync(fcntl.flock, lock, fcntl.LOCK_SH, abandon_on_cancel=True)
