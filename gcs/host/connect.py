"""A client's end of a control socket: typed calls, and the streams that come with replies."""

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from gcs.errors import DisconnectedError
from gcs.host.client import Client, open_client
from gcs.host.fdstream import FdStream
from gcs.host.process import Streams
from gcs.wire.codec import Encoding
from gcs.wire.control import CONTROL, StreamName

__all__ = ["ServiceClient", "connect", "talk"]


@dataclass(frozen=True, slots=True)
class ServiceClient:
    """A connection to the service that owns a VM."""

    client: Client
    _stream: FdStream

    def take_streams(self, names: Sequence[StreamName]) -> Streams:
        """Make streams of the descriptors that came with the last reply."""
        streams: dict[StreamName, trio.SocketStream] = {}
        for name, fd in zip(names, self._stream.take_fds(len(names)), strict=True):
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            streams[name] = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        return streams


@asynccontextmanager
async def talk(sock: socket.socket) -> AsyncIterator[ServiceClient]:
    """Speak with a service over a connected socket for the length of the block."""
    stream = FdStream(sock)
    async with open_client(stream, CONTROL, Encoding.CBOR) as client:
        yield ServiceClient(client, stream)


@asynccontextmanager
async def connect(folder: Path) -> AsyncIterator[ServiceClient]:
    """Speak with the service that owns a state folder for the length of the block.

    Raises DisconnectedError when there is none any more.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The backlog is longer than the number of clients that start at once: no wait here.
        sock.connect(str(folder / "control"))
    except OSError as error:
        sock.close()
        raise DisconnectedError(f"the service of VM {folder.name}: {error.strerror}") from error
    async with talk(sock) as service:
        yield service
