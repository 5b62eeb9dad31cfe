"""The agent's requests against a real kernel and a real runc, over unix sockets."""

from pathlib import Path

import pytest
import trio

from gcs.errors import Hresult
from gcs.host.client import Client
from gcs.wire.codec import Encoding
from gcs.wire.messages import (
    ContainerNotification,
    Create,
    DeleteContainerState,
    DumpStacks,
    ExecuteProcess,
    ExecuteProcessSettings,
    ExitType,
    GetProperties,
    ModifySettings,
    NegotiateProtocol,
    ProcessParameters,
    ResizeConsole,
    ShutdownForced,
    ShutdownGraceful,
    SignalOptions,
    SignalProcess,
    Start,
    VsockStdioRelaySettings,
    WaitForProcess,
)
from gcs.wire.properties import PropertyQuery
from gcs.wire.resource import ModificationRequest
from gcs.wire.schema import Reply, Request
from tests.support.agent import VM, AgentHost, Streams, open_agent, vm_process, wait
from tests.support.scenario import exits, play, refused

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

Case = tuple[Request[Reply], Hresult, str]


@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_a_container_runs_and_says_how_it_ended(tmp_path: Path, runtime: str) -> None:
    """Both runtimes relay all three streams, and the exit status is the program's."""

    async def scenario(host: AgentHost, client: Client) -> None:
        script = "cat; echo err >&2; echo x >/dev/stdout; exit 7"
        assert await host.run(client, "c", "sh", "-c", script, stdin=b"in\n") == (
            7,
            b"in\nx\n",
            b"err\n",
        )
        (notification,) = await exits(client, 1)
        assert (notification.container_id, notification.type) == ("c", ExitType.UNEXPECTED)
        await client.call(DeleteContainerState(container_id="c"))
        error = await refused(client, DeleteContainerState(container_id="c"))
        assert error.result == Hresult.SYSTEM_NOT_FOUND
        assert (await host.run(client, "c", "true"))[0] == 0

    await play(tmp_path, scenario, "-runtime", runtime)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize(("program", "says"), [("/nope", "nope"), ("/proc", "permi")])
async def test_a_program_that_cannot_run_is_refused_in_the_runtime_s_words(
    tmp_path: Path, runtime: str, program: str, says: str
) -> None:
    """The error is the runtime's sentence, the id is free again, nothing of it stays."""

    async def scenario(host: AgentHost, client: Client) -> None:
        request = host.create_request("c", host.spec(program))
        error = await refused(client, request)
        assert says in error.message
        assert error.result == Hresult.FAIL
        assert (await host.run(client, "c", "true"))[0] == 0

    await play(tmp_path, scenario, "-runtime", runtime)


async def test_signals_end_a_container_by_their_number(tmp_path: Path) -> None:
    """The status is 128 + N, and the notification says what was asked last."""
    trap = 'trap "exit 3" TERM; echo ready; while :; do sleep 0.1; done'

    async def started(host: AgentHost, client: Client, name: str) -> int:
        await host.create(client, name, "sh", "-c", trap)
        streams = Streams()
        pid = await host.execute(client, name, streams)
        await streams.has_printed(b"ready")
        return pid

    async def scenario(host: AgentHost, client: Client) -> None:
        pid = await started(host, client, "term")
        await client.call(ShutdownGraceful(container_id="term"))
        assert await wait(client, "term", pid) == 3
        pid = await started(host, client, "kill")
        await client.call(ShutdownForced(container_id="kill"))
        assert await wait(client, "kill", pid) == 128 + 9
        pid = await started(host, client, "default")
        await client.call(SignalProcess(container_id="default", process_id=pid))
        assert await wait(client, "default", pid) == 128 + 9
        assert [(e.container_id, e.type) for e in await exits(client, 3)] == [
            ("term", ExitType.GRACEFUL),
            ("kill", ExitType.FORCED),
            ("default", ExitType.FORCED),
        ]
        error = await refused(client, ShutdownForced(container_id="kill"))
        assert error.result == Hresult.SYSTEM_ALREADY_STOPPED
        options = SignalOptions(signal=15)
        gone = SignalProcess(container_id="kill", process_id=pid, options=options)
        assert (await refused(client, gone)).result == Hresult.ERR_NOT_FOUND

    await play(tmp_path, scenario)


