"""What fails half-way leaves nothing behind, and can be tried again."""

import signal
from pathlib import Path

import pytest
import trio

from gcs.errors import CallError, Hresult
from gcs.host.client import Client
from gcs.wire.messages import (
    ContainerConfig,
    ContainerNotification,
    Create,
    DeleteContainerState,
    ExecuteProcess,
    ExecuteProcessSettings,
    ProcessParameters,
    SchemaVersion,
    ShutdownForced,
    VsockStdioRelaySettings,
)
from gcs.wire.schema import Reply, Request
from tests.support.agent import VM, AgentHost, Streams, vm_process, wait
from tests.support.scenario import descriptors, exits, play, refused, same_descriptors

Call = Request[Reply]

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])


def runtime_that(folder: Path, runtime: str, script: str) -> str:
    """Return a runtime that does as `runtime` does, but for what the script makes of it.

    In the script `$verb` is what is asked for, and `real` does it.
    """
    program = folder / "runtime"
    program.write_text(
        "#!/bin/sh\n"
        "for word; do\n"
        '  case "$word" in create|exec|start|delete) verb=$word; break;; esac\n'
        "done\n"
        f'real() {{ {runtime} "$@"; }}\n'
        f"{script}\n"
        'real "$@"\n'
    )
    program.chmod(0o755)
    return str(program)


async def leftovers(host: AgentHost, client: Client) -> str:
    """Return what a look through the VM finds of any container."""
    script = (
        "ls -d /run/runc/* /run/crun/* /run/gcs/runc/* /run/gcs/c/* /sys/fs/cgroup/pods/*/;"
        " ps -o stat=,args= --ppid 1 | grep -v 'ps -o\\|grep\\|/bin/sh -c' | grep ."
    )
    streams = Streams()
    parameters = vm_process("/bin/sh", "-c", script, PATH="/bin:/usr/bin")
    pid = await host.execute(client, VM, streams, parameters)
    await wait(client, VM, pid)
    return streams.stdout.decode()


async def nothing_is_left(host: AgentHost, client: Client) -> None:
    """Wait until processes that were killed are gone, and see that nothing else is there."""
    with trio.move_on_after(60):
        while await leftovers(host, client):  # noqa: ASYNC110 - the state of others
            await trio.sleep(0.05)
    assert await leftovers(host, client) == ""


@RUNTIMES
@pytest.mark.parametrize("terminal", [False, True])
async def test_a_create_that_fails_late_leaves_nothing(
    tmp_path: Path, runtime: str, terminal: bool
) -> None:
    """The runtime has made the container when it fails; then nothing of it is left."""
    script = 'if [ "$verb" = create ] && [ ! -e /run/mended ]; then real "$@"; exit 3; fi'

    async def scenario(host: AgentHost, client: Client) -> None:
        spec = host.spec("sh", "-c", "exit 4", terminal=terminal)
        # The first time the agent also comes to have what it keeps.
        await refused(client, host.create_request("c", spec))
        before = descriptors(host)
        for _ in range(3):
            error = await refused(client, host.create_request("c", spec))
            assert "exit status 3" in error.message
        await nothing_is_left(host, client)
        await same_descriptors(host, before)
        await mend(host, client)
        await client.call(host.create_request("c", spec))
        pid = await host.execute(client, "c", Streams())
        assert await wait(client, "c", pid) == 4
        with trio.fail_after(60):
            notification = await client.notifications.receive()
        assert isinstance(notification, ContainerNotification)
        assert notification.container_id == "c"
        assert await exits(client) == []

    await play(tmp_path, scenario, "-runtime", runtime_that(tmp_path, runtime, script))


async def mend(host: AgentHost, client: Client) -> None:
    """Make the file that the scripts look for."""
    await touch(host, client, "/run/mended")


async def touch(host: AgentHost, client: Client, path: str) -> None:
    """Make a file of the VM."""
    command = vm_process("/bin/touch", path)
    assert await wait(client, VM, await host.execute(client, VM, Streams(), command)) == 0


