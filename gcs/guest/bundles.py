"""Keep what is written into a container's bundle on its scratch disk instead of in memory.

A folder of the scratch is bound over the bundle before the container's root is mounted in it,
and goes when both the root and the container have gone.

Source: PROTOCOL.md, "CombinedLayers".
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from gcs.guest import mounting
from gcs.guest.agent import Agent, Container, MountRecord
from gcs.linux import mounts, syscall
from gcs.linux.abi import MountFlag
from gcs.linux.undo import Undo

__all__ = ["is_elsewhere", "leave_scratch", "on_scratch"]

_MODE = 0o755


def is_elsewhere(bundle: str, scratch: str) -> bool:
    """Tell whether a scratch folder is neither the bundle nor below it."""
    return bool(scratch) and scratch != bundle and not scratch.startswith(f"{bundle}/")


@asynccontextmanager
async def on_scratch(agent: Agent, bundle: str, scratch: str) -> AsyncIterator[None]:
    """Have the bundle on the scratch for what the block mounts in it, and go with its failure.

    One that the scratch holds anyway, or that is on it already, stays as it is.
    """
    if not is_elsewhere(bundle, scratch) or bundle in agent.mounts:
        yield
        return
    below = mounting.mount_of(agent, scratch)
    record = MountRecord(
        bundle,
        kind="Bundle",
        source=f"{scratch}/bundle",
        uses=frozenset({below} if below else ()),
    )
    made = Undo()
    with agent.reserve_mount(record):
        await mounting.make(
            agent, record, lambda undo: _bind(record.source, bundle, undo), made
        )
    try:
        yield
    except BaseException as error:
        with trio.CancelScope(shield=True), agent.release_mount(bundle):
            await trio.to_thread.run_sync(made.run, error)
        raise


def _bind(source: str, target: str, outer: Undo) -> None:
    with mounts.mounting(target, _MODE, outer) as undo:
        mounts.make_target(source, _MODE, undo)
        syscall.mount(source, target, None, MountFlag.BIND)
        undo.add(syscall.umount, target)


async def leave_scratch(agent: Agent, bundle: str, deleted: Container | None = None) -> bool:
    """Take a bundle off the scratch unless another container or a mount of ours is in it.

    Returns whether it is off, which one that never was on it is.
    """
    record = agent.mounts.get(bundle)
    if record is None or record.kind != "Bundle":
        return True
    containers = (c for c in agent.containers.values() if c is not deleted)
    has_container = any(c.bundle == bundle for c in containers)
    if has_container or any(target.startswith(f"{bundle}/") for target in agent.mounts):
        return False
    await mounting.take_off(agent, bundle)
    await mounting.remove_remains(agent, record.source)
    return True
