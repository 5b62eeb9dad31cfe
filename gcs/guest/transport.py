"""How the agent reaches its host: it always dials, the host always listens.

Two forms: vsock to the host's CID, and unix sockets in a folder, one per port, for other
virtual machine monitors and for tests without a VM.

Source: vsock(7).
Needs: CONFIG_VSOCKETS, CONFIG_VIRTIO_VSOCKETS
"""

import errno
import socket
from dataclasses import dataclass
from pathlib import Path

import trio

from gcs.errors import DeadlineError

__all__ = ["BRIDGE_PORT", "Transport", "UnixTransport", "VsockTransport"]

#: Where the host listens for the bridge; stdio streams have the ports above it.
BRIDGE_PORT = 0x40000000

#: VMADDR_CID_HOST of linux/vm_sockets.h
_HOST_CID = 2


@dataclass(frozen=True, slots=True)
class VsockTransport:
    """Ports of the host over AF_VSOCK."""

    cid: int = _HOST_CID

    async def dial(self, port: int, timeout_s: float) -> trio.socket.SocketType:
        """Return a connected socket. Raises OSError, or DeadlineError after the timeout."""
        subject = f"vsock port {port:#x}"
        sock = _socket(socket.AF_VSOCK, subject)
        return await _connect(sock, (self.cid, port), subject, timeout_s)


@dataclass(frozen=True, slots=True)
class UnixTransport:
    """Ports of the host as unix sockets `<folder>/<port in decimal>`."""

    folder: Path

    async def dial(self, port: int, timeout_s: float) -> trio.socket.SocketType:
        """Return a connected socket. Raises OSError, or DeadlineError after the timeout."""
        path = str(self.folder / str(port))
        subject = f"unix socket {path}"
        return await _connect(_socket(socket.AF_UNIX, subject), path, subject, timeout_s)


Transport = VsockTransport | UnixTransport


def _socket(family: socket.AddressFamily, subject: str) -> trio.socket.SocketType:
    try:
        return trio.socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        number = error.errno or errno.EIO
        raise OSError(number, f"socket for {subject}: {error.strerror}") from error


async def _connect(
    sock: trio.socket.SocketType, address: tuple[int, int] | str, subject: str, timeout_s: float
) -> trio.socket.SocketType:
    try:
        with trio.fail_after(timeout_s):
            await sock.connect(address)
    except trio.TooSlowError as error:
        sock.close()
        raise DeadlineError(f"connect {subject}: no answer within {timeout_s:g} s") from error
    except OSError as error:
        sock.close()
        number = error.errno or errno.EIO
        raise OSError(number, f"connect {subject}: {error.strerror}") from error
    except BaseException:
        sock.close()
        raise
    return sock