async def test_a_terminal_that_never_comes_fails_its_create(tmp_path: Path) -> None:
    """The container runs by then; it is killed, and the error says what was waited for."""
    # Without --console-socket runc has nowhere to send it, so another one gets it.
    script = (
        'if [ "$verb" = create ]; then\n'
        '  pid=; for word; do [ "$pid" = next ] && pid=$word; '
        '[ "$word" = --pid-file ] && pid=next; done\n'
        '  sleep 100 & echo -n $! >"$pid"; exit 0\nfi'
    )
    before = "from gcs.guest import runc; runc._CONSOLE_TIMEOUT_S = 0.3"

    async def scenario(host: AgentHost, client: Client) -> None:
        request = host.create_request("c", host.spec("true", terminal=True))
        error = await refused(client, request)
        assert error.result == Hresult.TIMEOUT
        assert "no terminal came from the runtime within 0.3 s" in error.message
        await nothing_is_left(host, client)

    runtime = runtime_that(tmp_path, "runc", script)
    await play(tmp_path, scenario, "-runtime", runtime, before=before)


@pytest.mark.parametrize("content", ["", "x", "-1"])
async def test_a_runtime_without_a_pid_is_refused(tmp_path: Path, content: str) -> None:
    """Its pid file is not believed, and the error says what was in it."""
    script = (
        'if [ "$verb" = create ]; then real "$@"\n'
        f"  for file in /run/gcs/runc/*/pid; do echo -n '{content}' >$file; done; exit 0\nfi"
    )

    async def scenario(host: AgentHost, client: Client) -> None:
        error = await refused(client, host.create_request("c", host.spec("true")))
        assert f"its pid file holds '{content}'" in error.message
        await nothing_is_left(host, client)

    await play(tmp_path, scenario, "-runtime", runtime_that(tmp_path, "runc", script))


@RUNTIMES
@pytest.mark.parametrize("hanging", ["create", "exec", "start", "delete"])
async def test_a_runtime_that_hangs_is_given_up(
    tmp_path: Path, runtime: str, hanging: str
) -> None:
    """The request is answered Timeout within its limit, and works once the runtime does."""
    script = (
        f'if [ "$verb" = {hanging} ] && [ ! -e /run/mended ]; then'
        ' case "$*" in *--force*) ;; *) sleep 1000;; esac; fi'
    )

    async def scenario(host: AgentHost, client: Client) -> None:
        async def ask(verb: str, request: Call) -> None:
            if verb == hanging:
                with trio.fail_after(60):
                    error = await refused(client, request)
                assert error.result == Hresult.TIMEOUT
                assert f" {verb} " in error.message
                assert "not done within 1.5 s" in error.message
                await mend(host, client)
            if verb == hanging == "start":
                assert "streams are gone" in (await refused(client, request)).message
            else:
                await client.call(request)

        await ask("create", host.create_request("c", host.spec("sleep", "100")))
        await ask("start", ExecuteProcess(container_id="c"))
        if hanging != "start":
            await ask("exec", _exec_without_streams("c", "true"))
        await client.call(ShutdownForced(container_id="c"))
        with trio.fail_after(60):
            await client.notifications.receive()
        await ask("delete", DeleteContainerState(container_id="c"))
        await nothing_is_left(host, client)

    flags = ("-runtime", runtime_that(tmp_path, runtime, script))
    await play(tmp_path, scenario, *flags, before=limit_of(hanging))


def limit_of(verb: str) -> str:
    """Return Python that gives the runtime 1.5 s for calls of one kind, until it is mended.

    The others are real work, which takes longer on a machine that has other things to do.
    """
    return (
        "import os; from gcs.guest.runc import Runc\n"
        "run = Runc._run\n"
        "def limited(self, folder, arguments, streams, timeout_s):\n"
        f"    is_it = arguments[0] == {verb!r} and '--force' not in arguments\n"
        "    if is_it and not os.path.exists('/run/mended'):\n"
        "        timeout_s = 1.5\n"
        "    return run(self, folder, arguments, streams, timeout_s)\n"
        "Runc._run = limited"
    )


def _exec_without_streams(container_id: str, *args: str) -> ExecuteProcess:
    process: dict[str, object] = {"cwd": "/", "args": args, "env": ["PATH=/bin"]}
    parameters = ProcessParameters(oci_process=process)
    settings = ExecuteProcessSettings(process_parameters=parameters)
    return ExecuteProcess(container_id=container_id, settings=settings)


