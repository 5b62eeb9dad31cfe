"""The bridge to a guest: accept it, agree on the version, make calls with a deadline.

Source: PROTOCOL.md.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from gcs.errors import CallError, DeadlineError, UnsupportedVersionError
from gcs.host.client import Client, open_client
from gcs.host.deadline import deadline
from gcs.host.vsock import Listener
from gcs.wire import messages
from gcs.wire.resource import ModificationRequest, RequestType, ResourceSettings, ResourceType
from gcs.wire.schema import NULL_CONTAINER_ID, Reply, Request

__all__ = ["accept_bridge", "call", "modify", "open_bridge"]

R = TypeVar("R", bound=Reply)

#: What hosts give a guest to boot and dial.
_CONNECT_S = 120.0
#: A guest's own deadlines lie below the five minutes after which hosts give up on a bridge.
#: Under emulation on a busy machine a create takes seconds; this is ten times that.
_CALL_S = 60.0
_PROTOCOL = 4


async def accept_bridge(listener: Listener) -> trio.SocketStream:
    """Wait for the agent to dial. Raises DeadlineError."""
    with deadline(_CONNECT_S, "bridge: the guest's connection"):
        return await listener.accept()


@asynccontextmanager
async def open_bridge(stream: trio.abc.Stream) -> AsyncIterator[Client]:
    """Speak the protocol over the agent's connection for the length of the block.

    Raises UnsupportedVersionError when the guest speaks another version.
    """
    async with open_client(stream, messages.BRIDGE) as client:
        hello = messages.NegotiateProtocol(minimum_version=_PROTOCOL, maximum_version=_PROTOCOL)
        reply = await call(client, hello)
        if reply.version != _PROTOCOL:
            raise UnsupportedVersionError(
                f"NegotiateProtocol: the guest chose version {reply.version}"
            )
        yield client


async def call(client: Client, request: Request[R]) -> R:
    """Make a call that a guest in good health answers soon.

    Raises CallError, DisconnectedError, or DeadlineError when no reply comes.
    """
    with deadline(_CALL_S, f"{type(request).__name__} {request.container_id}".rstrip()):
        return await client.call(request)


async def modify(
    client: Client, action: RequestType, kind: ResourceType, settings: ResourceSettings
) -> None:
    """Add or remove one resource of the VM; an error says which."""
    change = ModificationRequest(request_type=action, resource_type=kind, settings=settings)
    request = messages.ModifySettings(container_id=NULL_CONTAINER_ID, request=change)
    try:
        await call(client, request)
    except (CallError, DeadlineError) as error:
        error.add_note(f"{action} {kind}")
        raise
