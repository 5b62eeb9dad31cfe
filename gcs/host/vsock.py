"""vsock as the host sees it: listen for the guest on a port, or connect to a port of the guest.

There are two kinds. A kernel with vhost-vsock gives AF_VSOCK sockets. Everywhere else the
program vhost-device-vsock carries the packets and shows each port of the host as a unix socket
`<path>_<port>`, and the guest's ports behind a one-line greeting on `<path>` itself.

A listener must exist before the guest dials: otherwise the guest waits 2 s for ETIMEDOUT (the
program) or gets ECONNRESET (the kernel). It accepts one connection and is gone.

vsock has no namespaces: a container without a seccomp profile can dial whatever its VM can, and
which process of a guest has dialled is not told. So the ports of streams are drawn at random,
for they can't be found in the moment in which one is listened on; and where two have come all
the same, neither is taken.

The program knows no half-close: whoever shuts down one direction of a connection ends both.

Source: vsock(7); the README of vhost-device-vsock, "hybrid vsock" of Firecracker.
"""

import errno
import secrets
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import trio

from gcs.errors import GcsError

__all__ = [
    "BRIDGE_PORT",
    "HybridVsock",
    "KernelVsock",
    "Listener",
    "Ports",
    "Vsock",
    "VsockError",
]

#: The guest's agent dials this port of the host.
BRIDGE_PORT = 0x40000000

#: Ports of streams: above the bridge's and all that have a meaning, below VMADDR_PORT_ANY. A
#: guest that dials 10,000 of these 2³¹ in a second finds one that is listened on for a second
#: once in 60 hours.
_FIRST_STREAM_PORT = 0x80000000
_STREAM_PORTS = 0xFFFFFFFF - _FIRST_STREAM_PORT
#: Ports of 9p servers: what names one to the guest is signed and has 32 bits.
_FIRST_SHARE_PORT = 0x41000000
_SHARE_PORTS = 0x7FFFFFFF - _FIRST_SHARE_PORT
#: Connections that can wait to be accepted. vhost-device-vsock stands still while there is no
#: room for one, so it is more than a guest makes by mistake.
_BACKLOG = 8

#: A guest that listens answers at once; the program itself gives up after 2 s.
_GREETING_S = 5.0
#: "OK <port>\n": the number has at most ten digits.
_MAX_GREETING = 32
#: On a kernel's vsock all VMs of a machine share the host's ports. Another VM's listener lasts
#: for one accept, and the guest that waits for it dials again every 0.1 s.
_BIND_RETRY_S = 0.05
_BIND_DEADLINE_S = 10.0


class VsockError(GcsError):
    """A port can't be listened on, or nobody listens there in the guest."""


class Ports:
    """The host's ports for streams: not to be guessed, and none is used twice."""

    def __init__(self, first: int = _FIRST_STREAM_PORT, count: int = _STREAM_PORTS) -> None:
        self._first = first
        self._count = count
        self._taken: set[int] = set()

    @classmethod
    def of_shares(cls) -> Self:
        """Return those for 9p servers."""
        return cls(_FIRST_SHARE_PORT, _SHARE_PORTS)

    def take(self) -> int:
        """Return a port that was never used in this VM."""
        while True:
            port = self._first + secrets.randbelow(self._count)
            if port not in self._taken:
                self._taken.add(port)
                return port


class Listener:
    """A port of the host that the guest will connect to, once; close it, or leave its block."""

    def __init__(
        self,
        sock: socket.socket,
        port: int,
        is_guest: Callable[[socket.socket], bool],
        path: Path | None = None,
    ) -> None:
        self._sock = sock
        self._port = port
        self._is_guest = is_guest
        self._path = path

    async def accept(self) -> trio.SocketStream:
        """Wait for the guest, then stop listening; whoever else connects is turned away.

        Raises VsockError when two of the guest's connections have come: one of the two is not
        its agent's. One that has been given up already does not count: a dial can time out in
        the guest before the host sees it, and is made again.
        """
        await trio.lowlevel.checkpoint()
        while not (found := self._waiting()):
            await trio.lowlevel.wait_readable(self._sock)
        self.close()
        live = [one for one in found if not _is_given_up(one)] or found[-1:]
        chosen = live[0] if len(live) == 1 else None
        for connection in found:
            if connection is not chosen:
                connection.close()
        if chosen is None:
            text = f"vsock port {self._port}: {len(live)} connections came instead of one"
            raise VsockError(f"{text}: not only the agent dials in this guest")
        return trio.SocketStream(trio.socket.from_stdlib_socket(chosen))

    def _waiting(self) -> list[socket.socket]:
        """Return the connections of the guest that can be accepted at this moment."""
        found: list[socket.socket] = []
        while True:
            try:
                connection, _ = self._sock.accept()
            except BlockingIOError:
                return found
            except ConnectionError:
                continue  # it was given up while it waited
            connection.setblocking(False)
            if self._is_guest(connection):
                found.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Stop listening; more than once is allowed."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _is_given_up(connection: socket.socket) -> bool:
    """Tell whether the other side has closed, with nothing left to be read."""
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


