"""A guest without a VM: it answers the bridge, keeps state, and runs containers as processes.

It is as strict as the real one about order, so that a host that forgets a step fails here too.
A container's root is our own; its process gets the dialled connections as its streams.
"""

import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio

from gcs.errors import (
    ContainerExistsError,
    ContainerNotFoundError,
    GcsError,
    NotFoundError,
    RuncError,
    WrongStateError,
)
from gcs.wire import messages
from gcs.wire.connection import GuestConnection, RequestReceived, RequestRefused
from gcs.wire.extensions import ReportMounts
from gcs.wire.messages import BRIDGE
from gcs.wire.resource import (
    CombinedLayers,
    MappedDirectory,
    MappedVirtualDisk,
    NetworkAdapter,
    RequestType,
    ScsiDevice,
    TemporaryFilesystem,
    VPMemDevice,
)
from gcs.wire.schema import NULL_CONTAINER_ID, Reply, Request
from tests.support.guest_reports import properties_of, report_mounts

__all__ = ["FakeContainer", "FakeGuest"]

V = TypeVar("V")
Dial = Callable[[int], Awaitable[trio.SocketStream]]


@dataclass
class FakeContainer:
    """A container that has been created."""

    spec: dict[str, object]
    scratch: str
    process: trio.Process | None = None
    execs: dict[int, trio.Process] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def arguments(self) -> list[str]:
        process = self.spec["process"]
        assert isinstance(process, dict)
        return list(process["args"])

    @property
    def annotations(self) -> Mapping[str, str]:
        found = self.spec.get("annotations", {})
        assert isinstance(found, dict)
        return found

    @property
    def joined(self) -> Mapping[str, str]:
        linux = self.spec["linux"]
        assert isinstance(linux, dict)
        return {one["type"]: one["path"] for one in linux["namespaces"] if "path" in one}


