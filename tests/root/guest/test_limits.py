"""What the agent takes for itself, what its processes get, and what happens at the limit."""

import os
from collections.abc import Awaitable
from pathlib import Path

import pytest
import trio

from gcs.errors import CallError, Hresult
from gcs.host.client import Client
from gcs.wire.messages import (
    DeleteContainerState,
    ExecuteProcess,
    ProcessParameters,
    ShutdownForced,
    SignalProcess,
)
from tests.support.agent import VM, AgentHost, Streams, agent_pid, open_agent, vm_process, wait
from tests.support.scenario import check_log, play

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

#: Source: linux/capability.h
_CAP_SYS_RESOURCE = 24
RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
#: What the agent is started with, as a kernel would.
STARTED_WITH = (
    "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, r.getrlimit(r.RLIMIT_NOFILE)[1]))"
)
#: No more descriptors than a few processes need.
FEW = (
    "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (44, 44))\n"
    "from gcs.linux import limits; limits._OPEN_FILES = 44"
)
SAY = "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj"


def in_container(*args: str, **members: object) -> ProcessParameters:
    """Return the parameters of an exec."""
    process: dict[str, object] = {"cwd": "/", "args": args, "env": ["PATH=/bin"], **members}
    return ProcessParameters(oci_process=process)


async def said(
    host: AgentHost, client: Client, container_id: str, parameters: ProcessParameters | None
) -> list[str]:
    """Run a process to its end; return the words that it printed."""
    streams = Streams()
    pid = await host.execute(client, container_id, streams, parameters)
    assert await wait(client, container_id, pid) == 0, streams.stderr
    return streams.stdout.decode().split()


