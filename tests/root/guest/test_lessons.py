"""Bugs that other agents have had, each as the claim that it is not one here."""

from pathlib import Path

import pytest
import trio

from gcs.errors import CallError
from gcs.host.client import Client
from gcs.wire.messages import (
    DeleteContainerState,
    ProcessParameters,
    ResizeConsole,
    ShutdownForced,
    ShutdownGraceful,
    SignalProcess,
)
from tests.support.agent import VM, AgentHost, Streams, agent_pid, vm_process, wait
from tests.support.scenario import descriptors, exits, play, refused, same_descriptors

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
_PATH = "/usr/bin:/bin"
#: Prints the session of the process whose pid is in $p.
_SESSION = "read -r _ _ _ _ _ sid _ </proc/$p/stat; echo $sid"


def in_container(*args: str, cwd: str = "/", terminal: bool = False) -> ProcessParameters:
    """Return the parameters of an exec."""
    process: dict[str, object] = {"cwd": cwd, "args": args, "env": ["PATH=/bin"]}
    return ProcessParameters(oci_process={**process, "terminal": terminal})


def shared_pids(host: AgentHost, *args: str) -> dict[str, object]:
    """Return a spec without a pid namespace of its own."""
    kinds = ("mount", "ipc", "uts", "network")
    return host.spec(*args, namespaces=[{"type": kind} for kind in kinds])


def umask_of(pid: int) -> str:
    """Return a process's umask."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("Umask:"))
    return line.split()[1]


@RUNTIMES
async def test_execs_end_with_an_init_in_the_vm_s_pid_namespace(
    tmp_path: Path, runtime: str
) -> None:
    """Whether they were asked for or left behind, and deletion finds none."""

    async def scenario(host: AgentHost, client: Client) -> None:
        spec = shared_pids(host, "sh", "-c", "(sleep 100 &); echo up; sleep 200")
        await client.call(host.create_request("c", spec))
        streams = Streams()
        init = await host.execute(client, "c", streams)
        await streams.has_printed(b"up")
        execs = [
            await host.execute(client, "c", Streams(), in_container("sh", "-c", script))
            for script in ("sleep 300", "(sleep 400 &); sleep 500")
        ]
        await client.call(SignalProcess(container_id="c", process_id=init))
        with trio.fail_after(60):
            for pid in (init, *execs):
                assert await wait(client, "c", pid) == 137
        await client.call(DeleteContainerState(container_id="c"))
        # What was killed is there until it is reaped.
        command = (
            "while grep -l '^sleep' /proc/[0-9]*/comm; do sleep 0.1; done;"
            "! ls -d /sys/fs/cgroup/pods/*/ 2>/dev/null"
        )
        parameters = vm_process("/bin/sh", "-c", command)
        assert (
            await wait(client, VM, await host.execute(client, VM, Streams(), parameters)) == 0
        )

    await play(tmp_path, scenario, "-runtime", runtime)


@RUNTIMES
async def test_a_graceful_shutdown_is_for_the_init_alone(tmp_path: Path, runtime: str) -> None:
    """Its children hear nothing of it, nor do they of a deletion that is refused."""
    child = '(trap "echo heard" TERM; echo up; while :; do sleep 0.05; done) & '
    script = child + 'trap "echo init; exit 5" TERM; while :; do sleep 0.05; done'

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "sh", "-c", script)
        streams = Streams()
        pid = await host.execute(client, "c", streams)
        await streams.has_printed(b"up")
        await refused(client, DeleteContainerState(container_id="c"))
        await client.call(ShutdownGraceful(container_id="c"))
        assert await wait(client, "c", pid) == 5
        assert streams.stdout == b"up\ninit\n"

    await play(tmp_path, scenario, "-runtime", runtime)


@RUNTIMES
@pytest.mark.parametrize("terminal", [False, True])
async def test_no_two_processes_share_a_session(
    tmp_path: Path, runtime: str, terminal: bool
) -> None:
    """Neither with each other nor with the agent: an init, execs and processes of the VM."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "sleep", "100", terminal=terminal)
        pids = [1, await host.execute(client, "c", Streams())]
        exec_parameters = in_container("sleep", "100", terminal=terminal)
        vm_parameters = vm_process("/bin/sleep", "100", console=terminal)
        for where, parameters in (("c", exec_parameters), (VM, vm_parameters)) * 2:
            pids.append(await host.execute(client, where, Streams(), parameters))
        script = f"for p in {' '.join(map(str, pids))}; do {_SESSION}; done"
        # Beside a terminal it is the process itself that makes its session.
        count = f"[ $({{ {script}; }} | sort -u | wc -l) = {len(pids)} ]"
        look = vm_process("/bin/sh", "-c", f"until {count}; do sleep 0.1; done", PATH=_PATH)
        assert await wait(client, VM, await host.execute(client, VM, Streams(), look)) == 0

    await play(tmp_path, scenario, "-runtime", runtime)


