"""One output stream on its way from a process to the host, and what of it is on its way.

A wait for the process asks for that: it is answered when the output has been handed over.

Source: PROTOCOL.md, "Streams".
"""

from dataclasses import dataclass, field
from threading import Lock

import trio

from gcs.guest.replay import waiting

__all__ = ["Relay"]

#: How long a stream whose last bytes have been handed over is watched for its end after the
#: process has exited: somebody else may hold it open.
_SILENT_GRACE_S = 1.0
#: How long the host may leave output unread after the process has exited before its exit is
#: reported without it. Two minutes are well below the five of a host's own call limit.
_STALLED_GRACE_S = 120.0


@dataclass(slots=True)
class Relay:
    """One output stream on its way; `done` is set when its last byte has been handed over."""

    #: what the bytes come from: the read end of a pipe, or a terminal's master
    source: int
    #: the host's end; None when it wants no such stream, or has gone
    sock: trio.socket.SocketType | None
    #: the host's port, where it is dialled again after a loss
    port: int | None = None
    #: since when the host's end is what it is
    since: float = field(default_factory=trio.current_time)
    done: trio.Event = field(default_factory=trio.Event)
    #: bytes handed over so far
    count: int = 0
    #: bytes taken from the source and not handed over yet
    in_hand: int = 0
    #: held while bytes go from the source into our hands, and from there to `count`: seen from
    #: elsewhere, each is in one place
    changing: Lock = field(default_factory=Lock)

    def hand_over(self, count: int) -> None:
        """Count bytes that were in hand, and are the host's now."""
        with self.changing:
            self.in_hand -= count
            self.count += count

    def _written(self) -> int:
        """Return how many bytes the process has written up to now."""
        with self.changing:
            return self.count + self.in_hand + waiting(self.source)

    async def drained(self) -> None:
        """Wait until all that is there by now has been handed over, and the end comes or not.

        What comes later is somebody else's, who holds the stream open: however much it is, it
        delays nothing. Returns as well when the host does not read (see the constants).
        """
        if self.done.is_set():
            return
        wanted = self._written()
        with trio.move_on_after(_STALLED_GRACE_S):
            while not self.done.is_set():
                with trio.move_on_after(_SILENT_GRACE_S):
                    await self.done.wait()
                if self.count >= wanted:
                    return
