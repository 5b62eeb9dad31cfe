"""Start a service and talk to it; see to it that it is gone afterwards, or that it goes on."""

import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import trio

from gcs.errors import DisconnectedError, GcsError
from gcs.host.child import Child, spawn
from gcs.host.connect import ServiceClient, talk
from gcs.host.state import ID_DIGITS, remove_stale, root_folder

__all__ = ["ServiceHandle", "open_service"]

#: A service ends its programs within 1 s each, and finishes the layer that it is converting;
#: what takes longer is ended by force.
_END_S = 10.0
_TAIL_SIZE = 4096


@dataclass(frozen=True, slots=True)
class ServiceHandle:
    """A running service, as a client that asks it for a container sees it."""

    service: ServiceClient
    #: None when another client has started it
    process: Child | None = None

    def let_go(self) -> None:
        """Leave the service running when the block ends."""
        if self.process is not None:
            self.process.is_released = True


@asynccontextmanager
async def open_service(*, is_shared: bool) -> AsyncIterator[ServiceHandle]:
    """Run a service of our own for the length of the block, or longer if it is let go.

    The end of the connection tells it to end; it is waited for, and ended by force if need be,
    unless others may have containers in it by then (`is_shared`).
    Raises GcsError with its last words when it dies inside the block.
    """
    vm_id = secrets.token_hex(ID_DIGITS // 2)
    ours, theirs = socket.socketpair()
    output = os.memfd_create("gcs-service-output")
    try:
        with theirs:
            starting = _start(vm_id, theirs.fileno(), output)
            async with starting as process:
                theirs.close()
                try:
                    async with talk(ours) as service:
                        yield ServiceHandle(service, process)
                except DisconnectedError as error:
                    raise await _last_words(process, output, error) from error
                finally:
                    if not process.is_released:
                        with trio.move_on_after(_END_S, shield=True):
                            await process.wait()
                    process.is_released |= is_shared
    finally:
        ours.close()
        os.close(output)
        with trio.CancelScope(shield=True):
            await _clean_up_after(vm_id)


def _start(vm_id: str, control_fd: int, output: int) -> AbstractAsyncContextManager[Child]:
    argv = (sys.executable, "-m", "gcs.host.service")
    options = ("--control-fd", str(control_fd), "--vm-id", vm_id)
    # Not leashed: when we die it sees the end of the connection, and still cleans up.
    return spawn(
        "the service", (*argv, *options), output=output, inherit=[control_fd], is_leashed=False
    )


async def _clean_up_after(vm_id: str) -> None:
    """Do what a service that was ended by force has not done; nothing when it has, or runs."""
    root = root_folder()
    if (root / vm_id).exists():
        await remove_stale(root)


async def _last_words(process: Child, output: int, error: DisconnectedError) -> GcsError:
    """Return an error that says how the service ended, once it has."""
    with trio.move_on_after(_END_S):
        await process.wait()
    size = os.fstat(output).st_size
    text = os.pread(output, _TAIL_SIZE, max(0, size - _TAIL_SIZE)).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = f": {lines[-1]}" if lines else ""
    return GcsError(f"{error}; the service {process.describe_end()}{said}")
