"""ModifySettings of TemporaryFilesystem: a scratch in the VM's memory."""

import logging

from gcs.guest import mounting
from gcs.guest.agent import Agent, MountRecord
from gcs.guest.log import fields
from gcs.guest.mounting import absolute
from gcs.linux import tmpfs
from gcs.wire.resource import TemporaryFilesystem

__all__ = ["add", "remove"]

_log = logging.getLogger("gcs.storage")


async def add(agent: Agent, settings: TemporaryFilesystem) -> None:
    """Mount an empty file system in memory."""
    target, size = absolute(settings.mount_path, "MountPath"), settings.size_in_bytes
    record = MountRecord(target, kind="TemporaryFilesystem", source="tmpfs")
    with agent.reserve_mount(record):
        await mounting.make(agent, record, lambda undo: tmpfs.mount(target, size, undo))
    _log.info("temporary file system mounted", extra=fields(target=target, size=size))


async def remove(agent: Agent, settings: TemporaryFilesystem) -> None:
    """Unmount it, with everything in it."""
    await mounting.take_off(agent, absolute(settings.mount_path, "MountPath"))
