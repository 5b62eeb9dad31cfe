"""ExecuteProcess, WaitForProcess, SignalProcess and ResizeConsole."""

import fcntl
import logging
import os
import shlex
import shutil
import struct
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import trio

from gcs.errors import (
    DeadlineError,
    GcsError,
    InvalidArgumentError,
    InvalidRequestError,
    NotFoundError,
    WrongStateError,
)
from gcs.guest import command_line, stdio, users
from gcs.guest.agent import Agent, Container, State
from gcs.guest.log import fields
from gcs.guest.process import Process
from gcs.guest.runc import StandardStreams
from gcs.guest.spec.process import with_ids
from gcs.guest.stdio import Endpoints, Pipes, Stdio
from gcs.guest.tee import TeeLog
from gcs.wire.messages import (
    ExecuteProcess,
    ExecuteProcessReply,
    ExecuteProcessSettings,
    ProcessParameters,
    ResizeConsole,
    SignalProcess,
    VsockStdioRelaySettings,
    WaitForProcess,
    WaitForProcessReply,
)
from gcs.wire.schema import NULL_CONTAINER_ID, Reply

__all__ = ["execute", "resize_console", "signal_process", "wait"]

_log = logging.getLogger("gcs.process")

_OCI_PROCESS = "$.Settings.ProcessParameters.OciProcess"
_NO_TIMEOUT = 0xFFFFFFFF
_SIGKILL = 9


async def execute(agent: Agent, request: ExecuteProcess) -> ExecuteProcessReply:
    """Start a container's init, an exec in it, or a process of the VM."""
    agent.check_not_powering_off()
    parameters = request.settings.process_parameters
    if parameters.create_in_utility_vm or request.container_id == NULL_CONTAINER_ID:
        return await _run_in_vm(agent, request.settings)
    container = agent.container(request.container_id)
    if parameters.oci_process is None:
        return await _start_init(agent, container, request.settings)
    return await _exec(agent, container, request.settings, parameters.oci_process)


async def _dial(agent: Agent, settings: ExecuteProcessSettings) -> Endpoints:
    """Connect the streams whose Create…Pipe is true."""
    parameters, ports = settings.process_parameters, settings.vsock_stdio_relay_settings
    return await stdio.dial(
        agent.transport,
        (
            ports.std_in if parameters.create_std_in_pipe else None,
            ports.std_out if parameters.create_std_out_pipe else None,
            ports.std_err if parameters.create_std_err_pipe else None,
        ),
    )


# -- the container's init ----------------------------------------------------------------


async def _start_init(
    agent: Agent, container: Container, settings: ExecuteProcessSettings
) -> ExecuteProcessReply:
    container.move(State.CREATED, State.STARTING)
    init = container.init
    assert init is not None, "a created container has an init"
    try:
        log = await _open_log(container)
        try:
            endpoints = await _dial(agent, settings)
        except BaseException:
            if log is not None:
                log.close()
            raise
        ports = settings.vsock_stdio_relay_settings
        init.stdio = _attach(agent, container, endpoints, log, ports)
        try:
            await agent.runc.start(container.container_id, container.gate.entered)
        except BaseException:
            init.stdio.close()
            raise
    except BaseException:
        _move_on_if_alive(container, State.CREATED)
        raise
    _move_on_if_alive(container, State.RUNNING)
    return ExecuteProcessReply(process_id=init.pid)


def _move_on_if_alive(container: Container, state: State) -> None:
    """Set the state, unless the init has exited meanwhile."""
    if container.state is not State.STOPPED:
        container.state = state


async def _open_log(container: Container) -> TeeLog | None:
    if container.log is None:
        return None
    return await trio.to_thread.run_sync(TeeLog.open, *container.log)