@RUNTIMES
async def test_a_delete_that_failed_can_be_repeated(tmp_path: Path, runtime: str) -> None:
    """While something can't be removed the container is known, whatever is gone already."""

    async def in_vm(host: AgentHost, client: Client, *argv: str) -> None:
        pid = await host.execute(client, VM, Streams(), vm_process(*argv))
        assert await wait(client, VM, pid) == 0

    async def scenario(host: AgentHost, client: Client) -> None:
        await in_vm(host, client, "/bin/sh", "-c", "mkdir /run/s; mount -t tmpfs s /run/s")
        await in_vm(host, client, "/bin/mkdir", "-p", "/run/s/c/upper")
        await client.call(
            Create(
                container_id="c",
                container_config=ContainerConfig(
                    schema_version=SchemaVersion(major=2, minor=1),
                    oci_bundle_path="/run/gcs/c/c",
                    oci_specification=host.spec("sh", "-c", "exit 3"),
                    scratch_dir_path="/run/s/c",
                ),
            )
        )
        pid = await host.execute(client, "c", Streams())
        assert await wait(client, "c", pid) == 3
        await in_vm(host, client, "/bin/mount", "-o", "remount,ro", "/run/s")
        delete = DeleteContainerState(container_id="c")
        for _ in range(2):
            error = await refused(client, delete)
            assert error.result == Hresult.FAIL
            assert "EROFS" in error.message
            assert await wait(client, "c", pid) == 3
        taken = await refused(client, host.create_request("c", host.spec("true")))
        assert taken.result == Hresult.SYSTEM_ALREADY_EXISTS
        await in_vm(host, client, "/bin/mount", "-o", "remount,rw", "/run/s")
        await client.call(delete)
        assert (await refused(client, delete)).result == Hresult.SYSTEM_NOT_FOUND
        await in_vm(host, client, "/bin/rmdir", "/run/gcs/c")
        await in_vm(host, client, "/bin/umount", "/run/s")
        await nothing_is_left(host, client)

    await play(tmp_path, scenario, "-runtime", runtime)


@RUNTIMES
async def test_a_container_that_runs_is_not_deleted(tmp_path: Path, runtime: str) -> None:
    """It goes on; of deletions at the same time one succeeds, and the others find nothing."""

    async def scenario(host: AgentHost, client: Client) -> None:
        delete = DeleteContainerState(container_id="c")
        await host.create(client, "c", "sleep", "100")
        pid = await host.execute(client, "c", Streams())
        assert (await refused(client, delete)).result == Hresult.INVALID_STATE
        await client.call(ShutdownForced(container_id="c"))
        assert await wait(client, "c", pid) == 128 + signal.SIGKILL
        results = []

        async def one() -> None:
            try:
                await client.call(delete)
                results.append(Hresult.OK)
            except CallError as error:
                results.append(Hresult(error.result))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)
        assert sorted(results, reverse=True) == [Hresult.OK] + [Hresult.SYSTEM_NOT_FOUND] * 3

    await play(tmp_path, scenario, "-runtime", runtime)


def slow_until_mended(verb: str) -> str:
    """Return a script that holds up one kind of calls."""
    return (
        f'if [ "$verb" = {verb} ]; then touch /run/begun;'
        " while [ ! -e /run/mended ]; do sleep 0.05; done; fi"
    )


async def at_once(client: Client, slow: Call, host: AgentHost, end: bool) -> list[Hresult]:
    """Ask for something slow and delete its container meanwhile; return both results."""
    found = dict[int, Hresult]()

    async def ask(index: int, request: Call) -> None:
        try:
            await client.call(request)
            found[index] = Hresult.OK
        except CallError as error:
            found[index] = Hresult(error.result)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 0, slow)
        await wait_for_file(host, client, "/run/begun")
        if end:
            await client.call(ShutdownForced(container_id="c"))
            await client.notifications.receive()
        nursery.start_soon(ask, 1, DeleteContainerState(container_id="c"))
        again = host.create_request("c", host.spec("true"))
        assert (await refused(client, again)).result == Hresult.SYSTEM_ALREADY_EXISTS
        assert found == {}
        await mend(host, client)
    return [found[0], found[1]]


