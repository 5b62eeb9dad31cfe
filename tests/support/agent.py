"""The agent without a VM: real kernel, real runc, unix sockets for vsock.

It runs in mount and pid namespaces of its own, with a /run of its own, so nothing that it does
stays. The containers' rootfs is the static busybox and nothing else.
"""

import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trio.testing

from gcs.host.client import Client, open_client
from gcs.wire.codec import Encoding
from gcs.wire.messages import (
    BRIDGE,
    ContainerConfig,
    Create,
    ExecuteProcess,
    ExecuteProcessSettings,
    NegotiateProtocol,
    ProcessParameters,
    SchemaVersion,
    VsockStdioRelaySettings,
    WaitForProcess,
)
from gcs.wire.schema import NULL_CONTAINER_ID

__all__ = ["AgentHost", "Streams", "agent_pid", "open_agent"]

BRIDGE_PORT = 0x40000000
_APPLETS = (
    "sh",
    "cat",
    "echo",
    "sleep",
    "stty",
    "tty",
    "head",
    "dd",
    "grep",
    "true",
    "id",
    "ulimit",
)
_FOREVER = 0xFFFFFFFF
#: Everything below /run is the agent's, and gone with it; as in the VM nothing there can be
#: run. A machine whose controllers are on cgroup v1 still has an (empty) version 2 hierarchy,
#: which is all that the runtimes need here.
_SCRIPT = (
    "mount -t tmpfs -o nosuid,nodev,noexec tmpfs /run"
    " && umount -l -R /sys/fs/cgroup && mount -t sysfs sysfs /sys"
    ' && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"'
)
#: Cgroups outlive the namespaces.
_REMOVE_CGROUPS = (
    "mount -t cgroup2 cgroup2 /mnt && find /mnt/pods /mnt/gcs -depth -type d -exec rmdir {} +"
)
_NAMESPACES = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")


@dataclass
class Streams:
    """What a process got from us, and what came back."""

    stdin: bytes = b""
    #: our end of stdin stays open, though nothing more comes
    holds_stdin: bool = False
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    _grown: trio.Event = field(default_factory=trio.Event)

    def receive(self, name: str, data: bytes) -> None:
        """Take output of stdout or stderr."""
        (self.stdout if name == "stdout" else self.stderr).extend(data)
        grown, self._grown = self._grown, trio.Event()
        grown.set()

    async def has_printed(self, text: bytes) -> None:
        """Wait until stdout has this in it."""
        while text not in self.stdout:
            await self._grown.wait()


@dataclass
class AgentHost:
    """The host of one agent: its bridge, and listeners for streams."""

    folder: Path
    rootfs: Path
    listener: trio.socket.SocketType
    nursery: trio.Nursery
    process: "subprocess.Popen[bytes]"
    next_port: int = BRIDGE_PORT + 1

    @asynccontextmanager
    async def connected(
        self, encoding: Encoding = Encoding.JSON, *, negotiate: bool = True
    ) -> AsyncIterator[Client]:
        """Accept the agent's next bridge connection."""
        sock, _ = await self.listener.accept()
        async with open_client(trio.SocketStream(sock), BRIDGE, encoding) as client:
            if negotiate:
                await client.call(NegotiateProtocol(minimum_version=4, maximum_version=4))
            yield client

    async def listen(self) -> tuple[int, trio.socket.SocketType]:
        """Listen on a fresh port; return it and the listener."""
        port, self.next_port = self.next_port, self.next_port + 1
        listener = trio.socket.socket(socket.AF_UNIX)
        await listener.bind(str(self.folder / str(port)))
        listener.listen(1)
        return port, listener

    def spec(self, *args: str, terminal: bool = False, **linux: object) -> dict[str, object]:
        """Return a small OCI spec that runs `args` in the busybox rootfs."""
        namespaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self.rootfs)},
            "process": {
                "terminal": terminal,
                "cwd": "/",
                "args": list(args),
                "env": ["PATH=/bin"],
                "user": {"uid": 0, "gid": 0},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {
                    "destination": "/dev/pts",
                    "type": "devpts",
                    "source": "devpts",
                    "options": ["newinstance", "ptmxmode=0666"],
                },
            ],
            "linux": {"namespaces": namespaces, **linux},
        }

    async def create(
        self, client: Client, container_id: str, *args: str, terminal: bool = False
    ) -> None:
        """Create a container of the busybox rootfs."""
        await client.call(
            self.create_request(container_id, self.spec(*args, terminal=terminal))
        )

    def create_request(self, container_id: str, spec: dict[str, object]) -> Create:
        """Return the Create request for a spec."""
        return Create(
            container_id=container_id,
            container_config=ContainerConfig(
                schema_version=SchemaVersion(major=2, minor=1),
                oci_bundle_path=f"/run/gcs/c/{container_id}",
                oci_specification=spec,
            ),
        )

    async def execute(
        self,
        client: Client,
        container_id: str,
        streams: Streams,
        parameters: ProcessParameters | None = None,
    ) -> int:
        """Start a process with all three streams, relayed in the background; return its pid."""
        parameters = parameters or ProcessParameters()
        ports = []
        for name in ("stdin", "stdout", "stderr"):
            port, listener = await self.listen()
            ports.append(port)
            self.nursery.start_soon(self._relay, listener, name, streams)
        settings = ExecuteProcessSettings(
            process_parameters=ProcessParameters(
                command_args=parameters.command_args,
                environment=parameters.environment,
                emulate_console=parameters.emulate_console,
                oci_process=parameters.oci_process,
                create_std_in_pipe=True,
                create_std_out_pipe=True,
                create_std_err_pipe=True,
            ),
            vsock_stdio_relay_settings=VsockStdioRelaySettings(
                std_in=ports[0], std_out=ports[1], std_err=ports[2]
            ),
        )
        request = ExecuteProcess(container_id=container_id, settings=settings)
        return (await client.call(request)).process_id

    async def _relay(
        self, listener: trio.socket.SocketType, name: str, streams: Streams
    ) -> None:
        with listener:  # a process that could not be started never connects
            sock, _ = await listener.accept()
        async with trio.SocketStream(sock) as stream:
            if name == "stdin":
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(streams.stdin)
                    if streams.holds_stdin:
                        await stream.receive_some(1)
                return
            async for data in stream:
                streams.receive(name, bytes(data))

    async def run(
        self, client: Client, container_id: str, *args: str, stdin: bytes = b""
    ) -> tuple[int, bytes, bytes]:
        """Create a container, run it to its end; return its exit status and its output."""
        await self.create(client, container_id, *args)
        streams = Streams(stdin)
        pid = await self.execute(client, container_id, streams)
        status = await wait(client, container_id, pid)
        await trio.testing.wait_all_tasks_blocked(0.05)
        return status, bytes(streams.stdout), bytes(streams.stderr)