def _attach(
    agent: Agent,
    container: Container,
    endpoints: Endpoints,
    log: TeeLog | None,
    ports: VsockStdioRelaySettings,
) -> Stdio:
    """Connect the init's streams to the host's; from here on they belong to the relay."""
    source, container.unstarted = container.unstarted, None
    if source is None:
        endpoints.close()
        if log is not None:
            log.close()
        raise WrongStateError(f"container {container.container_id}: its streams are gone")
    if isinstance(source, Pipes):
        source.keep_only(
            stdin=endpoints.stdin is not None,
            stdout=log is not None or endpoints.stdout is not None,
            stderr=log is not None or endpoints.stderr is not None,
        )
    else:
        os.set_blocking(source, False)
    redial = agent.redial(ports.std_out, ports.std_err)
    relays = Stdio(endpoints, source, agent.stream_threads, log, redial)
    agent.start_soon(relays.run)
    return relays


# -- execs -------------------------------------------------------------------------------


async def _exec(
    agent: Agent,
    container: Container,
    settings: ExecuteProcessSettings,
    oci_process: Mapping[str, object],
) -> ExecuteProcessReply:
    container.check_running()
    has_terminal = oci_process.get("terminal") is True
    oci_process = await _with_user(container, oci_process)
    if "rlimits" not in oci_process and container.rlimits is not None:
        oci_process = {**oci_process, "rlimits": container.rlimits}
    endpoints = await _dial(agent, settings)
    pipes = None
    try:
        pipes = None if has_terminal else _pipes_for(endpoints)
        streams = StandardStreams(*pipes.theirs) if pipes else StandardStreams()
        process, master = await agent.runc.exec(
            *(container.container_id, oci_process, streams),
            tty=has_terminal,
            turn=lambda: _entered_running(container),
        )
    except BaseException:
        endpoints.close()
        if pipes is not None:
            pipes.close()
        _end_strays(agent, container)
        raise
    _relay(agent, process, endpoints, pipes if pipes is not None else master)
    container.add_exec(process)
    # Its end, if it has come meanwhile, has killed only what there was.
    if container.init is not None and container.init.exited.is_set():
        with suppress(NotFoundError):
            process.kill(_SIGKILL)
    return ExecuteProcessReply(process_id=process.pid)


def _end_strays(agent: Agent, container: Container) -> None:
    """Kill what a runtime has started that ended before it said so: the host knows of none."""
    if container.init is not None:
        agent.children.kill_strays(container.init.pid)


@contextmanager
def _entered_running(container: Container) -> Iterator[None]:
    """Be at work on a container that still runs, whatever happened while others had turns."""
    with container.gate.entered():
        container.check_running()
        yield


async def _with_user(
    container: Container, oci_process: Mapping[str, object]
) -> Mapping[str, object]:
    """Return the process with numbers for the name of its user.

    One that names nobody is the init's, if the init's was named.
    """
    user = oci_process.get("user", {})
    if not isinstance(user, dict):
        raise InvalidRequestError(f"{_OCI_PROCESS}.user: expected a map")
    name = user.get("username", "")
    if not isinstance(name, str):
        raise InvalidRequestError(f"{_OCI_PROCESS}.user.username: expected a string")
    if name:
        ids = await trio.to_thread.run_sync(users.find, container.root, name)
        unnamed = {key: value for key, value in user.items() if key != "username"}
        return {**oci_process, "user": with_ids(unnamed, ids)}
    if container.user is not None:
        return {**oci_process, "user": container.user}
    return oci_process


def _pipes_for(endpoints: Endpoints) -> Pipes:
    return Pipes.make(
        stdin=endpoints.stdin is not None,
        stdout=endpoints.stdout is not None,
        stderr=endpoints.stderr is not None,
    )


def _relay(
    agent: Agent, process: Process, endpoints: Endpoints, source: Pipes | int | None
) -> None:
    """Watch an exec, and relay its streams."""
    if isinstance(source, Pipes):
        source.close_theirs()
    elif source is not None:
        os.set_blocking(source, False)
    if source is not None:
        process.stdio = Stdio(endpoints, source, agent.stream_threads, redial=agent.redial())
        agent.start_soon(process.stdio.run)
    agent.start_soon(process.watch, agent.children)


# -- processes of the VM -----------------------------------------------------------------


