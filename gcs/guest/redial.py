"""How the streams of a process find their host again after it has gone, or the VM has moved.

A VM that moves loses all its connections. The host that goes on with it listens on the same
ports, and gets the newest output again: what was on its way when the connection was lost is in
nobody's hands. Other hosts don't know of these streams, and their ports may have the same
numbers; they are not dialled.

A host that closes a stream and stays is not lost: its process learns that nobody reads.

Source: PROTOCOL.md, "Streams".
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from gcs.errors import DeadlineError
from gcs.guest.transport import Transport

__all__ = ["LOSS_S", "Redial"]

#: How long the bridge may take to end too: the connections of a host end one after the other.
LOSS_S = 0.2
#: How long a process may be stopped by its full pipe while its host is away. A VM that moves is
#: itself stopped for nearly all of that.
_AWAY_S = 30.0
#: As for the bridge; with the limit above 300 attempts at the most.
_REDIAL_S = 0.1
#: A connect attempt of the kernel ends by itself after 2 s; this only backs it.
_DIAL_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Redial:
    """What the streams of a process know of their host."""

    transport: Transport
    #: whether the host is not there, or was lost just now
    is_host_lost: Callable[[], bool]
    #: whether a host was lost since that time (trio's)
    was_lost_since: Callable[[float], bool]
    #: whether one is there that goes on with these streams
    is_host_back: Callable[[], bool]
    #: of stdout and stderr, where they are dialled again
    ports: tuple[int | None, int | None] = (None, None)

    async def dial(self, port: int, since: float) -> trio.socket.SocketType | None:
        """Return a new connection in place of one that was made then and is broken.

        None when no host was lost meanwhile, or when it stays away.
        """
        await trio.sleep(LOSS_S)
        if not self.was_lost_since(since):
            return None
        with trio.move_on_after(_AWAY_S):
            while True:
                if self.is_host_back():
                    with suppress(OSError, DeadlineError):
                        return await self.transport.dial(port, _DIAL_TIMEOUT_S)
                await trio.sleep(_REDIAL_S)
        return None
