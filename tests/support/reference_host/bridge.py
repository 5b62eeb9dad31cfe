"""The bridge: requests out, replies matched by id, and an end for a guest that errs."""

from dataclasses import dataclass, field

import trio

from tests.support.reference_host.frames import (
    NOTIFICATION,
    NULL_ID,
    BridgeKilledError,
    Frame,
    FrameReader,
    Rpc,
    encode_request,
    reply_word,
)
from tests.support.reference_host.shapes import (
    GuestError,
    Notification,
    Reply,
    decode_notification,
    decode_reply,
)

__all__ = ["Bridge", "Call"]

#: What is no wait is answered within five minutes, or the bridge is dropped.
_ANSWER_S = 300.0


@dataclass
class Call:
    """A request that is on its way."""

    rpc: Rpc
    message_id: int
    answered: trio.Event = field(default_factory=trio.Event)
    reply: Reply | None = None

    async def result(self) -> Reply:
        """Wait for the reply; raise GuestError if it is a refusal."""
        await self.answered.wait()
        assert self.reply is not None
        if self.reply.number("Result"):
            raise GuestError(self.rpc, self.reply)
        return self.reply


class Bridge:
    """One host's end of the bridge, over one connection after the other."""

    def __init__(self) -> None:
        self.next_id = 0
        #: Requests without an answer.
        self.calls: dict[int, Call] = {}
        #: Containers whose end is yet to be told.
        self.exits: dict[str, trio.Event] = {}
        self.ended: dict[str, Notification] = {}
        #: All that came, in order: what an answer was to, or whose end was told.
        self.journal: list[Rpc | str] = []
        self._lock = trio.Lock()
        self._stream: trio.abc.Stream
        self._is_leaving = False
        #: Set once the guest has closed the bridge, as it may only when it was powered off.
        self.closed = trio.Event()
        self._may_close = False

    def attach(self, stream: trio.abc.Stream) -> None:
        """Send requests over this connection from now on."""
        self._stream, self._is_leaving = stream, False

    async def serve(self) -> None:
        """Receive until this end closes; anything that hosts don't bear is an error."""
        reader = FrameReader(self._stream)
        try:
            while (frame := await reader.next()) is not None:
                self._take(frame)
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            if self._may_close:
                self.closed.set()
            elif not self._is_leaving:
                raise BridgeKilledError(f"the connection broke: {error!r}") from error
            return
        if not self._may_close:
            raise BridgeKilledError("the guest closed the bridge")
        self.closed.set()

    async def power_off(self) -> None:
        """Have the VM end; the guest closes the bridge without an answer."""
        self._may_close = True
        call = await self.send(Rpc.SHUTDOWN_FORCED, NULL_ID)
        await self.closed.wait()
        assert not call.answered.is_set(), "the end of the VM was answered"

    async def leave(self) -> None:
        """Close the connection; what is outstanding stays so."""
        self._is_leaving = True
        await self._stream.aclose()

    def register(self, container_id: str) -> trio.Event:
        """Expect the end of a container; return what is set then."""
        assert container_id not in self.exits, f"{container_id} is registered already"
        self.exits[container_id] = trio.Event()
        return self.exits[container_id]

    def preregister(self, message_id: int, rpc: Rpc) -> Call:
        """Expect the answer to a request that another host sent."""
        call = self.calls[message_id] = Call(rpc, message_id)
        return call

    async def send(self, rpc: Rpc, container_id: str, **members: object) -> Call:
        """Send a request, whose answer is awaited elsewhere."""
        async with self._lock:
            call = self.preregister(self.next_id, rpc)
            self.next_id += 1
            frame = encode_request(rpc, call.message_id, container_id, members)
            await self._stream.send_all(frame)
        return call

    async def call(self, rpc: Rpc, container_id: str, **members: object) -> Reply:
        """Make a request and wait for its answer, with the limit of hosts."""
        call = await self.send(rpc, container_id, **members)
        with trio.move_on_after(_ANSWER_S):
            return await call.result()
        raise BridgeKilledError(f"message timeout: {rpc.name} (id {call.message_id})")

    # -- what comes --

    def _take(self, frame: Frame) -> None:
        match frame.word >> 28:
            case 0x2:
                self._take_reply(frame)
            case 0x3:
                self._take_notification(frame)
            case kind:
                raise BridgeKilledError(f"a frame of kind {kind:#x}: {frame}")

    def _take_reply(self, frame: Frame) -> None:
        call = self.calls.pop(frame.message_id, None)
        if call is None:
            raise BridgeKilledError(f"nobody asked for it, or it is answered: {frame}")
        # Hosts look at the id only; a guest has no reason to answer with another type.
        if frame.word != reply_word(call.rpc):
            raise BridgeKilledError(f"no reply to {call.rpc.name}: {frame}")
        call.reply = decode_reply(call.rpc, frame.payload)
        self.journal.append(call.rpc)
        call.answered.set()

    def _take_notification(self, frame: Frame) -> None:
        if frame.word != NOTIFICATION or frame.message_id:
            raise BridgeKilledError(f"a notification that hosts don't know: {frame}")
        notification = decode_notification(frame.payload)
        exited = self.exits.pop(notification.container_id, None)
        if exited is None:
            raise BridgeKilledError(f"no such container, or its end was told: {notification}")
        self.ended[notification.container_id] = notification
        self.journal.append(notification.container_id)
        exited.set()