async def _run_in_vm(agent: Agent, settings: ExecuteProcessSettings) -> ExecuteProcessReply:
    """Run a program as root in the VM's own namespaces.

    Its streams are the sockets themselves, or with EmulateConsole a terminal of its own.
    """
    parameters = settings.process_parameters
    argv = _arguments(parameters)
    endpoints = await _dial(agent, settings)
    try:
        if parameters.emulate_console:
            process = await _spawn_on_terminal(agent, argv, parameters, endpoints)
        else:
            process = await _spawn_on_sockets(agent, argv, parameters, endpoints)
    except BaseException:
        endpoints.close()
        raise
    agent.add_vm_process(process)
    agent.start_soon(process.watch, agent.children)
    members = fields(pid=process.pid, argv=shlex.join(argv))
    _log.info("process started in the VM", extra=members)
    return ExecuteProcessReply(process_id=process.pid)


def _arguments(parameters: ProcessParameters) -> list[str]:
    """Return the argument vector, its program looked up in the agent's own PATH."""
    argv = list(parameters.command_args) or command_line.split(parameters.command_line)
    if not argv:
        raise InvalidArgumentError("ExecuteProcess: neither CommandArgs nor CommandLine")
    return [_program(argv[0]), *argv[1:]]


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NotFoundError(f"{name}: no such program in the utility VM")
    return found


async def _spawn_on_sockets(
    agent: Agent, argv: list[str], parameters: ProcessParameters, endpoints: Endpoints
) -> Process:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    socks = (endpoints.stdin, endpoints.stdout, endpoints.stderr)
    descriptors = [null if sock is None else sock.fileno() for sock in socks]
    try:
        for descriptor in descriptors:
            os.set_blocking(descriptor, True)  # the program expects it so
        handle = await _spawn(agent, argv, parameters, descriptors)
    finally:
        os.close(null)
    process = Process.adopt(agent.children, handle.pid, handle)
    endpoints.close()
    return process


async def _spawn_on_terminal(
    agent: Agent, argv: list[str], parameters: ProcessParameters, endpoints: Endpoints
) -> Process:
    """Start the program in a session of its own, the terminal controlling it."""
    master, slave = os.openpty()
    try:
        command = [_program("setsid"), "-c", *argv]
        handle = await _spawn(agent, command, parameters, [slave] * 3)
        process = Process.adopt(agent.children, handle.pid, handle)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    os.set_blocking(master, False)
    process.stdio = Stdio(endpoints, master, redial=agent.redial())
    agent.start_soon(process.stdio.run)
    return process


async def _spawn(
    agent: Agent, argv: list[str], parameters: ProcessParameters, descriptors: list[int]
) -> trio.Process:
    stdin, stdout, stderr = descriptors
    return await agent.children.spawn(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=parameters.environment,
        cwd=parameters.working_directory or None,
        # setsid(1) makes the session itself, and would fork if it led a group already.
        new_session=not parameters.emulate_console,
    )


# -- all of them -------------------------------------------------------------------------


async def wait(agent: Agent, request: WaitForProcess) -> WaitForProcessReply:
    """Answer when the process has exited and its streams have drained."""
    process = agent.process(request.container_id, request.process_id)
    timeout = request.timeout_in_ms
    if not process.finished.is_set():
        limit = float("inf") if timeout == _NO_TIMEOUT else timeout / 1000
        with trio.move_on_after(limit):
            await process.finished.wait()
    if process.exit_status is None or not process.finished.is_set():
        raise DeadlineError(f"process {request.process_id} runs after {timeout} ms")
    return WaitForProcessReply(exit_code=process.exit_status)


def signal_process(agent: Agent, request: SignalProcess) -> Reply:
    """Send a signal to one process."""
    number = request.options.signal or _SIGKILL
    process = agent.process(request.container_id, request.process_id)
    process.kill(number)
    if request.container_id != NULL_CONTAINER_ID:
        agent.container(request.container_id).record_signal(process, number)
    return Reply()


def resize_console(agent: Agent, request: ResizeConsole) -> Reply:
    """Set the size of a process's terminal."""
    process = agent.process(request.container_id, request.process_id)
    terminal = process.stdio.terminal if process.stdio else None
    if terminal is not None:
        size = struct.pack("HHHH", request.height, request.width, 0, 0)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    elif process.exit_status is None:
        raise GcsError(f"process {request.process_id} has no terminal")
    return Reply()