class Vsock(Protocol):
    """The two directions; see the module."""

    async def listen(self, port: int) -> Listener:
        """Listen on a port of the host. Raises VsockError when that is not possible."""

    async def connect(self, port: int) -> trio.SocketStream:
        """Connect to a port of the guest. Raises VsockError when nobody listens there."""


class HybridVsock:
    """The unix sockets of a vhost-device-vsock."""

    def __init__(self, path: Path, pid: int) -> None:
        self._path = path
        #: the program's: only it speaks for the guest
        self._pid = pid

    async def listen(self, port: int) -> Listener:
        """Listen on a port of the host. Raises VsockError when that is not possible."""
        path = Path(f"{self._path}_{port}")
        sock = _listening(socket.AF_UNIX)
        try:
            sock.bind(str(path))
        except OSError as error:
            sock.close()
            text = f"listen on vsock port {port}: {path}: {_reason(error)}"
            raise VsockError(text) from error
        sock.listen(_BACKLOG)
        return Listener(sock, port, self._is_guest, path)

    def _is_guest(self, connection: socket.socket) -> bool:
        pid, _, _ = _peer_credentials(connection)
        return pid == self._pid

    async def connect(self, port: int) -> trio.SocketStream:
        """Connect to a port of the guest. Raises VsockError when nobody listens there."""
        what = f"connect to vsock port {port} of the guest"
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with trio.fail_after(_GREETING_S):
                await sock.connect(str(self._path))
                await sock.send(f"CONNECT {port}\n".encode())
                answer = await _read_greeting(sock)
        except (OSError, trio.TooSlowError) as error:
            sock.close()
            raise VsockError(f"{what}: {_reason(error)}") from error
        except BaseException:
            sock.close()
            raise
        if not answer.startswith(b"OK "):
            sock.close()
            raise VsockError(f"{what}: nobody listens there")
        return trio.SocketStream(sock)


async def _read_greeting(sock: trio.socket.SocketType) -> bytes:
    """Read up to the end of the line, byte by byte: what follows it is the guest's."""
    answer = b""
    while not answer.endswith(b"\n") and len(answer) < _MAX_GREETING:
        byte = await sock.recv(1)
        if not byte:
            break
        answer += byte
    return answer


def _listening(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


def _peer_credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of who connected. Source: unix(7), struct ucred."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", raw)
    return pid, uid, gid


class KernelVsock:
    """The kernel's AF_VSOCK, for a guest with this cid."""

    def __init__(self, cid: int) -> None:
        self._cid = cid

    async def listen(self, port: int) -> Listener:
        """Listen on a port of the host. Raises VsockError when that is not possible."""
        sock = _listening(socket.AF_VSOCK)
        try:
            await _bind_when_free(sock, port)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise VsockError(f"listen on vsock port {port}: {_reason(error)}") from error
        except BaseException:
            sock.close()
            raise
        return Listener(sock, port, self._is_guest)

    def _is_guest(self, connection: socket.socket) -> bool:
        cid, _ = connection.getpeername()
        return bool(cid == self._cid)

    async def connect(self, port: int) -> trio.SocketStream:
        """Connect to a port of the guest. Raises VsockError when nobody listens there."""
        sock = trio.socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            await sock.connect((self._cid, port))
        except OSError as error:
            sock.close()
            text = f"connect to vsock port {port} of the guest: {_reason(error)}"
            raise VsockError(text) from error
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)


async def _bind_when_free(sock: socket.socket, port: int) -> None:
    deadline = trio.current_time() + _BIND_DEADLINE_S
    while True:
        try:
            sock.bind((socket.VMADDR_CID_ANY, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or trio.current_time() > deadline:
                raise
        else:
            return
        await trio.sleep(_BIND_RETRY_S)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"no answer in {_GREETING_S:g} s"
