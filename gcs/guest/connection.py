"""The bridge: dial the host, read requests, answer them.

What needs no waiting is answered as soon as it is read, and anything else by a task of its own.

The error edge is here: what a handler raises becomes an error reply, and nothing else in the
agent catches broadly.

A lost connection ends no request: its reply waits for a host that knows of it.

Source: PROTOCOL.md, "Connections".
"""

import errno
import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from gcs.errors import (
    DeadlineError,
    GcsError,
    Hresult,
    ProtocolError,
    UnsupportedError,
    UnsupportedVersionError,
)
from gcs.guest import dispatch
from gcs.guest.agent import Agent
from gcs.guest.hosts import Asked, Hosts, LateReply, waited_for
from gcs.guest.log import fields
from gcs.guest.peer import Peer
from gcs.guest.transport import BRIDGE_PORT
from gcs.wire.connection import (
    RequestReceived,
    RequestRefused,
    encode_reply,
    error_reply,
)
from gcs.wire.messages import (
    Capabilities,
    GuestDefinedCapabilities,
    NegotiateProtocol,
    NegotiateProtocolReply,
    SchemaVersion,
    WaitForProcess,
)
from gcs.wire.schema import Reply, Request

__all__ = ["Bridge"]

_log = logging.getLogger("gcs.bridge")

PROTOCOL_VERSION = 4

#: After a failed dial or a lost connection. There is no back-off by design: a VM that was moved
#: thaws only when its host listens.
_REDIAL_S = 0.1
#: A connect attempt of the kernel ends by itself after 2 s; this only backs it.
_DIAL_TIMEOUT_S = 10.0
#: Every request but a wait is answered in less than the host's own limit of five minutes.
_REQUEST_TIMEOUT_S = 270.0
#: Requests at work at a time. Hosts have a few hundred at the most, nearly all of them waits;
#: a task and its request take about 10 KiB.
_MAX_REQUESTS = 2048


