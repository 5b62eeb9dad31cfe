"""One container in a utility VM: from the layers on the host to the exit status, and back.

Every step is a call over the bridge and, where a device is needed, one over QMP before it. The
calls are to be made in this order; `remove` takes down what `create` has made.

Paths in the guest: layers where `layer_mounts` says, what is written where `guest_scratch`
does, the bundle at /run/gcs/c/<cid>.

Source: PROTOCOL.md.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from gcs.errors import CallError, GcsError, Hresult, WrongStateError
from gcs.host.bridge import call, modify
from gcs.host.client import Client
from gcs.host.deadline import deadline
from gcs.host.guest_scratch import GuestScratch
from gcs.host.process import Process, Streams, start_process
from gcs.host.vm import Vm
from gcs.host.vsock import Ports
from gcs.wire import messages, resource
from gcs.wire.control import StreamName
from gcs.wire.resource import RequestType, ResourceType
from gcs.wire.schema import NULL_CONTAINER_ID, Notification

__all__ = [
    "CommandRefusedError",
    "Container",
    "bundle_path",
    "rootfs_path",
    "run_in_vm",
]

#: The exit notification follows the reply to the wait at once; the rest is for a machine that
#: has other things to do.
_NOTIFICATION_S = 30.0
_SCHEMA = messages.SchemaVersion(major=2, minor=1)

#: How the OCI runtimes name the execution of the command in an error: runc `exec: "x": …`, crun
#: "executable file `x` not found", "exec container process `x`", "open executable: …".
_EXECUTION = re.compile(r"\bexec(:|utable| container process)", re.IGNORECASE)
_MISSING = re.compile(r"not found|no such file or directory", re.IGNORECASE)
_UNUSABLE = re.compile(r"permission denied|exec format error|is a directory", re.IGNORECASE)
#: As shells have it.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


class CommandRefusedError(GcsError):
    """The OCI runtime can't execute the command; the text is its own sentence."""

    def __init__(self, sentence: str, exit_status: int) -> None:
        super().__init__(sentence)
        #: as shells have it: 127 not found, 126 not executable
        self.exit_status = exit_status


def bundle_path(cid: str) -> str:
    """Return the folder of a container in the guest."""
    return f"/run/gcs/c/{cid}"


def rootfs_path(cid: str) -> str:
    """Return a container's root in the guest."""
    return f"{bundle_path(cid)}/rootfs"


# -- the container -----------------------------------------------------------------------------


