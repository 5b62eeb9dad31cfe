"""What the host at the other end knows, and which replies wait for it.

A lost connection ends no request. The host may come back in two ways, told by the message id of
its NegotiateProtocol. Above 0 it is the same host with the same counter: it still waits for all
that it asked, and for the ends of its containers. At 0 it is another host, and an unknown id or
container would make it drop the bridge. What it may have from the old one is, for each process,
the id of one wait, the first without a limit. It shows so by a wait of its own for that
process, with an id far above the count; then the old wait is answered too. It hears of a
container's end once it has created it or has had a wait's answer for it.

Source: PROTOCOL.md, "Connections".
"""

from dataclasses import dataclass, field

from msgspec import Struct

from gcs.wire.connection import Pending
from gcs.wire.messages import Create, WaitForProcess
from gcs.wire.schema import Reply, Request

__all__ = ["Asked", "Host", "Hosts", "LateReply", "waited_for"]

_FOREVER = 0xFFFFFFFF
#: Late replies that are kept for a host to come back; each is at most 64 KiB, but a wait's is
#: 40 bytes.
_MAX_LATE = 1024

#: A process: the id of its container, and its pid.
Waited = tuple[str, int]


@dataclass(eq=False, slots=True)
class Host:
    """One host, over all its connections."""

    #: it was there before this agent
    knows_all: bool = False
    #: containers that it has created, or has had a wait's answer for
    knows: set[str] = field(default_factory=set)
    #: its ids go on from those of the host before
    has_taken_over: bool = False
    #: waits of earlier hosts whose replies it waits for
    taken_over: set["Asked"] = field(default_factory=set)


class Asked(Struct, frozen=True):
    """A request, as its host counts it."""

    host: Host
    message_id: int


class LateReply(Struct, frozen=True):
    """A reply on its way, which may outlive the connection of its request."""

    asked: Asked
    pending: Pending
    reply: Reply
    #: what a WaitForProcess was for, else None
    waited_for: Waited | None


def waited_for(request: Request[Reply]) -> Waited | None:
    """Return the process that a request waits for; None if it is no wait."""
    if isinstance(request, WaitForProcess):
        return request.container_id, request.process_id
    return None


@dataclass(slots=True)
class Hosts:
    """The host that is there, and what the hosts before have left."""

    host: Host = field(default_factory=lambda: Host(knows_all=True))
    _last_id: int = 0
    #: for each process the wait that another host would take over
    _first_waits: dict[Waited, Asked] = field(default_factory=dict)
    _late: list[LateReply] = field(default_factory=list)

    def negotiated(self, message_id: int) -> None:
        """Note who has come; forget what only another host would understand."""
        self._last_id = max(self._last_id, message_id)
        if message_id == 0:
            self.host = Host()
            self._late = [late for late in self._late if self._is_first_wait(late)]

    def learn(
        self, message_id: int, request: Request[Reply], expected_id: int | None = None
    ) -> None:
        """Note what a request says of its host.

        `expected_id` is the id of a host that has none from another one, where that is known:
        on the connection that it negotiated with id 0.
        """
        if isinstance(request, Create):
            self.host.knows.add(request.container_id)
        if expected_id is not None and message_id > max(self._last_id, expected_id):
            self.host.has_taken_over = True
        self._last_id = max(self._last_id, message_id)
        if isinstance(request, WaitForProcess):
            self._learn_of_wait(message_id, request)

    def _learn_of_wait(self, message_id: int, request: WaitForProcess) -> None:
        process = request.container_id, request.process_id
        first = self._first_waits.get(process)
        if first is not None and self.host.has_taken_over and first.host is not self.host:
            self.host.taken_over.add(first)
        elif request.timeout_in_ms == _FOREVER and (first is None or not self._awaits(first)):
            self._first_waits[process] = Asked(self.host, message_id)

    def _awaits(self, asked: Asked) -> bool:
        """Tell whether the host that is there waits for a request's reply."""
        return asked.host is self.host or asked in self.host.taken_over

    def _is_first_wait(self, late: LateReply) -> bool:
        process = late.waited_for
        return process is not None and self._first_waits.get(process) == late.asked

    # -- replies --

    def may_hear_of(self, container_id: str) -> bool:
        """Tell whether the host knows a container."""
        return self.host.knows_all or container_id in self.host.knows

    def keep(self, late: LateReply) -> None:
        """Keep a reply that could not be sent, if any host might wait for it."""
        may_matter = self._awaits(late.asked) or self._is_first_wait(late)
        if may_matter and len(self._late) < _MAX_LATE:
            self._late.append(late)

    def take_awaited(self) -> list[LateReply]:
        """Return, and keep no longer, what the host that is there waits for."""
        awaited = [late for late in self._late if self._awaits(late.asked)]
        self._late = [late for late in self._late if not self._awaits(late.asked)]
        return awaited

    def is_sent(self, late: LateReply) -> None:
        """Note that a reply was written: whoever has a wait's knows the container."""
        if late.waited_for is None:
            return
        if self._is_first_wait(late):
            del self._first_waits[late.waited_for]
        self.host.knows.add(late.waited_for[0])
