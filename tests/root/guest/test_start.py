"""The agent as hosts in use start it, natively: its flags, its log, its cgroups."""

import json
from pathlib import Path

import pytest
import trio

from gcs.errors import CallError, Hresult
from gcs.wire.messages import DumpStacks, GetProperties
from gcs.wire.properties import PropertyQuery
from tests.support.agent import VM, open_agent

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

FLAGS = (
    *("-v4", "-log-format", "json", "-loglevel", "debug", "-scrub-logs=false"),
    *("-disable-time-sync", "-kmsgLogLevel", "7", "-gcs-mem-limit-bytes=1", "-no-such", "x"),
)


def lines(folder: Path) -> list[dict[str, object]]:
    """Return the agent's log; each line of it is a JSON object."""
    return [json.loads(line) for line in (folder / "agent.log").read_bytes().splitlines()]


async def logged(folder: Path, message: str) -> dict[str, object]:
    """Wait until the log has a message; return its record."""
    with trio.fail_after(60):
        while True:
            for record in lines(folder):
                if record["msg"] == message:
                    return record
            await trio.sleep(0.05)


async def test_every_byte_of_the_log_is_json_whatever_the_flags(tmp_path: Path) -> None:
    """With all of a host's flags and some that nobody has, and the kernel's own messages."""
    async with open_agent(tmp_path, FLAGS) as host, host.connected() as client:
        await client.call(DumpStacks(container_id=VM))
        assert "-no-such x" in str((await logged(tmp_path, "command line"))["what"])
    assert all({"time", "level", "msg"} <= set(record) for record in lines(tmp_path))
    assert not any("stack" in record for record in lines(tmp_path))


async def test_what_the_kernel_does_not_have_is_said_and_no_more(tmp_path: Path) -> None:
    """Here cgroup v2 has no controllers: no limits, but an agent that works."""
    async with open_agent(tmp_path) as host, host.connected() as client:
        query = PropertyQuery(property_types=("Memory", "Load", "ProcessList", "Statistics"))
        found = (await client.call(GetProperties(container_id=VM, query=query))).properties
        assert found.memory is not None
        assert found.process_list
        if found.memory.containers_limit_bytes == 0:
            await logged(tmp_path, "no limit of all containers")


async def test_a_stance_of_deny_refuses_everything_but_the_negotiation(tmp_path: Path) -> None:
    """There is no policy that could open it again."""
    flags = ("-initial-policy-stance", "deny")
    async with open_agent(tmp_path, flags) as host, host.connected() as client:
        with pytest.raises(CallError) as caught:
            await client.call(DumpStacks(container_id=VM))
        assert caught.value.result == Hresult.NOT_IMPL
        assert "deny" in caught.value.message


async def test_a_host_that_stays_away_is_noticed(tmp_path: Path) -> None:
    """Only after it has been there; PID 1 is told to power off."""
    off = tmp_path / "off"
    script = 'trap "echo off >$0; exit" TERM; "$@" & while :; do wait; done'
    flags, init = ("-power-off-after", "1"), ("sh", "-c", script, str(off))
    async with open_agent(tmp_path, flags, "", init) as host:
        async with host.connected() as client:
            await client.call(DumpStacks(container_id=VM))
            await trio.sleep(1.5)
            assert not off.exists()
        host.listener.close()
        with trio.fail_after(60):
            await trio.to_thread.run_sync(host.process.wait)
    assert off.read_text() == "off\n"