@dataclass(slots=True)
class Container:
    """A container that `create` has made."""

    vm: Vm
    client: Client
    cid: str
    #: what the guest says of it unasked; None: all that the bridge has to say
    notifications: trio.MemoryReceiveChannel[Notification] | None = None
    #: the folder in the guest that takes what it writes; empty: one of its own, on a disk
    scratch: str = ""
    #: whether that stays when the container is removed
    is_kept: bool = False
    _init: Process | None = field(default=None, init=False)

    @property
    def init(self) -> Process:
        """Its first process. Raises WrongStateError before `start` has started it."""
        if self._init is None:
            raise WrongStateError(f"container {self.cid}: has not started")
        return self._init

    async def create(self, spec: dict[str, object], paths: Sequence[str]) -> None:
        """Stitch the layers and hand over the spec.

        Raises CommandRefusedError when the OCI runtime can't execute the command. Leaves
        nothing then.

        Args:
            spec: As the OCI runtime has it.
            paths: Of the layers in the guest, bottom first.
        """
        # Topmost first, as overlayfs has it, which takes no layer twice: of one that is there
        # several times, what the lower ones hold is in the topmost as well.
        layers = dict.fromkeys(reversed(paths))
        root = resource.CombinedLayers(
            container_id=self.cid,
            container_root_path=rootfs_path(self.cid),
            layers=tuple(resource.Layer(path=path) for path in layers),
            scratch_path=self._scratch_path(),
        )
        await modify(self.client, RequestType.ADD, ResourceType.COMBINED_LAYERS, root)
        try:
            await self.create_of(spec, "" if self.is_kept else self._scratch_path())
        except (CallError, CommandRefusedError) as error:
            try:
                await self._remove_root()
            except GcsError as second:
                error.add_note(f"undoing it: {second}")
            raise

    async def create_of(self, spec: dict[str, object], scratch: str = "") -> None:
        """Hand over the spec of a container whose root is there; see `create`."""
        config = messages.ContainerConfig(
            schema_version=_SCHEMA,
            oci_bundle_path=bundle_path(self.cid),
            oci_specification=spec,
            scratch_dir_path=scratch,
        )
        try:
            await call(
                self.client, messages.Create(container_id=self.cid, container_config=config)
            )
        except CallError as error:
            raise _refusal(error) or error from error

    def _scratch_path(self) -> str:
        return self.scratch or GuestScratch(self.vm, self.client).folder(self.cid)

    async def start(
        self, ports: Ports, streams: Sequence[StreamName], *, terminal: bool
    ) -> Streams:
        """Start init and return its streams' connections.

        Raises CommandRefusedError when the OCI runtime can't execute the command.
        """
        await call(self.client, messages.Start(container_id=self.cid))
        parameters = messages.ProcessParameters(emulate_console=terminal)
        self._init, connections = await self._start(parameters, ports, streams)
        return connections

    async def execute(
        self, ports: Ports, streams: Sequence[StreamName], process: dict[str, object]
    ) -> tuple[Process, Streams]:
        """Start one more process in the container.

        Args:
            ports: Of the VM.
            streams: Those to connect.
            process: As the OCI runtime spec has it.

        Raises CommandRefusedError when the OCI runtime can't execute the command.
        """
        parameters = messages.ProcessParameters(
            emulate_console=process.get("terminal") is True, oci_process=process
        )
        return await self._start(parameters, ports, streams)

    async def _start(
        self,
        parameters: messages.ProcessParameters,
        ports: Ports,
        streams: Sequence[StreamName],
    ) -> tuple[Process, Streams]:
        numbers = {name: ports.take() for name in streams}
        try:
            return await start_process(
                self.vm.vsock, self.client, self.cid, parameters, numbers
            )
        except CallError as error:
            raise _refusal(error) or error from error

    async def wait_notification(self) -> messages.ContainerNotification:
        """Take the container's exit notification, which follows the reply to the wait.

        What the guest says of containers that are not here is passed over.
        """
        with deadline(_NOTIFICATION_S, f"container {self.cid}: its exit notification"):
            async for notification in self.notifications or self.client.notifications:
                if isinstance(notification, messages.ContainerNotification) and (
                    notification.container_id == self.cid
                ):
                    return notification
        raise GcsError(f"container {self.cid}: the bridge ended before its exit notification")

    async def remove(self) -> None:
        """Forget a container whose init does not run, and unmount its root."""
        await call(self.client, messages.DeleteContainerState(container_id=self.cid))
        await self._remove_root()

    async def _remove_root(self) -> None:
        root = resource.CombinedLayers(
            container_id=self.cid, container_root_path=rootfs_path(self.cid)
        )
        await modify(self.client, RequestType.REMOVE, ResourceType.COMBINED_LAYERS, root)


def _refusal(error: CallError) -> CommandRefusedError | None:
    """Return what an OCI runtime says about the command; None for any other words."""
    status = refusal_status(error.message)
    return None if status is None else CommandRefusedError(error.message, status)


def refusal_status(sentence: str) -> int | None:
    """Return 127 or 126 when an OCI runtime's sentence is about the command, else None."""
    if not _EXECUTION.search(sentence):
        return None
    if _UNUSABLE.search(sentence):
        return _NOT_EXECUTABLE
    return _NOT_FOUND if _MISSING.search(sentence) else None


# -- processes of the VM -----------------------------------------------------------------------


async def run_in_vm(
    vm: Vm,
    client: Client,
    parameters: messages.ProcessParameters,
    ports: Ports,
    streams: Sequence[StreamName],
) -> tuple[Process, Streams]:
    """Start a process in the VM's own namespaces, as root.

    Raises CommandRefusedError when the VM has no such program.
    """
    numbers = {name: ports.take() for name in streams}
    try:
        return await start_process(vm.vsock, client, NULL_CONTAINER_ID, parameters, numbers)
    except CallError as error:
        if error.result == Hresult.ERR_NOT_FOUND:
            raise CommandRefusedError(error.message, _NOT_FOUND) from error
        raise
