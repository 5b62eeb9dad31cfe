"""The streams of a process: for each a listener that takes one connection and closes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

__all__ = ["Input", "Listen", "Listener", "Output"]


@dataclass(frozen=True)
class Listener:
    """A port that the guest can dial."""

    accept: Callable[[], Awaitable[trio.SocketStream]]
    close: Callable[[], None]


#: Opens a port of the host. It is all that a host needs to know of its transport.
Listen = Callable[[int], Awaitable[Listener]]


class _Stream:
    """A stream; whoever reads or writes it waits until the guest has dialled."""

    def __init__(self, port: int, listener: Listener) -> None:
        self.port = port
        self._listener = listener
        self._connection: trio.SocketStream | None = None
        self._connected = trio.Event()

    @property
    def is_connected(self) -> bool:
        """Whether the guest has dialled."""
        return self._connected.is_set()

    async def connection(self) -> trio.SocketStream:
        """Wait for the guest's connection."""
        await self._connected.wait()
        assert self._connection is not None
        return self._connection

    async def serve(self) -> None:
        """Accept one connection, and close the listener."""
        try:
            self._connection = await self._listener.accept()
        except trio.ClosedResourceError:
            return  # by us: the process did not come to be
        finally:
            self._listener.close()
        self._connected.set()

    async def aclose(self) -> None:
        """Close what there is of it."""
        self._listener.close()
        if self._connection is not None:
            await self._connection.aclose()


class Input(_Stream):
    """Stdin of a process."""

    async def send(self, data: bytes) -> None:
        """Write to it."""
        await (await self.connection()).send_all(data)

    async def end(self) -> None:
        """Half-close it: the process reads its end."""
        await (await self.connection()).send_eof()

    async def guest_has_closed(self) -> None:
        """Wait until the guest has let go of it; it has nothing to say on stdin."""
        try:
            data = await (await self.connection()).receive_some()
        except trio.BrokenResourceError:
            return
        assert not data, f"the guest wrote to stdin: {data!r}"


class Output(_Stream):
    """Stdout or stderr of a process, read to its end, and then closed."""

    def __init__(self, port: int, listener: Listener) -> None:
        super().__init__(port, listener)
        self.data = bytearray()
        self.ended = trio.Event()
        self._grown = trio.Event()

    async def serve(self) -> None:
        """Accept one connection and read it to the end."""
        await super().serve()
        if self._connection is None:
            return
        connection = self._connection
        try:
            async for data in connection:
                self._take(bytes(data))
        except trio.ClosedResourceError:
            # By us. What comes of it is the process's business.
            self.ended.set()
            self._wake()
            return
        # The guest has half-closed and waits for this.
        await connection.aclose()
        self.ended.set()
        self._wake()

    async def has(self, text: bytes) -> None:
        """Wait until this has been printed."""
        while text not in self.data:
            assert not self.ended.is_set(), f"it ended without {text!r}: {self.data[-200:]!r}"
            await self._grown.wait()

    def _take(self, data: bytes) -> None:
        self.data += data
        self._wake()

    def _wake(self) -> None:
        grown, self._grown = self._grown, trio.Event()
        grown.set()