def has_capability(number: int) -> bool:
    """Tell whether this process, and so the agent, has a capability."""
    text = Path("/proc/self/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> number & 1)


def limits_of(pid: int) -> list[str]:
    """Return what SAY would print in another process."""
    folder = Path(f"/proc/{pid}")
    lines = (folder / "limits").read_text().splitlines()
    (files,) = (line for line in lines if line.startswith("Max open files"))
    return [*files.split()[3:5], (folder / "oom_score_adj").read_text().strip()]


def count_descriptors(host: AgentHost) -> int:
    """Return how many descriptors the agent has open."""
    return len(list(Path(f"/proc/{agent_pid(host)}/fd").iterdir()))


def nofile(soft: int, hard: int) -> list[dict[str, object]]:
    """Return the rlimits of an OCI process."""
    return [{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}]


@RUNTIMES
async def test_children_get_what_the_agent_was_started_with(
    tmp_path: Path, runtime: str
) -> None:
    """The agent's own limit is raised and its memory protected; a spec's limits come first."""

    async def scenario(host: AgentHost, client: Client) -> None:
        soft, hard, own_score = limits_of(agent_pid(host))
        assert soft == hard
        _, inherited, score = limits_of(os.getpid())
        may_have_more = has_capability(_CAP_SYS_RESOURCE)
        assert int(hard) == max(int(inherited), 65_536 if may_have_more else 0)
        assert own_score == ("-999" if may_have_more else score)
        words = ["64", inherited, score]
        assert await said(host, client, VM, vm_process("/bin/sh", "-c", SAY)) == words
        await host.create(client, "plain", "sh", "-c", f"{SAY}; echo .; sleep 100")
        streams = Streams()
        await host.execute(client, "plain", streams)
        await streams.has_printed(b".")
        # A runtime written in Go raises its own soft limit, and with it the container's.
        words[0] = words[1] if runtime == "runc" else words[0]
        assert streams.stdout.decode().split() == [*words, "."]
        assert await said(host, client, "plain", in_container("sh", "-c", SAY)) == words
        spec = host.spec("sh", "-c", SAY)
        process = spec["process"]
        assert isinstance(process, dict)
        process |= {"rlimits": nofile(77, 99), "oomScoreAdj": 300}
        await client.call(host.create_request("asked", spec))
        assert await said(host, client, "asked", None) == ["77", "99", "300"]

    await play(tmp_path, scenario, "-runtime", runtime, before=STARTED_WITH)


@RUNTIMES
async def test_an_exec_keeps_limits_of_its_own(tmp_path: Path, runtime: str) -> None:
    """One that has none gets its container's."""

    async def scenario(host: AgentHost, client: Client) -> None:
        spec = host.spec("sleep", "100")
        process = spec["process"]
        assert isinstance(process, dict)
        process["rlimits"] = nofile(77, 99)
        await client.call(host.create_request("c", spec))
        await client.call(ExecuteProcess(container_id="c"))
        own = in_container("sh", "-c", SAY, rlimits=nofile(33, 44))
        assert (await said(host, client, "c", own))[:2] == ["33", "44"]
        none = in_container("sh", "-c", SAY)
        assert (await said(host, client, "c", none))[:2] == ["77", "99"]

    await play(tmp_path, scenario, "-runtime", runtime)


async def test_more_processes_run_than_the_first_limit_has_descriptors_for(
    tmp_path: Path,
) -> None:
    """Thirty of which two streams are open take 150; it was started with 64."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "sleep", "100")
        init = await host.execute(client, "c", Streams())
        pids = [
            await host.execute(client, "c", Streams(), in_container("sleep", "100"))
            for _ in range(30)
        ]
        assert count_descriptors(host) > 30 * 5
        await client.call(SignalProcess(container_id="c", process_id=init))
        for pid in pids:
            assert await wait(client, "c", pid) == 137

    await play(tmp_path, scenario, before=STARTED_WITH)


async def succeeds(call: Awaitable[object]) -> bool:
    """Tell whether a call succeeds; the only other way is a lack of descriptors."""
    try:
        await call
    except CallError as error:
        if error.result == Hresult.FAIL and "EMFILE" in error.message:
            return False
        raise
    return True


@RUNTIMES
@pytest.mark.parametrize("terminal", [False, True])
async def test_without_descriptors_requests_fail_and_the_agent_goes_on(
    tmp_path: Path, runtime: str, terminal: bool
) -> None:
    """The error has the kernel's name for it, what failed leaves nothing, the rest works on."""
    async with open_agent(tmp_path, ("-runtime", runtime), FEW) as host:
        with trio.fail_after(60):
            async with host.connected() as client:
                count = 0
                while await succeeds(
                    host.create(client, f"c{count}", "sleep", "100", terminal=terminal)
                ):
                    count += 1
            async with host.connected() as client:  # dialled with the one that came free
                for number in range(count):
                    await client.call(ShutdownForced(container_id=f"c{number}"))
                for number in range(count):
                    await stopped(client, f"c{number}")
                for number in range(count):
                    await client.call(DeleteContainerState(container_id=f"c{number}"))
                assert (await host.run(client, f"c{count}", "sh", "-c", "exit 9"))[0] == 9
    assert count > 0
    check_log(tmp_path)


async def stopped(client: Client, container_id: str) -> None:
    """Wait until a container has exited; until then a second SIGKILL may still succeed."""
    request = ShutdownForced(container_id=container_id)
    while True:
        try:
            await client.call(request)
        except CallError as error:
            if error.result == Hresult.SYSTEM_ALREADY_STOPPED:
                return
            if error.result != Hresult.ERR_NOT_FOUND:
                raise
        await trio.sleep(0.02)


@RUNTIMES
@pytest.mark.parametrize("kind", ["exec", "terminal", "vm", "console"])
async def test_without_descriptors_no_process_is_lost(
    tmp_path: Path, runtime: str, kind: str
) -> None:
    """Those that run go on, and once they have ended new ones can be started."""
    if kind in ("exec", "terminal"):
        parameters = in_container("sleep", "100", terminal=kind == "terminal")
    else:
        parameters = vm_process("/bin/sleep", "100", console=kind == "console")

    async def scenario(host: AgentHost, client: Client) -> None:
        where = "c" if kind in ("exec", "terminal") else VM
        await host.create(client, "c", "sleep", "100")
        await client.call(ExecuteProcess(container_id="c"))
        pids = list[int]()

        async def start() -> None:
            streams = Streams()
            pids.append(await host.execute(client, where, streams, parameters))

        while await succeeds(start()):
            assert len(pids) < 50
        for pid in pids:
            await client.call(SignalProcess(container_id=where, process_id=pid))
        for pid in pids:
            assert await wait(client, where, pid) == 137
        assert await succeeds(start())

    await play(tmp_path, scenario, "-runtime", runtime, before=FEW)


@RUNTIMES
async def test_an_id_may_be_as_long_as_a_name(tmp_path: Path, runtime: str) -> None:
    """Of a container with a terminal, and of an exec with one: sockets have short paths."""
    container_id = "c" * 200

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, container_id, "sh", "-c", "tty; read x", terminal=True)
        streams = Streams(holds_stdin=True)
        pid = await host.execute(client, container_id, streams)
        await streams.has_printed(b"/dev/")
        inside = in_container("tty", terminal=True, user={"uid": 0, "gid": 0})
        assert await said(host, client, container_id, inside) == ["/dev/pts/1"]
        await client.call(SignalProcess(container_id=container_id, process_id=pid))
        await wait(client, container_id, pid)
        await client.call(DeleteContainerState(container_id=container_id))

    await play(tmp_path, scenario, "-runtime", runtime)