@dataclass(slots=True)
class Bridge:
    """The agent's one connection, made again whenever it is lost."""

    agent: Agent
    #: set for good when the first host has been answered
    has_negotiated: trio.Event = field(default_factory=trio.Event)
    _peer: Peer | None = None
    _hosts: Hosts = field(default_factory=Hosts)
    #: requests whose replies are not written, of all connections
    _at_work: int = 0
    #: it has been said that no host is there: once for a series of dials, ten in each second
    _is_alone: bool = False

    async def run(self) -> None:
        """Dial and serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_exits)
            while True:
                try:
                    sock = await self.agent.transport.dial(BRIDGE_PORT, _DIAL_TIMEOUT_S)
                except (OSError, DeadlineError) as error:
                    self._say_alone(error)
                else:
                    await self._serve(sock)
                await trio.sleep(_REDIAL_S)

    def _say_alone(self, why: object) -> None:
        """Log that no host is there, unless that is known already."""
        if not self._is_alone:
            _log.info("no bridge yet, dialling on", extra=fields(error=why))
        self._is_alone = True

    # -- one connection ------------------------------------------------------------------

    async def _serve(self, sock: trio.socket.SocketType) -> None:
        """Read requests until the connection ends, for whatever reason."""
        with trio.CancelScope() as scope:
            peer = self._peer = Peer(sock, scope)
            why: BaseException | str = "closed by the host"
            try:
                with sock:
                    await self._read(peer)
            except ProtocolError as error:
                _log.error("bridge dropped", extra=fields(error=error))
                why = error
            except OSError as error:
                why = error
            if peer.received:
                _log.info("bridge lost", extra=fields(error=why))
            else:  # something takes connections for a host that is not there
                self._say_alone(why)
        self._peer = None
        if peer.received:
            self.agent.host_lost_at = self.agent.last_loss_at = trio.current_time()

    async def _read(self, peer: Peer) -> None:
        while data := await peer.receive():
            peer.connection.receive_data(data)
            for number, event in enumerate(peer.connection.events()):
                if number:  # however many come at a time, others have their turns in between
                    await trio.lowlevel.checkpoint()
                await self._admit(peer, event)

    async def _admit(self, peer: Peer, event: RequestReceived | RequestRefused) -> None:
        """Start the work on a request, or refuse it."""
        if not peer.received:
            self._is_alone = False
            _log.info("bridge connected")
        peer.received += 1
        self.agent.host_lost_at = None
        if isinstance(event, RequestRefused):
            await peer.send(peer.connection.refuse(event.message_id, event.error))
            return
        if peer.is_negotiated:
            # With NegotiateProtocol as its first, a host's id is the number of those before.
            expected_id = peer.received - 1 if peer.is_new else None
            self._hosts.learn(event.message_id, event.request, expected_id)
        if isinstance(event.request, NegotiateProtocol) != (not peer.is_negotiated):
            name = type(event.request).__name__
            refusal = UnsupportedError(f"{name} is not possible now")
            await peer.send(peer.connection.refuse(event.message_id, refusal))
        elif isinstance(event.request, NegotiateProtocol):
            await self._negotiate(peer, event.message_id, event.request)
        elif self._at_work >= _MAX_REQUESTS:
            busy = GcsError(f"{_MAX_REQUESTS} requests are at work already")
            await peer.send(peer.connection.refuse(event.message_id, busy))
        else:
            self._begin(peer, event)

    async def _negotiate(self, peer: Peer, message_id: int, request: NegotiateProtocol) -> None:
        peer.is_new |= message_id == 0
        self._hosts.negotiated(message_id)
        self.agent.host = self._hosts.host
        if not request.minimum_version <= PROTOCOL_VERSION <= request.maximum_version:
            asked = f"{request.minimum_version} to {request.maximum_version}"
            refusal = UnsupportedVersionError(f"version {PROTOCOL_VERSION} is not in {asked}")
            await peer.send(peer.connection.refuse(message_id, refusal))
            return
        peer.is_negotiated = True
        await peer.send(peer.connection.reply(message_id, _negotiated()))
        await self._send_late(peer)
        self.has_negotiated.set()
        peer.hears_exits = True
        self._wake()

    # -- one request ---------------------------------------------------------------------

    def _begin(self, peer: Peer, event: RequestReceived) -> None:
        """Answer a request, or have a task do it that waits for what it must."""
        asked = Asked(self._hosts.host, event.message_id)
        answer = self._answer(event.request)
        if not isinstance(answer, Reply):
            self._at_work += 1
            self.agent.start_soon(self._work, peer, event, asked, answer)
            return
        pending = peer.connection.take(event.message_id)
        late = LateReply(asked, pending, answer, waited_for(event.request))
        frame = encode_reply(event.message_id, pending, answer)
        written = peer.begin(frame)
        if written == len(frame):
            self._note_sent(late)
        else:  # reading goes on: the host may read no reply until it does
            self._at_work += 1
            self.agent.start_soon(self._finish, peer, late, written)

    async def _finish(self, peer: Peer, late: LateReply, written: int) -> None:
        """Send a reply that could not be written at once."""
        try:
            if not await self._send_reply(peer, late, written):
                await self._keep_late(late)
        finally:
            self._at_work -= 1

    async def _work(
        self,
        peer: Peer,
        event: RequestReceived,
        asked: Asked,
        answer: Awaitable[Reply | None],
    ) -> None:
        """Wait for a request's answer and send it, here or to the host that comes next."""
        with self._counting(event.request):
            reply = await self._await(event.request, answer)
            pending = peer.connection.take(event.message_id)
            if reply is None:
                return
            late = LateReply(asked, pending, reply, waited_for(event.request))
            if late.waited_for is not None and peer is self._peer:
                await self._send_late(peer)  # a wait that was taken over goes before this one
            if peer is not self._peer or not await self._send_reply(peer, late):
                await self._keep_late(late)

    def _answer(self, request: Request[Reply]) -> dispatch.Answer:
        """Return what the handler does, or the error reply for what it raised."""
        try:
            return dispatch.dispatch(self.agent, request)
        except Exception as error:  # noqa: BLE001 - the one edge
            return _refusal(request, error)

    async def _await(
        self, request: Request[Reply], answer: Awaitable[Reply | None]
    ) -> Reply | None:
        """Return the reply that comes, or the error reply for what was raised instead."""
        limit = float("inf") if isinstance(request, WaitForProcess) else _REQUEST_TIMEOUT_S
        try:
            with trio.fail_after(limit):
                return await answer
        except trio.TooSlowError:
            name = type(request).__name__
            return _refusal(request, DeadlineError(f"{name}: not done within {limit:g} s"))
        except Exception as error:  # noqa: BLE001 - the one edge
            return _refusal(request, error)

    @contextmanager
    def _counting(self, request: Request[Reply]) -> Iterator[None]:
        """Count a request as at work until its reply is written, or is kept for a host."""
        try:
            with self._counting_waiter(request):
                yield
        finally:
            self._at_work -= 1

    @contextmanager
    def _counting_waiter(self, request: Request[Reply]) -> Iterator[None]:
        """Count a wait on a container's init from its arrival until its reply is written."""
        containers = self.agent.containers
        is_wait = isinstance(request, WaitForProcess)
        container = containers.get(request.container_id) if is_wait else None
        init = container.init if container is not None else None
        if container is None or init is None or init.pid != getattr(request, "process_id", 0):
            yield
            return
        container.waiters += 1
        try:
            yield
        finally:
            container.waiters -= 1
            if container.waiters == 0 and init.finished.is_set():
                container.wait_answered.set()

    # -- sending -------------------------------------------------------------------------

    async def _send_reply(self, peer: Peer, late: LateReply, written: int = 0) -> bool:
        """Write a reply, or what is left of it; return False when the connection is gone."""
        frame = encode_reply(late.asked.message_id, late.pending, late.reply)
        is_sent = await peer.send(frame, written)
        if is_sent:
            self._note_sent(late)
        return is_sent

    def _note_sent(self, late: LateReply) -> None:
        """Whoever has a wait's answer may hear of the container's exit."""
        if late.waited_for is not None:
            self._hosts.is_sent(late)
            self._wake()

    async def _keep_late(self, late: LateReply) -> None:
        """Keep a reply of an old connection until a host is there that waits for it."""
        self._hosts.keep(late)
        if self._peer is not None and self._peer.is_negotiated:
            await self._send_late(self._peer)

    async def _send_late(self, peer: Peer) -> None:
        """Send what was kept and the present host waits for."""
        for late in self._hosts.take_awaited():
            if not await self._send_reply(peer, late):
                self._hosts.keep(late)

    def _wake(self) -> None:
        """Let the exits be looked through again: a host may now hear of them."""
        changed, self.agent.exits_changed = self.agent.exits_changed, trio.Event()
        changed.set()

    async def _send_exits(self) -> None:
        """Send each exit notification once, to a host that knows the container."""
        while True:
            changed = self.agent.exits_changed
            for notification in list(self.agent.exits):
                peer = self._peer
                if peer is None or not peer.hears_exits or notification not in self.agent.exits:
                    continue
                if not self._hosts.may_hear_of(notification.container_id):
                    continue
                is_sent = await peer.send(peer.connection.notify(notification))
                if is_sent and notification in self.agent.exits:
                    self.agent.exits.remove(notification)
            await changed.wait()


