"""The agent's one connection: what it says first, how it is lost, and what comes after."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from gcs.wire.messages import SignalProcess
from tests.support.agent import AgentHost, Streams, open_agent, wait
from tests.support.scenario import check_log, logged, raw, read_frames, reconnect

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


async def test_the_answer_to_the_negotiation_is_what_hosts_need(tmp_path: Path) -> None:
    """Every member, and no other: version 4, schema 2.1, Linux, and five capabilities."""
    activity = "00000000-0000-0000-0000-000000000000"
    members = {"ContainerId": "", "ActivityId": activity}
    request = raw(11, 0, **members, MinimumVersion=4, MaximumVersion=4)
    async with open_agent(tmp_path) as host:
        sock, _ = await host.listener.accept()
        async with trio.SocketStream(sock) as stream:
            await stream.send_all(request)
            with trio.fail_after(60):
                (answer,) = await read_frames(stream, 1)
    assert answer == (
        2,
        0,
        {
            "Result": 0,
            "ActivityId": activity,
            "Version": 4,
            "Capabilities": {
                "SupportedSchemaVersions": [{"Major": 2, "Minor": 1}],
                "RuntimeOsType": "Linux",
                "GuestDefinedCapabilities": {
                    "NamespaceAddRequestSupported": True,
                    "SignalProcessSupported": True,
                    "DumpStacksSupported": True,
                    "DeleteContainerStateSupported": True,
                    "ReportMountsSupported": True,
                    "WaitForOutOfMemorySupported": True,
                    "TemporaryFilesystemSupported": True,
                    "WritableVpmemSupported": True,
                },
            },
        },
    )


@pytest.mark.parametrize("versions", [(0, 3), (5, 9), (5, 3)])
async def test_a_host_of_another_version_may_ask_again(
    tmp_path: Path, versions: tuple[int, int]
) -> None:
    """The refusal has its own code, and the connection stays for a range with version 4."""
    async with open_agent(tmp_path) as host:
        sock, _ = await host.listener.accept()
        async with trio.SocketStream(sock) as stream:
            low, high = versions
            await stream.send_all(raw(11, 0, MinimumVersion=low, MaximumVersion=high))
            with trio.fail_after(60):
                ((_, _, refusal),) = await read_frames(stream, 1)
                await stream.send_all(raw(11, 1, MinimumVersion=2, MaximumVersion=7))
                ((_, _, answer),) = await read_frames(stream, 1)
    assert isinstance(refusal, dict)
    assert refusal["Result"] == 0xC037010C - 2**32
    assert isinstance(answer, dict)
    assert answer["Version"] == 4


async def test_a_series_of_dials_is_logged_once(tmp_path: Path) -> None:
    """Whether nobody listens or connections are taken and closed; again after a real host."""
    async with open_agent(tmp_path) as host:
        with trio.fail_after(60):
            for _ in range(2):
                await (await reconnect(host, 0)).aclose()
                await _take_and_close(host, 3)
                with _hidden(host.folder / str(0x40000000)):
                    await trio.sleep(0.5)  # four dials, which nobody takes
                await _take_and_close(host, 2)
    said = [r["msg"] for r in logged(tmp_path) if "bridge" in str(r["msg"])]
    assert said == ["bridge connected", "bridge lost", "no bridge yet, dialling on"] * 2


async def _take_and_close(host: AgentHost, times: int) -> None:
    for _ in range(times):
        sock, _ = await host.listener.accept()
        sock.close()


@contextmanager
def _hidden(socket: Path) -> Iterator[None]:
    elsewhere = socket.rename(socket.with_suffix(".hidden"))
    try:
        yield
    finally:
        elsewhere.rename(socket)


async def test_garbage_drops_the_connection_and_the_next_one_is_served(tmp_path: Path) -> None:
    """The agent outlives every malformed stream, and its containers do too."""
    async with open_agent(tmp_path) as host:
        async with host.connected() as client:
            await host.create(client, "c", "sleep", "100")
            pid = await host.execute(client, "c", Streams())
        for data in (
            b"\0" * 64,
            struct.pack("<IIQ", 0x10100101, 4, 0),
            struct.pack("<IIQ", 0x10100101, 2**31, 0),
            struct.pack("<IIQ", 0x20100101, 16, 0),
            struct.pack("<IIQ", 0x30100101, 16, 0),
            raw(11, 0, MinimumVersion=4, MaximumVersion=4)
            + raw(6, 5, ContainerId="c", ProcessId=pid, TimeoutInMs=0xFFFFFFFF) * 2,
        ):
            sock, _ = await host.listener.accept()
            async with trio.SocketStream(sock) as stream:
                await stream.send_all(data)
                with trio.fail_after(60):
                    while await stream.receive_some(4096):
                        pass
        async with host.connected() as client:
            await client.call(SignalProcess(container_id="c", process_id=pid))
            assert await wait(client, "c", pid) == 137
    check_log(tmp_path)