class FakeGuest:
    """What a guest knows: mounts by path, roots and containers by id."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._sending = trio.Lock()
        self.is_negotiated = False
        self.layers: dict[str, int] = {}
        self.disks: dict[str, int] = {}
        self.unplugged: list[int] = []
        #: connections to servers of folders, by where those are mounted
        self.shares: dict[str, trio.SocketStream] = {}
        #: by namespace
        self.networks: dict[str, NetworkAdapter] = {}
        self.roots: dict[str, CombinedLayers | TemporaryFilesystem] = {}
        self.containers: dict[str, FakeContainer] = {}
        #: processes of the VM, by pid
        self.processes: dict[int, trio.Process] = {}
        #: every request, by name, in the order in which they came
        self.requests: list[str] = []
        #: name of a request → the error to answer it with
        self.failures: dict[str, GcsError] = {}

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer until the host is gone, then end what still runs."""
        connection = GuestConnection(BRIDGE)
        try:
            async with trio.open_nursery() as nursery:
                while data := await stream.receive_some():
                    connection.receive_data(bytes(data))
                    for event in connection.events():
                        nursery.start_soon(self._answer, connection, stream, event)
                nursery.cancel_scope.cancel()
        except trio.BrokenResourceError:
            pass
        finally:
            for process in self._all_processes():
                if process.returncode is None:
                    process.kill()

    def _all_processes(self) -> Iterator[trio.Process]:
        for container in self.containers.values():
            if container.process is not None:
                yield container.process
            yield from container.execs.values()
        yield from self.processes.values()

    async def _answer(
        self,
        connection: GuestConnection,
        stream: trio.abc.Stream,
        event: RequestReceived | RequestRefused,
    ) -> None:
        try:
            if isinstance(event, RequestRefused):
                raise event.error
            data = connection.reply(event.message_id, await self._take(event.request))
            if self._is_for_init(event.request):
                data += connection.notify(_notification(event.request.container_id))
        except GcsError as error:
            data = connection.refuse(event.message_id, error)
        # A host that has gone does not hear it, and the reader ends.
        with suppress(trio.BrokenResourceError):
            async with self._sending:
                await stream.send_all(data)

    def _is_for_init(self, request: Request[Reply]) -> bool:
        """Tell whether the end of a container has just been told."""
        if not isinstance(request, messages.WaitForProcess):
            return False
        container = self.containers.get(request.container_id)
        init = container.process if container else None
        return init is not None and request.process_id == init.pid

    async def _take(self, request: Request[Reply]) -> Reply:
        name = type(request).__name__
        self.requests.append(name)
        if name in self.failures:
            raise self.failures[name]
        if isinstance(request, ReportMounts):
            return report_mounts(request.after, self.layers, list(self.roots))
        if isinstance(request, messages.GetProperties):
            if request.container_id != NULL_CONTAINER_ID:
                self._container(request.container_id)
            return properties_of(request.container_id)
        return await self._handle(request)

    async def _handle(self, request: Request[Reply]) -> Reply:
        if isinstance(request, messages.NegotiateProtocol):
            return self._negotiate(request)
        if not self.is_negotiated:
            raise WrongStateError("not negotiated")
        match request:
            case messages.ModifySettings():
                return await self._modify(request)
            case messages.Create():
                return self._create(request)
            case messages.ExecuteProcess():
                return await self._execute(request)
            case messages.WaitForProcess() | messages.SignalProcess():
                return await self._act_on_process(request)
            case _:
                return self._act_on(self._container(request.container_id), request)

    def _act_on(self, container: FakeContainer, request: Request[Reply]) -> Reply:
        match request:
            case messages.Start():
                pass
            case messages.ResizeConsole(height=height, width=width):
                container.sizes.append((height, width))
            case messages.DeleteContainerState():
                del self.containers[request.container_id]
            case _:
                raise GcsError(f"{type(request).__name__}: not in the fake guest")
        return Reply()

    async def _act_on_process(
        self, request: messages.WaitForProcess | messages.SignalProcess
    ) -> Reply:
        process = self._process(request)
        if isinstance(request, messages.SignalProcess):
            process.send_signal(request.options.signal)
            return Reply()
        returncode = await process.wait()
        status = returncode if returncode >= 0 else 128 - returncode
        return messages.WaitForProcessReply(exit_code=status)

    def _negotiate(self, request: messages.NegotiateProtocol) -> Reply:
        assert request.minimum_version <= 4 <= request.maximum_version
        self.is_negotiated = True
        return messages.NegotiateProtocolReply(
            version=4,
            capabilities=messages.Capabilities(
                supported_schema_versions=(messages.SchemaVersion(major=2, minor=1),),
                runtime_os_type="Linux",
                guest_defined_capabilities=messages.GuestDefinedCapabilities(),
            ),
        )

    async def _modify(self, request: messages.ModifySettings) -> Reply:
        change = request.request
        is_add = change.request_type == RequestType.ADD
        match change.settings:
            case VPMemDevice(device_number=number, mount_path=path):
                _change(self.layers, path, number, is_add=is_add)
            case MappedVirtualDisk(lun=lun, mount_path=path):
                _change(self.disks, path, lun, is_add=is_add)
            case NetworkAdapter(namespace_id=namespace):
                _change(self.networks, namespace, change.settings, is_add=is_add)
            case MappedDirectory(mount_path=path) as share:
                await (self._add_share(share) if is_add else self.shares.pop(path).aclose())
            case ScsiDevice(lun=lun):
                assert not is_add
                self.unplugged.append(lun)
            case TemporaryFilesystem() | CombinedLayers() as root:
                self._change_root(root, is_add=is_add)
            case _:
                raise GcsError(f"{change.resource_type}: not in the fake guest")
        return Reply()

    def _change_root(self, root: CombinedLayers | TemporaryFilesystem, *, is_add: bool) -> None:
        if isinstance(root, TemporaryFilesystem):
            _change(self.roots, root.mount_path, root, is_add=is_add)
            return
        missing = [layer.path for layer in root.layers if layer.path not in self.layers]
        if missing:
            raise NotFoundError(f"overlay: {missing}: not mounted")
        _change(self.roots, root.container_root_path, root, is_add=is_add)

    async def _add_share(self, share: MappedDirectory) -> None:
        """Do what a mount does: ask the server something, and wait for its answer."""
        stream = await self._dial(share.port)
        answer = b""
        with suppress(trio.BrokenResourceError):
            await stream.send_all(b"?")
            answer = bytes(await stream.receive_some(1))
        if not answer:
            await stream.aclose()
            raise GcsError("mount: Input/output error")
        _change(self.shares, share.mount_path, stream, is_add=True)

    def _create(self, request: messages.Create) -> Reply:
        cid, config = request.container_id, request.container_config
        if cid in self.containers:
            raise ContainerExistsError(cid)
        if f"{config.oci_bundle_path}/rootfs" not in self.roots:
            raise NotFoundError(f"{config.oci_bundle_path}/rootfs: not mounted")
        container = FakeContainer(config.oci_specification, config.scratch_dir_path)
        self._check_pod(container)
        program = container.arguments[0]
        if shutil.which(program) is None:
            why = "permission denied" if Path(program).exists() else "executable file not found"
            raise RuncError(f'runc create failed: exec: "{program}": {why} in $PATH')
        self.containers[cid] = container
        return messages.CreateReply(selected_protocol_version=0)

    def _check_pod(self, container: FakeContainer) -> None:
        """Refuse one of a pod that is not there, or that is not in its namespaces."""
        marks = container.annotations
        if marks.get("io.kubernetes.cri.container-type") != "container":
            return
        sandbox = self.containers.get(marks["io.kubernetes.cri.sandbox-id"])
        if sandbox is None or sandbox.process is None:
            raise GcsError("no such pod")
        assert container.joined == {
            kind: f"/proc/{sandbox.process.pid}/ns/{name}"
            for kind, name in (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
        }

    async def _execute(self, request: messages.ExecuteProcess) -> Reply:
        parameters = request.settings.process_parameters
        if request.container_id == NULL_CONTAINER_ID:
            program = parameters.command_args[0]
            if shutil.which(program) is None:
                raise NotFoundError(f"{program}: no such program in the utility VM")
            process = await self._start(
                list(parameters.command_args), request, parameters.environment
            )
            self.processes[process.pid] = process
        elif parameters.oci_process is None:
            container = self._container(request.container_id)
            process = await self._start(container.arguments, request)
            container.process = process
        else:
            process = await self._exec(request, parameters.oci_process)
        return messages.ExecuteProcessReply(process_id=process.pid)

    async def _exec(
        self, request: messages.ExecuteProcess, oci_process: Mapping[str, object]
    ) -> trio.Process:
        words, variables = oci_process["args"], oci_process["env"]
        assert isinstance(words, list)
        assert isinstance(variables, list)
        if shutil.which(words[0]) is None:
            raise RuncError(f'runc exec failed: exec: "{words[0]}": executable file not found')
        environment = dict(each.split("=", 1) for each in variables)
        process = await self._start(words, request, environment, str(oci_process["cwd"]))
        self._container(request.container_id).execs[process.pid] = process
        return process

    async def _start(
        self,
        words: list[str],
        request: messages.ExecuteProcess,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> trio.Process:
        ports = request.settings.vsock_stdio_relay_settings
        numbers = (ports.std_in, ports.std_out, ports.std_err)
        streams = [await self._dial(port) if port else None for port in numbers]
        ends = [_end(stream) for stream in streams]
        process = await trio.lowlevel.open_process(
            words, stdin=ends[0], stdout=ends[1], stderr=ends[2], env=environment, cwd=cwd
        )
        for stream in streams:
            if stream is not None:
                await trio.aclose_forcefully(stream)
        return process

    def _container(self, cid: str) -> FakeContainer:
        if cid in ("", NULL_CONTAINER_ID) or cid not in self.containers:
            raise ContainerNotFoundError(cid)
        return self.containers[cid]

    def _process(
        self, request: messages.WaitForProcess | messages.SignalProcess
    ) -> trio.Process:
        pid = request.process_id
        if request.container_id == NULL_CONTAINER_ID:
            known = self.processes
        else:
            container = self._container(request.container_id)
            init = {container.process.pid: container.process} if container.process else {}
            known = init | container.execs
        if pid not in known:
            raise NotFoundError(f"process {pid} of {request.container_id}: not known")
        return known[pid]


def _change(table: dict[str, V], path: str, value: V, *, is_add: bool) -> None:
    if is_add == (path in table):
        raise WrongStateError(f"{path}: {'already' if is_add else 'not'} mounted")
    if is_add:
        table[path] = value
    else:
        del table[path]


def _end(stream: trio.SocketStream | None) -> int:
    """Return a descriptor for a process: its end of the connection must block."""
    if stream is None:
        return subprocess.DEVNULL
    fd = stream.socket.fileno()
    os.set_blocking(fd, True)
    return fd


def _notification(cid: str) -> messages.ContainerNotification:
    return messages.ContainerNotification(
        container_id=cid,
        activity_id=NULL_CONTAINER_ID,
        type=messages.ExitType.UNEXPECTED,
        operation="None",
        result=0,
    )