async def test_a_deletion_waits_for_a_start(tmp_path: Path) -> None:
    """The next container of that id would be started by it; and this one runs in the end."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await client.call(host.create_request("c", host.spec("sleep", "100")))
        results = await at_once(client, ExecuteProcess(container_id="c"), host, end=False)
        assert results == [Hresult.OK, Hresult.INVALID_STATE]

    runtime = runtime_that(tmp_path, "runc", slow_until_mended("start"))
    await play(tmp_path, scenario, "-runtime", runtime)


async def test_a_deletion_waits_for_an_exec(tmp_path: Path) -> None:
    """It would run in the next container of that id."""

    async def scenario(host: AgentHost, client: Client) -> None:
        create = host.create_request("c", host.spec("sleep", "100"))
        await client.call(create)
        await client.call(ExecuteProcess(container_id="c"))
        results = await at_once(client, _exec_without_streams("c", "true"), host, end=True)
        assert results == [Hresult.SYSTEM_ALREADY_STOPPED, Hresult.OK]
        await client.call(create)

    runtime = runtime_that(tmp_path, "runc", slow_until_mended("exec"))
    await play(tmp_path, scenario, "-runtime", runtime)


async def wait_for_file(host: AgentHost, client: Client, path: str) -> None:
    """Wait until a file is there, in the VM."""
    await wait_until(host, client, f"[ -e {path} ]")


async def wait_until(host: AgentHost, client: Client, command: str) -> None:
    """Wait until a command of the VM's shell succeeds."""
    script = f"until {command}; do sleep 0.05; done"
    look = vm_process("/bin/sh", "-c", script, PATH="/bin:/usr/bin")
    with trio.fail_after(60):
        await wait(client, VM, await host.execute(client, VM, Streams(), look))


@RUNTIMES
@pytest.mark.parametrize(
    ("then", "message"), [("exit 3", "exit status 3"), ("sleep 99", "1.5 s")]
)
async def test_an_exec_whose_runtime_fails_late_does_not_run_on(
    tmp_path: Path, runtime: str, then: str, message: str
) -> None:
    """The host was told of no process: nobody could wait for it, nor end it."""
    script = f'if [ "$verb" = exec ]; then real "$@"; {then}; fi'

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "sleep", "100")
        await host.execute(client, "c", Streams())
        error = await refused(client, _exec_without_streams("c", "sleep", "4321"))
        assert message in error.message
        await wait_until(host, client, "! ps -e -o args= | grep '^[s]leep 4321'")
        assert await exits(client) == []

    flags = ("-runtime", runtime_that(tmp_path, runtime, script))
    await play(tmp_path, scenario, *flags, before=limit_of("exec"))


@RUNTIMES
@pytest.mark.parametrize("terminal", [False, True])
async def test_an_exec_that_is_refused_leaks_nothing(
    tmp_path: Path, runtime: str, terminal: bool
) -> None:
    """No descriptor, connection or folder stays, and the host sees its streams end."""

    async def scenario(host: AgentHost, client: Client) -> None:
        await host.create(client, "c", "sleep", "100")
        await host.execute(client, "c", Streams())
        await trio.sleep(0.1)
        before = descriptors(host)
        for args in (["/nope"], ["/proc"], []):
            process: dict[str, object] = {"cwd": "/", "args": args, "env": ["PATH=/bin"]}
            process |= {"terminal": terminal, "user": {"uid": 0, "gid": 0}}
            async with trio.open_nursery() as nursery:
                ports = [await _port_that_ends(host, nursery) for _ in range(3)]
                request = _exec_on(ports, process)
                assert (await refused(client, request)).result == Hresult.FAIL
                nursery.cancel_scope.deadline = trio.current_time() + 60
            assert not nursery.cancel_scope.cancelled_caught
        await same_descriptors(host, before)
        streams = Streams()
        look = vm_process("/bin/sh", "-c", "ls /run/gcs/runc")
        await wait(client, VM, await host.execute(client, VM, streams, look))
        assert streams.stdout == b""

    await play(tmp_path, scenario, "-runtime", runtime)


async def _port_that_ends(host: AgentHost, nursery: trio.Nursery) -> int:
    """Listen on a port; the nursery then waits for its connection's end."""
    port, listener = await host.listen()

    async def see_it_end() -> None:
        with listener:
            sock, _ = await listener.accept()
        async with trio.SocketStream(sock) as stream:
            assert await stream.receive_some(1) == b""

    nursery.start_soon(see_it_end)
    return port


def _exec_on(ports: list[int], process: dict[str, object]) -> ExecuteProcess:
    parameters = ProcessParameters(
        oci_process=process,
        create_std_in_pipe=True,
        create_std_out_pipe=True,
        create_std_err_pipe=True,
    )
    relay = VsockStdioRelaySettings(std_in=ports[0], std_out=ports[1], std_err=ports[2])
    settings = ExecuteProcessSettings(
        process_parameters=parameters, vsock_stdio_relay_settings=relay
    )
    return ExecuteProcess(container_id="c", settings=settings)