async def test_an_exec_joins_a_container_and_its_status_is_kept(tmp_path: Path) -> None:
    """Execs run side by side, their statuses can be asked for twice, until deletion."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "sleep", "100")
        process: dict[str, object] = {"cwd": "/", "args": ["sh", "-c", "cat; exit 5"]}
        process |= {"env": ["PATH=/bin"], "user": {"uid": 7, "gid": 8}}
        parameters = ProcessParameters(oci_process=process)
        error = await refused(
            client,
            ExecuteProcess(
                container_id="c", settings=ExecuteProcessSettings(process_parameters=parameters)
            ),
        )
        assert error.result == Hresult.INVALID_STATE
        init = await host.execute(client, "c", Streams())
        results = []

        async def one(number: int) -> None:
            streams = Streams(b"%d" % number)
            pid = await host.execute(client, "c", streams, parameters)
            results.append((await wait(client, "c", pid), bytes(streams.stdout)))
            assert await wait(client, "c", pid) == 5

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(one, number)
        assert sorted(results) == [(5, b"%d" % number) for number in range(5)]
        query = PropertyQuery(property_types=("ProcessList", "Odd"))
        await client.call(GetProperties(container_id="c", query=query))
        await client.call(SignalProcess(container_id="c", process_id=init))
        assert await wait(client, "c", init) == 137
        await client.call(DeleteContainerState(container_id="c"))

    await play(tmp_path, scenario)


async def test_a_terminal_has_a_size_and_an_end(tmp_path: Path) -> None:
    """A tty container sees the size that was set, and ^D at the end of its input."""

    script = "until stty size | grep 77; do sleep 0.05; done 2>/dev/null; read x; cat"

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "sh", "-c", script, terminal=True)
        streams = Streams(b"go\nmore\n")
        pid = await host.execute(client, "c", streams)
        await client.call(ResizeConsole(container_id="c", process_id=pid, height=33, width=77))
        assert await wait(client, "c", pid) == 0
        assert b"33 77" in streams.stdout
        assert streams.stdout.count(b"more\r\n") == 2

    await play(tmp_path, scenario)


async def test_a_resize_without_a_terminal_is_refused(tmp_path: Path) -> None:
    """The error says so."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "sleep", "100")
        pid = await host.execute(client, "c", Streams())
        error = await refused(client, ResizeConsole(container_id="c", process_id=pid))
        assert "has no terminal" in error.message

    await play(tmp_path, scenario)


async def test_a_grandchild_that_holds_the_pipe_delays_no_wait(tmp_path: Path) -> None:
    """The exec's exit is reported within the grace, and what comes later still arrives."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "sleep", "100")
        await host.execute(client, "c", Streams())
        script = "echo first; (until [ -e /go ]; do sleep 0.1; done; echo late) & exit 4"
        process: dict[str, object] = {"cwd": "/", "args": ["sh", "-c", script]}
        process["env"] = ["PATH=/bin"]
        streams = Streams()
        parameters = ProcessParameters(oci_process=process)
        pid = await host.execute(client, "c", streams, parameters)
        with trio.fail_after(60):
            assert await wait(client, "c", pid) == 4
        assert streams.stdout == b"first\n"
        (host.rootfs / "go").touch()
        await streams.has_printed(b"late")

    await play(tmp_path, scenario)


async def test_orphans_are_reaped_and_no_status_is_stolen(tmp_path: Path) -> None:
    """Double-forked processes in the VM's pid namespace leave no zombie behind."""

    async def scenario(host: AgentHost, client: Client) -> None:
        async def one(number: int) -> None:
            script = f"(sleep 0.0{number % 10} &) ; exit {number}"
            pid = await host.execute(client, VM, Streams(), vm_process("/bin/sh", "-c", script))
            assert await wait(client, VM, pid) == number

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
        script = "while grep -l '^State:.Z' /proc/[0-9]*/status; do sleep 0.1; done"
        pid = await host.execute(client, VM, Streams(), vm_process("/bin/sh", "-c", script))
        assert await wait(client, VM, pid) == 0

    await play(tmp_path, scenario)


async def test_a_process_of_the_vm_can_be_signalled_and_resized(tmp_path: Path) -> None:
    """With a console it has a terminal of its own; its death by a signal is 128 + N."""

    async def scenario(host: AgentHost, client: Client) -> None:
        streams = Streams(b"x\n")
        parameters = vm_process("/bin/sh", "-c", "tty; read x; stty size", console=True)
        pid = await host.execute(client, VM, streams, parameters)
        await client.call(ResizeConsole(container_id=VM, process_id=pid, height=9, width=8))
        assert await wait(client, VM, pid) == 0
        assert b"/dev/pts/" in streams.stdout
        pid = await host.execute(client, VM, Streams(), vm_process("/bin/sleep", "100"))
        options = SignalOptions(signal=15)
        await client.call(SignalProcess(container_id=VM, process_id=pid, options=options))
        assert await wait(client, VM, pid) == 143
        missing = ExecuteProcess(
            container_id=VM,
            settings=ExecuteProcessSettings(process_parameters=vm_process("nope")),
        )
        assert "nope: no such program" in (await refused(client, missing)).message

    await play(tmp_path, scenario)


