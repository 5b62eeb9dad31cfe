"""Mount and unmount for the host: the record first, then the kernel, and both or neither.

Source: PROTOCOL.md, "ModifySettings".
"""

import os
import posixpath
from collections.abc import Callable
from typing import TypeVar

import trio

from gcs.errors import InvalidArgumentError, WrongStateError
from gcs.guest import provision
from gcs.guest.agent import Agent, MountRecord
from gcs.guest.kernel_call import in_kernel
from gcs.linux import devmapper, mounts
from gcs.linux.undo import Undo

__all__ = ["absolute", "make", "mount_of", "remove_remains", "take_off"]

T = TypeVar("T")


def absolute(path: str, member: str) -> str:
    """Return the path without `.` and `..`. Raises InvalidArgumentError if relative, or `/`."""
    if not path.startswith("/") or "\0" in path or posixpath.normpath(path).strip("/") == "":
        raise InvalidArgumentError(f"{member} {path!r} is not an absolute path")
    # Two slashes at the start are kept by POSIX, and mean nothing here.
    return "/" + posixpath.normpath(path).lstrip("/")


async def make(
    agent: Agent,
    record: MountRecord,
    mount: Callable[[Undo], T],
    outer: Undo | None = None,
) -> T:
    """Mount off the event loop, and remember which mount it is; after a failure none stays.

    `mount` undoes what it did when it fails, and otherwise says how it is undone. Raises
    WrongStateError when something that is not in the agent's table is mounted there.
    """

    def run(undo: Undo) -> T:
        if mounts.topmost(record.target):
            text = f"{record.target}: something is mounted there already, and not by a host"
            raise WrongStateError(text)
        result = mount(undo)
        found = mounts.topmost(record.target)
        record.mount_id = found.mount_id if found else None
        return result

    return await in_kernel(agent.storage_threads, f"mounting {record.target}", run, outer)


async def take_off(agent: Agent, target: str) -> None:
    """Unmount what was mounted at a target, and no more than that.

    What the agent does not know is unmounted as well: it may be from before it was started.
    """
    record = agent.mounts.get(target)

    def run(_: Undo) -> None:
        mounts.unmount(target, record.mount_id if record else None)
        for name in reversed(record.mappings if record else ()):
            devmapper.remove(name)

    with agent.release_mount(target):
        await in_kernel(agent.storage_threads, f"unmounting {target}", run)
    await remove_remains(agent, target)


async def remove_remains(agent: Agent, target: str) -> None:
    """Remove the folders of deleted containers that waited for this mount to go."""
    for folder in [f for f in agent.remains if target == f or target.startswith(f + "/")]:
        if await trio.to_thread.run_sync(provision.remove_folder, folder):
            agent.remains.discard(folder)


def mount_of(agent: Agent, path: str) -> str | None:
    """Return the target of ours that the path lies on, at or below it."""
    while path not in agent.mounts and path != "/":
        path = os.path.dirname(path)  # noqa: PTH120 - a path of the host, as it was given
    return path if path in agent.mounts else None
