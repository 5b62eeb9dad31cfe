"""ModifySettings of MappedDirectory: folders of the host, over 9p."""

import logging
import socket

import trio

from gcs.errors import DeadlineError, InvalidArgumentError
from gcs.guest import mounting
from gcs.guest.agent import Agent, MountRecord
from gcs.guest.log import fields
from gcs.guest.mounting import absolute
from gcs.linux import plan9
from gcs.linux.undo import Undo
from gcs.wire.resource import MappedDirectory

__all__ = ["add_share", "remove_share"]

_log = logging.getLogger("gcs.storage")

#: Where hosts in use serve folders: 9p's number at the IANA.
_PORT = 564
#: A server answers a dial at once; vhost-device-vsock tells of none within 2 s.
_DIAL_TIMEOUT_S = 3.0
#: A mount is three messages each way, a hundredth of a second.
_MOUNT_TIMEOUT_S = 5.0


async def add_share(agent: Agent, settings: MappedDirectory) -> None:
    """Mount what the host serves. Raises DeadlineError when its server does not answer."""
    target = absolute(settings.mount_path, "MountPath")
    share, cache = settings.share_name, settings.cache or plan9.CACHES[0]
    if cache not in plan9.CACHES:
        raise InvalidArgumentError(f"Cache {cache!r} is none of {', '.join(plan9.CACHES)}")
    if "," in share or "\0" in share:
        raise InvalidArgumentError(f"ShareName {share!r} is not acceptable")
    port = settings.port or _PORT
    record = MountRecord(target, kind="MappedDirectory", source=f"{port}:{share}", cache=cache)
    with agent.reserve_mount(record), await agent.transport.dial(port, _DIAL_TIMEOUT_S) as sock:
        await _mount(agent, sock, record, settings)
    _log.info("share mounted", extra=fields(source=record.source, target=target, cache=cache))


async def _mount(
    agent: Agent,
    sock: trio.socket.SocketType,
    record: MountRecord,
    settings: MappedDirectory,
) -> None:
    """Mount what is at the other end. Raises DeadlineError when it does not answer.

    The system call can't be cancelled, but it ends with its connection.
    """
    failure, is_late = None, False
    share = plan9.Share(
        settings.share_name,
        readonly=settings.read_only,
        cache=record.cache,
        is_file=settings.single_file,
    )

    def mount(undo: Undo) -> None:
        plan9.mount(sock.fileno(), record.target, share, undo)

    async def end_when_late() -> None:
        nonlocal is_late
        await trio.sleep(_MOUNT_TIMEOUT_S)
        is_late = True
        sock.shutdown(socket.SHUT_RDWR)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_when_late)
        try:
            await mounting.make(agent, record, mount)
        except OSError as error:
            failure = error  # a nursery would wrap it
        nursery.cancel_scope.cancel()
    if failure is not None and is_late:
        text = f"{failure.strerror}: no answer within {_MOUNT_TIMEOUT_S:g} s"
        raise DeadlineError(text) from failure
    if failure is not None:
        raise failure


async def remove_share(agent: Agent, settings: MappedDirectory) -> None:
    """Unmount a folder of the host, whether its server is there or not."""
    await mounting.take_off(agent, absolute(settings.mount_path, "MountPath"))