async def test_a_stream_that_nobody_listens_on_fails_its_process(tmp_path: Path) -> None:
    """The error names the stream, and the container can still be started."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "true")
        settings = ExecuteProcessSettings(
            process_parameters=ProcessParameters(create_std_out_pipe=True),
            vsock_stdio_relay_settings=VsockStdioRelaySettings(std_out=1),
        )
        with trio.fail_after(60):
            error = await refused(client, ExecuteProcess(container_id="c", settings=settings))
        assert "connecting stdout" in error.message
        pid = await host.execute(client, "c", Streams())
        assert await wait(client, "c", pid) == 0

    await play(tmp_path, scenario)


async def test_requests_for_what_is_not_there_are_refused_by_name(tmp_path: Path) -> None:
    """Each unknown thing has its own HRESULT, and the text names it."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await client.call(Start(container_id="whatever"))
        cases: list[Case] = [
            (ShutdownForced(container_id="x"), Hresult.SYSTEM_NOT_FOUND, "x"),
            (WaitForProcess(container_id="x", process_id=1), Hresult.SYSTEM_NOT_FOUND, "x"),
            (WaitForProcess(container_id=VM, process_id=1), Hresult.ERR_NOT_FOUND, "1"),
            (GetProperties(container_id="x"), Hresult.SYSTEM_NOT_FOUND, "x"),
            (NegotiateProtocol(minimum_version=4, maximum_version=4), Hresult.NOT_IMPL, "Neg"),
            (
                ModifySettings(
                    container_id=VM, request=ModificationRequest(resource_type="Odd")
                ),
                Hresult.FAIL,
                "Odd",
            ),
            (host.create_request("../x", host.spec("true")), Hresult.ERR_INVALID_ARG, "../x"),
            (host.create_request("c", {}), Hresult.INVALID_JSON, "OciSpecification.process"),
            (Create(container_id="c"), Hresult.INVALID_JSON, "SchemaVersion"),
        ]
        for request, hresult, text in cases:
            error = await refused(client, request)
            assert error.result == hresult, request
            assert text in error.message
        assert "test_agent" not in (await client.call(DumpStacks())).guest_stacks

    await play(tmp_path, scenario)


async def test_a_wait_has_a_limit(tmp_path: Path) -> None:
    """A wait of 50 ms on a running process is answered Timeout, and the next one waits on."""

    async def scenario(host: AgentHost, client: Client) -> None:
        pid = await host.execute(client, VM, Streams(), vm_process("/bin/sleep", "1000"))
        request = WaitForProcess(container_id=VM, process_id=pid, timeout_in_ms=50)
        assert (await refused(client, request)).result == Hresult.TIMEOUT
        await client.call(SignalProcess(container_id=VM, process_id=pid))
        assert await wait(client, VM, pid) == 128 + 9

    await play(tmp_path, scenario)


async def test_an_exit_that_nobody_waits_for_is_announced(tmp_path: Path) -> None:
    """A container killed before its start, and one that nobody asked about, each tell."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "unstarted", "true")
        await client.call(ShutdownForced(container_id="unstarted"))
        with trio.fail_after(60):
            first = await client.notifications.receive()
        assert isinstance(first, ContainerNotification)
        assert first.container_id == "unstarted"
        await host.create(client, "unasked", "true")
        await host.execute(client, "unasked", Streams())
        with trio.fail_after(60):
            second = await client.notifications.receive()
        assert isinstance(second, ContainerNotification)
        assert second.container_id == "unasked"
        await client.call(DeleteContainerState(container_id="unstarted"))

    await play(tmp_path, scenario)


async def test_both_encodings_are_answered_in_kind(tmp_path: Path) -> None:
    """A host that speaks CBOR from its first byte gets CBOR, exit notification included."""
    async with open_agent(tmp_path) as host, host.connected(Encoding.CBOR) as client:
        with trio.fail_after(30):
            assert (await host.run(client, "c", "echo", "x"))[:2] == (0, b"x\n")
            assert len(await exits(client, 1)) == 1


async def test_a_huge_request_that_fails_is_answered_in_a_frame(tmp_path: Path) -> None:
    """An error text that quotes 600 KB comes back cut, and the connection goes on."""

    async def scenario(host: AgentHost, client: Client) -> None:
        error = await refused(client, host.create_request("x/" * 300_000, host.spec("true")))
        assert len(error.message) < 5000
        assert "is not acceptable" in error.message

    await play(tmp_path, scenario)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
async def test_the_largest_specs_are_served_or_refused_in_words(
    tmp_path: Path, runtime: str
) -> None:
    """A mebibyte, ten thousand variables, sixty levels; seventy are refused by their path."""

    def nested(levels: int) -> object:
        tree: object = "leaf"
        for _ in range(levels):
            tree = {"in": tree}
        return tree

    async def served(host: AgentHost, client: Client, spec: dict[str, object]) -> None:
        await client.call(host.create_request("c", spec))
        pid = await host.execute(client, "c", Streams())
        assert await wait(client, "c", pid) == 0
        await client.call(DeleteContainerState(container_id="c"))

    async def scenario(host: AgentHost, client: Client) -> None:
        spec = host.spec("true")
        notes = {"annotations": {f"a{i}": "x" * 1024 for i in range(1024)}}
        await served(host, client, {**spec, **notes})
        process = spec["process"]
        assert isinstance(process, dict)
        many = ["PATH=/bin", *(f"V{i}=" + "x" * 80 for i in range(10_000))]
        await served(host, client, {**spec, "process": {**process, "env": many}})
        await served(host, client, {**spec, "odd": nested(60)})
        error = await refused(client, host.create_request("c", {**spec, "odd": nested(70)}))
        assert error.result == Hresult.INVALID_JSON
        assert "nested" in error.message

    await play(tmp_path, scenario, "-runtime", runtime)