def _refusal(request: Request[Reply], error: Exception) -> Reply:
    """Return the error reply for what a handler raised, and say that there was one."""
    name, hresult = type(request).__name__, Hresult.FAIL
    if isinstance(error, GcsError):
        hresult = error.hresult
    elif isinstance(error, OSError):
        number = error.errno or errno.EIO
        error.add_note(errno.errorcode.get(number, str(number)))
    else:
        _log.error("request failed", exc_info=error, extra=fields(request=name))
    reply = error_reply(error, hresult)
    members = fields(request=name, cid=request.container_id, error=reply.error_message)
    _log.info("request refused", extra=members)
    return reply


def _negotiated() -> NegotiateProtocolReply:
    return NegotiateProtocolReply(
        version=PROTOCOL_VERSION,
        capabilities=Capabilities(
            supported_schema_versions=(SchemaVersion(major=2, minor=1),),
            runtime_os_type="Linux",
            guest_defined_capabilities=GuestDefinedCapabilities(
                namespace_add_request_supported=True,
                signal_process_supported=True,
                dump_stacks_supported=True,
                delete_container_state_supported=True,
                report_mounts_supported=True,
                wait_for_out_of_memory_supported=True,
                temporary_filesystem_supported=True,
                writable_vpmem_supported=True,
            ),
        ),
    )