@RUNTIMES
async def test_no_working_directory_leads_out_of_a_container(
    tmp_path: Path, runtime: str
) -> None:
    """Neither through descriptors that the runtime has inherited, nor by `..` or a link."""
    way_out = f"cat ./../../../../../../../../..{tmp_path}/agent.log"

    async def scenario(host: AgentHost, client: Client) -> None:
        (host.rootfs / "link").symlink_to("../../../../../../../..")
        await host.create(client, "c", "sleep", "100")
        await host.execute(client, "c", Streams())
        inside = [f"/proc/self/fd/{number}" for number in range(3, 20)]
        for cwd in ("/../../..", "/link", "/proc/self/root", *inside):
            streams = Streams()
            parameters = in_container("sh", "-c", way_out, cwd=cwd)
            try:
                pid = await host.execute(client, "c", streams, parameters)
            except CallError:
                continue
            assert await wait(client, "c", pid) != 0
            assert streams.stdout == b""

    await play(tmp_path, scenario, "-runtime", runtime)


@RUNTIMES
async def test_nothing_stays_open_of_processes_that_have_ended(
    tmp_path: Path, runtime: str
) -> None:
    """Whether they read their input, have a terminal or not, and which of them ends first."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "sleep", "100")
        await host.execute(client, "c", Streams())
        await trio.sleep(0.3)
        before = descriptors(host)

        async def one(number: int) -> None:
            has_terminal = bool(number % 2)
            script = f"sleep 0.{number}; echo {number}; exit {number}"
            parameters = in_container("sh", "-c", script, terminal=has_terminal)
            streams = Streams(holds_stdin=True)
            pid = await host.execute(client, "c", streams, parameters)
            assert await wait(client, "c", pid) == number
            await client.call(ResizeConsole(container_id="c", process_id=pid))
            assert streams.stdout.split() == [b"%d" % number]

        async with trio.open_nursery() as nursery:
            for number in range(1, 9):
                nursery.start_soon(one, number)
        await same_descriptors(host, before)

    await play(tmp_path, scenario, "-runtime", runtime)


async def test_a_container_of_a_moment_starts_and_ends(tmp_path: Path) -> None:
    """However soon it is over, nothing that looks at it fails the start."""

    async def scenario(host: AgentHost, client: Client) -> None:
        for number in range(5):
            name = f"c{number}"
            assert (await host.run(client, name, "true"))[0] == 0
            await client.call(DeleteContainerState(container_id=name))
        assert len(await exits(client, 5)) == 5

    await play(tmp_path, scenario)


async def test_the_agent_s_umask_is_left_alone(tmp_path: Path) -> None:
    """And what is made for the host has its mode all the same."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "sleep", "100")
        assert umask_of(agent_pid(host)) == "0077"
        streams = Streams()
        script = "umask; stat -c %a /run/gcs/c/c"
        look = vm_process("/bin/sh", "-c", script, PATH="/usr/bin:/bin")
        assert await wait(client, VM, await host.execute(client, VM, streams, look)) == 0
        assert streams.stdout == b"0077\n700\n"
        await client.call(ShutdownForced(container_id="c"))

    await play(tmp_path, scenario, before="import os; os.umask(0o077)")