async def wait(client: Client, container_id: str, pid: int) -> int:
    """Wait for a process without a limit; return its exit status."""
    request = WaitForProcess(container_id=container_id, process_id=pid, timeout_in_ms=_FOREVER)
    return (await client.call(request)).exit_code


def vm_process(*argv: str, console: bool = False, **environment: str) -> ProcessParameters:
    """Return the parameters of a process of the VM itself."""
    return ProcessParameters(
        command_args=argv, emulate_console=console, environment=environment or {"PATH": "/bin"}
    )


def make_rootfs(folder: Path) -> Path:
    """Make a rootfs of the static busybox."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is one of the packages that the build installs"
    for name in ("bin", "proc", "dev", "tmp"):
        (folder / name).mkdir(parents=True)
    shutil.copy(busybox, folder / "bin/busybox")
    for applet in _APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")
    return folder


def agent_pid(host: AgentHost) -> int:
    """Return the pid of the agent: the only child of unshare(1)."""
    pid = host.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def _remove_cgroups() -> None:
    command = ("unshare", "--mount", "sh", "-c", _REMOVE_CGROUPS)
    subprocess.run(command, check=False, stderr=subprocess.DEVNULL)


@asynccontextmanager
async def open_agent(
    folder: Path, flags: Sequence[str] = (), before: str = "", init: Sequence[str] = ()
) -> AsyncIterator[AgentHost]:
    """Start an agent for the length of the block; its log is `agent.log` in the folder.

    Args:
        folder: Of this test.
        flags: For the agent.
        before: Python that it runs first, to lower a limit.
        init: A command to be PID 1 and start the agent, which is PID 1 itself without one.
    """
    sockets = folder / "s"
    sockets.mkdir()
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(str(sockets / str(BRIDGE_PORT)))
    listener.listen(8)
    program = f"{before}\nfrom gcs.guest.main import main; main()"
    # What this machine's kernel says belongs to no test. Of equal flags the last counts.
    always = ("-v4", "-unix", str(sockets), "-kmsgLogLevel", "0")
    agent = (sys.executable, "-c", program, *always, *flags)
    with ExitStack() as stack:
        stack.callback(listener.close)
        log = stack.enter_context((folder / "agent.log").open("wb"))
        process = subprocess.Popen(  # noqa: ASYNC220 - a test may wait for a fork
            (*_NAMESPACES, "sh", "-c", _SCRIPT, "sh", *init, *agent), stdout=log, stderr=log
        )
        stack.callback(_remove_cgroups)
        stack.callback(process.wait)
        stack.callback(process.kill)
        async with trio.open_nursery() as nursery:
            rootfs = make_rootfs(folder / "rootfs")
            yield AgentHost(sockets, rootfs, listener, nursery, process)
            nursery.cancel_scope.cancel()


#: The id of the VM itself, for requests about its own processes.
VM = NULL_CONTAINER_ID
