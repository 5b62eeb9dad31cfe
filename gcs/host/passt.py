"""The network of passt: as a container of this machine's own would have it, without privileges.

passt speaks Ethernet to QEMU over a connected socket, and sockets to the world. Unlike QEMU's
user network it gives the guest this machine's own addresses of both protocols, and publishes
ports of both. It confines itself.

Source: passt(1).
"""

import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from gcs.errors import GcsError
from gcs.host.child import Child, is_running, spawn
from gcs.host.logfile import Log, open_log
from gcs.host.publish import Published
from gcs.host.state import StateFolder

__all__ = ["LOG_NAME", "Passt", "find_passt", "open_passt"]

#: In a VM's state folder.
LOG_NAME = "network.log"
#: They are on their way when it has ended.
_LAST_WORDS_S = 0.3


@dataclass(frozen=True, slots=True)
class Passt:
    """A passt that was started."""

    child: Child
    log: Log
    #: a connected socket, of which passt has the other end; QEMU has inherited it
    qemu_fd: int

    async def check(self) -> None:
        """Raise GcsError, with its words, when it has ended."""
        if not is_running(self.child.pid, self.child.start_time):
            await self.child.wait()
            with trio.move_on_after(_LAST_WORDS_S):
                await self.log.ended.wait()
            said = f"{self.child.name} {self.child.describe_end()}"
            raise GcsError(f"{said}; it printed: {self.log.tail()}")


def find_passt() -> str:
    """Return the program. Raises GcsError."""
    program = shutil.which("passt")
    if program is None:
        raise GcsError("--network passt: passt is not installed; the package passt has it")
    return program


@asynccontextmanager
async def open_passt(
    published: Sequence[Published], folder: StateFolder
) -> AsyncIterator[Passt]:
    """Run passt for the length of the block.

    Args:
        published: Ports of both protocols.
        folder: Of the VM; gets the log.
    """
    qemu_end, own_end = socket.socketpair()
    with qemu_end, own_end:
        fd = own_end.fileno()
        options = ("--foreground", "--stderr", "--fd", str(fd), *_forwarded(published))
        async with open_log(folder.path / LOG_NAME) as log:
            output = log.writer.fileno()
            argv = (find_passt(), *options)
            async with spawn("passt", argv, output=output, inherit=[fd]) as child:
                # The end of what it prints, and of its connection, are to be seen.
                log.writer.close()
                own_end.close()
                folder.record(child)
                yield Passt(child, log, qemu_end.fileno())


def _forwarded(published: Sequence[Published]) -> Sequence[str]:
    """Return the options for ports; without any, passt is to publish none."""
    words: list[str] = []
    for protocol in ("tcp", "udp"):
        option = f"--{protocol}-ports"
        ports = [one for one in published if one.protocol == protocol]
        for one in ports:
            words += [option, f"{one.ip}/{one.port}:{one.container_port}"]
        if not ports:
            words += [option, "none"]
    return words
