"""The ports that a guest dials before its bridge, when it is started as hosts in use start it.

PID 1 reads random bytes from one, and the agent's log comes over the other: see PROTOCOL.md,
"The start of the guest". The guest dials each once; a log connection outlives the agent.

Both ports are below 1024, which the kernel's own vsock gives to the privileged only; the
program vhost-device-vsock gives them to anybody.

`gcsctl` does without. Its VMs have random numbers of a device, and their agent prints on the
console, whose log (serial.log) needs no privilege, is in one order with what the kernel and
PID 1 say, and is there when it is vsock that fails.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from gcs.host.background import open_background
from gcs.host.logfile import LogFile, keep
from gcs.host.vsock import Listener, Vsock, VsockError

__all__ = ["ENTROPY_PORT", "LOG_NAME", "LOG_PORT", "open_boot_ports", "start_words"]

_log = logging.getLogger("gcs.host.bootports")

ENTROPY_PORT = 1
LOG_PORT = 109
#: The log in a VM's state folder.
LOG_NAME = "guest.log"
#: What hosts in use send: twice what the kernel's pool holds.
_ENTROPY_SIZE = 512
#: At the end of a VM, for what its guest has said and nobody has read yet: it is in a buffer of
#: ours, or of the program between us, which closes the connection after that.
_LAST_WORDS_S = 2.0
#: A guest that has dialled reads at once.
_SEND_S = 10.0


def start_words(level: str = "info", *flags: str) -> tuple[str, ...]:
    """Return what PID 1 gets on the kernel's command line, to start an agent that uses them."""
    agent = ("/bin/gcs", "-v4", "-log-format", "json", "-loglevel", level, *flags)
    return ("-e", str(ENTROPY_PORT), "/bin/vsockexec", "-e", str(LOG_PORT), *agent)


@asynccontextmanager
async def open_boot_ports(vsock: Vsock, folder: Path) -> AsyncIterator[None]:
    """Serve both ports for the length of the block; to be entered before the guest boots.

    The log is in the folder, bounded as all logs of guests. Raises VsockError when a port can't
    be listened on, OSError when the log can't be made.
    """
    log = LogFile(folder / LOG_NAME)
    try:
        with await vsock.listen(ENTROPY_PORT) as entropy, await vsock.listen(LOG_PORT) as logs:
            async with open_background() as nursery:
                nursery.start_soon(_serve, entropy, _send_entropy)
                nursery.start_soon(_serve, logs, partial(_keep_log, log))
                yield
    finally:
        log.close()


async def _serve(
    listener: Listener, work: Callable[[trio.SocketStream], Awaitable[None]]
) -> None:
    try:
        stream = await listener.accept()
    except VsockError as error:
        # Two have dialled, and neither gets anything: the guest is worse off, not the host.
        _log.warning("boot port", extra={"error": str(error)})
        return
    async with stream:
        await work(stream)


async def _send_entropy(stream: trio.SocketStream) -> None:
    with trio.move_on_after(_SEND_S):
        try:
            await stream.send_all(secrets.token_bytes(_ENTROPY_SIZE))
        except trio.BrokenResourceError:
            return  # a guest that has ended already


async def _keep_log(log: LogFile, stream: trio.SocketStream) -> None:
    try:
        await keep(stream, log)
    except trio.Cancelled:
        with trio.move_on_after(_LAST_WORDS_S, shield=True):
            await keep(stream, log)
        raise
