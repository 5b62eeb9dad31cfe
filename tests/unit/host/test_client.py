"""The typed client, over memory streams, against the guest's half of the connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import get_args

import pytest
import trio
from trio.testing import memory_stream_pair

from gcs.errors import CallError, DisconnectedError, Hresult, WrongStateError
from gcs.host.client import Client, open_client
from gcs.wire.codec import Encoding
from gcs.wire.connection import GuestConnection, RequestReceived
from gcs.wire.control import CONTROL
from gcs.wire.messages import (
    BRIDGE,
    ContainerNotification,
    Create,
    CreateReply,
    ExitType,
    Start,
    WaitForProcess,
    WaitForProcessReply,
)
from gcs.wire.schema import Catalogue, Reply

CID = "c" * 64


class Peer:
    """The guest's end, worked by hand."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.connection = GuestConnection(BRIDGE)
        self._waiting: list[RequestReceived] = []

    async def next_request(self) -> RequestReceived:
        while not self._waiting:
            self.connection.receive_data(bytes(await self.stream.receive_some()))
            for event in self.connection.events():
                assert isinstance(event, RequestReceived)
                self._waiting.append(event)
        return self._waiting.pop(0)

    async def reply(self, request: RequestReceived, reply: Reply) -> None:
        await self.stream.send_all(self.connection.reply(request.message_id, reply))


@asynccontextmanager
async def connected(encoding: Encoding = Encoding.JSON) -> AsyncIterator[tuple[Client, Peer]]:
    ours, theirs = memory_stream_pair()
    async with open_client(ours, BRIDGE, encoding) as client:
        yield client, Peer(theirs)


async def calling(client: Client, result: list[object], request: Start | Create) -> None:
    try:
        result.append(await client.call(request))
    except (CallError, DisconnectedError) as error:
        result.append(error)


@pytest.mark.parametrize("encoding", list(Encoding))
async def test_a_call_returns_the_reply_of_its_type(encoding: Encoding) -> None:
    """The reply to a Create is a CreateReply, in either encoding."""
    result: list[object] = []
    async with connected(encoding) as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(calling, client, result, Create(container_id=CID))
        request = await peer.next_request()
        assert request.request.container_id == CID
        await peer.reply(request, CreateReply(selected_protocol_version=4))
    assert result == [CreateReply(selected_protocol_version=4)]


async def test_an_error_reply_raises_with_request_result_and_message() -> None:
    """A CallError says what was asked and what was answered."""
    result: list[object] = []
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(calling, client, result, Start(container_id=CID))
        request = await peer.next_request()
        refusal = peer.connection.refuse(request.message_id, WrongStateError("not now"))
        await peer.stream.send_all(refusal)
    (error,) = result
    assert isinstance(error, CallError)
    assert (error.request, error.result) == ("Start", Hresult.INVALID_STATE)
    assert str(error) == "Start: not now"


async def test_replies_in_another_order_find_their_callers() -> None:
    """Two calls are under way at once, and the second is answered first."""
    first: list[object] = []
    second: list[object] = []
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(calling, client, first, Create(container_id=CID))
        one = await peer.next_request()
        nursery.start_soon(calling, client, second, Create(container_id="d" * 64))
        two = await peer.next_request()
        await peer.reply(two, CreateReply(selected_protocol_version=2))
        await peer.reply(one, CreateReply(selected_protocol_version=1))
    assert first == [CreateReply(selected_protocol_version=1)]
    assert second == [CreateReply(selected_protocol_version=2)]


async def test_the_end_of_the_connection_fails_every_caller() -> None:
    """Nobody hangs when the guest goes away, and later calls fail at once."""
    result: list[object] = []
    async with connected() as (client, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calling, client, result, Start())
            nursery.start_soon(calling, client, result, Create())
            await peer.next_request()
            await peer.next_request()
            await peer.stream.aclose()
        with pytest.raises(DisconnectedError, match="Start: disconnected: the peer closed"):
            await client.call(Start())
    assert [type(error) for error in result] == [DisconnectedError, DisconnectedError]


async def test_garbage_ends_the_connection_and_is_named_as_the_cause() -> None:
    """A guest that does not speak the protocol is told from one that went away."""
    result: list[object] = []
    async with connected() as (client, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calling, client, result, Start())
            await peer.next_request()
            await peer.stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert client.disconnected.is_set()
    (error,) = result
    assert isinstance(error, DisconnectedError)
    assert "frame header says" in str(error)
    assert error.__cause__ is not None


async def test_a_late_reply_to_a_cancelled_caller_is_dropped() -> None:
    """A caller can give up at any time; the connection goes on."""
    async with connected() as (client, peer):
        with trio.move_on_after(0.01) as scope:
            await client.call(WaitForProcess(process_id=1))
        assert scope.cancelled_caught
        late = await peer.next_request()
        await peer.reply(late, WaitForProcessReply(exit_code=1))
        result: list[object] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calling, client, result, Create())
            await peer.reply(
                await peer.next_request(), CreateReply(selected_protocol_version=0)
            )
        assert result == [CreateReply(selected_protocol_version=0)]


async def test_a_caller_cancelled_before_it_was_sent_leaves_whole_frames() -> None:
    """Cancelling while the writer is held up by a slow guest cuts no frame in two."""
    ours, theirs = memory_stream_pair()
    held, pump = trio.Event(), ours.send_stream.send_all_hook

    async def hold_then_pump() -> None:
        await held.wait()
        assert pump is not None
        await pump()

    ours.send_stream.send_all_hook = hold_then_pump
    async with open_client(ours, BRIDGE) as client:
        for _ in range(40):
            with trio.move_on_after(0.001):
                await client.call(Create())
        held.set()
        peer, result = Peer(theirs), list[object]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calling, client, result, Create(container_id=CID))
            request = await peer.next_request()
            while request.request.container_id != CID:
                request = await peer.next_request()
            await peer.reply(request, CreateReply(selected_protocol_version=0))
    assert result == [CreateReply(selected_protocol_version=0)]


async def test_notifications_reach_the_owner() -> None:
    """What the guest says unasked comes out of the channel as a record."""
    exited = ContainerNotification(
        container_id=CID,
        activity_id="00000000-0000-0000-0000-000000000000",
        type=ExitType.GRACEFUL,
        operation="None",
        result=0,
    )
    async with connected() as (client, peer):
        await peer.stream.send_all(peer.connection.notify(exited))
        assert await client.notifications.receive() == exited


@pytest.mark.parametrize("catalogue", [BRIDGE, CONTROL])
def test_each_reply_is_the_parameter_of_its_request(catalogue: Catalogue) -> None:
    """`call` may promise the type that the request's class names."""
    for row in catalogue.rows:
        bases: tuple[object, ...] = row.request.__orig_bases__  # type: ignore[attr-defined]
        assert get_args(bases[0]) == (row.reply,)


def test_bridge_and_control_do_not_share_a_category() -> None:
    """A frame that strays into the other kind of connection is refused by its type."""
    assert BRIDGE.category != CONTROL.category
