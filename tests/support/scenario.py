"""A scenario between a host and an agent of its own, and what both must have to show for it."""

import json
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from gcs.errors import CallError
from gcs.host.client import Client
from gcs.wire.messages import BRIDGE, ContainerNotification
from gcs.wire.schema import Reply, Request
from tests.support.agent import AgentHost, agent_pid, open_agent

__all__ = [
    "check_log",
    "descriptors",
    "exits",
    "logged",
    "play",
    "raw",
    "read_frames",
    "reconnect",
    "refused",
    "same_descriptors",
]

#: Most take some seconds; a machine that has other things to do is ten times slower.
_SCENARIO_S = 240.0
Scenario = Callable[[AgentHost, Client], Awaitable[None]]


async def play(folder: Path, scenario: Scenario, *flags: str, before: str = "") -> None:
    """Run a scenario with an agent of its own, and see its log afterwards.

    Args:
        folder: Of this test; gets the log.
        scenario: What to do.
        flags: For the agent.
        before: Python to run in the agent before it starts, to lower a limit of it.
    """
    async with open_agent(folder, flags, before) as host, host.connected() as client:
        with trio.fail_after(_SCENARIO_S):
            await scenario(host, client)
    check_log(folder)


def logged(folder: Path) -> list[dict[str, object]]:
    """Return the records of an agent's log."""
    return [json.loads(line) for line in (folder / "agent.log").read_text().splitlines()]


def check_log(folder: Path) -> None:
    """Every byte that an agent writes to stderr is a JSON line without a traceback."""
    for record in logged(folder):
        assert {"time", "level", "msg"} <= set(record)
        assert "stack" not in record, record


async def refused(client: Client, request: Request[Reply]) -> CallError:
    """Make a call that must be refused; return the error."""
    with pytest.raises(CallError) as caught:
        await client.call(request)
    return caught.value


async def exits(client: Client, count: int = 0) -> list[ContainerNotification]:
    """Wait for so many exit notifications, and return all that have come."""
    found: list[ContainerNotification] = []
    while True:
        try:
            notification = client.notifications.receive_nowait()
        except trio.WouldBlock:
            if len(found) >= count:
                return found
            with trio.fail_after(20):
                notification = await client.notifications.receive()
        assert isinstance(notification, ContainerNotification)
        found.append(notification)


def raw(number: int, message_id: int, **members: object) -> bytes:
    """Return a request frame by the number of its message."""
    payload = json.dumps(members).encode()
    word = 0x1 << 28 | BRIDGE.category << 20 | number << 8 | 1
    return struct.pack("<IIQ", word, 16 + len(payload), message_id) + payload


async def read_frames(stream: trio.SocketStream, count: int) -> list[tuple[int, int, object]]:
    """Read frames as (kind, message id, body)."""
    data = b""
    found: list[tuple[int, int, object]] = []
    while len(found) < count:
        if len(data) >= 16 and len(data) >= (size := struct.unpack_from("<I", data, 4)[0]):
            word, _, message_id = struct.unpack_from("<IIQ", data)
            found.append((word >> 28, message_id, json.loads(data[16:size])))
            data = data[size:]
            continue
        more = await stream.receive_some(65536)
        assert more, "the agent closed the connection"
        data += more
    return found


async def reconnect(host: AgentHost, message_id: int) -> trio.SocketStream:
    """Accept the agent's next connection, and negotiate under this id."""
    sock, _ = await host.listener.accept()
    stream = trio.SocketStream(sock)
    await stream.send_all(raw(11, message_id, MinimumVersion=4, MaximumVersion=4))
    ((kind, answered, body),) = await read_frames(stream, 1)
    assert (kind, answered) == (2, message_id)
    assert isinstance(body, dict)
    assert body["Result"] == 0
    return stream


def descriptors(host: AgentHost) -> list[str]:
    """Return what the agent has open."""
    found = []
    for entry in Path(f"/proc/{agent_pid(host)}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            found.append(str(entry.readlink()))
    return sorted(found)


async def same_descriptors(host: AgentHost, before: list[str]) -> None:
    """Wait until the agent has no more open than before; what it looks at comes and goes."""
    with trio.move_on_after(20):
        while Counter(descriptors(host)) - Counter(before):  # noqa: ASYNC110 - another's state
            await trio.sleep(0.05)
    assert Counter(descriptors(host)) - Counter(before) == Counter()
