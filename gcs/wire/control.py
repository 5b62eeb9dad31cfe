"""Every message between gcsctl and the service that owns a VM.

The frames are those of the bridge, in a category of their own and in CBOR. Both ends are ours
and of one version, so the records are closed: an unknown member is an error.

Descriptors travel beside the frames (SCM_RIGHTS), with the first byte of the reply that names
them in `streams`.

A service has one container, or those of a pod; `ContainerId` tells which of them a request is
about, and may be left out when there is one only.

Legality: a connection may send anything at any time; a request that does not fit the state of
the container is refused with InvalidState. Room is left for more verbs: numbers are never
reused.
"""

from enum import IntEnum, StrEnum

from gcs.wire.container_storage import Scratch, Volume
from gcs.wire.extensions import MountReport
from gcs.wire.frame import Category
from gcs.wire.schema import (
    Catalogue,
    Int32,
    Message,
    Notification,
    Reply,
    Request,
    Row,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
)

__all__ = [
    "CONTROL",
    "Describe",
    "DescribeReply",
    "Execute",
    "ExecuteReply",
    "ListMounts",
    "ListMountsReply",
    "Measure",
    "MeasureReply",
    "NetworkMode",
    "Progress",
    "ProgressState",
    "Remove",
    "Resize",
    "Run",
    "RunReply",
    "ServiceState",
    "Signal",
    "Stop",
    "StreamName",
    "Tap",
    "VmOptions",
    "Wait",
    "WaitReply",
]


class Verb(IntEnum):
    """Message numbers of the service category."""

    DESCRIBE = 1
    RUN = 2
    WAIT = 3
    SIGNAL = 4
    RESIZE = 5
    STOP = 6
    EXECUTE = 7
    REMOVE = 8
    LIST_MOUNTS = 9
    MEASURE = 10


#: The number of the one notification.
PROGRESS_NUMBER = 1


class StreamName(StrEnum):
    """A stream of a process, in the order in which descriptors are sent."""

    STDIN = "stdin"
    STDOUT = "stdout"
    STDERR = "stderr"


class VmOptions(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to make the VM of; all paths are absolute."""

    kernel: str
    #: one of the two is empty
    initrd: str = ""
    root_image: str = ""
    #: empty: the kernel has vhost-vsock
    vsock_program: str = ""
    memory_mib: UInt32 = 256
    cpus: UInt32 = 2
    scratch: Scratch = Scratch()


class NetworkMode(StrEnum):
    """What a container's network is."""

    #: loopback alone
    NONE = "none"
    #: QEMU's own, out of this machine as its user
    USER = "user"
    #: that of passt, out of this machine as its user
    PASST = "passt"
    #: a tap device of this machine
    TAP = "tap"


class Tap(Message, frozen=True, forbid_unknown_fields=True):
    """A tap device, and what a container is called at the other end of it."""

    device: str
    #: IP/PREFIX; none: by DHCP
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    name_servers: tuple[str, ...] = ()


class ServiceState(StrEnum):
    """Where the container of a service is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"
    FAILED = "failed"


class DescribeReply(Reply, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container of this service, for a list; on disk, what is left of an ended one."""

    #: 64 hexadecimal digits; the first 12 name its state folder
    container_id: str
    name: str = ""
    #: the name of its pod; empty: the VM is its own
    pod: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    state: ServiceState = ServiceState.STARTING
    #: seconds of the Unix epoch; 0: not yet
    created_at: UInt64 = 0
    started_at: UInt64 = 0
    finished_at: UInt64 = 0
    #: once it is "exited"; 128 + N after signal N
    exit_status: UInt32 = 0
    #: why it is "failed": the container's exit status is not known then
    error: str = ""


class Describe(Request[DescribeReply], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask what there is to know of a container. Always legal."""


class RunReply(Reply, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The container's init runs, or the OCI runtime refused to start it."""

    container_id: str = ""
    #: in the VM; 0 when refused
    process_id: UInt32 = 0
    #: each has a descriptor with this reply, in this order; none when detached
    streams: tuple[StreamName, ...] = ()
    #: the runtime's own sentence when it could not execute the command
    refusal: str = ""
    #: 127: no such command; 126: it can't be executed
    refusal_status: UInt8 = 0
    #: the pod has just come or is just going: nothing was done, and it is to be looked up anew
    again: bool = False


class Run(Request[RunReply], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Boot the VM and start a container in it, or start one more of a pod.

    The first is legal on the first connection only. Another one is legal while a container of
    its pod is there. When the connection ends, so does the container, unless it is detached and
    this has been answered; the VM ends with its last container.
    """

    #: absent when the VM is there: its containers share it
    vm: VmOptions | None = None
    #: the pod's name; empty: a VM of its own, and no other container in it
    pod: str = ""
    #: a folder or a tar, absolute, or else the name of an image of the cache
    image: str
    #: where layers are kept as file systems; absolute
    cache: str
    #: the command; empty: the image's
    arguments: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    #: KEY=VALUE, over the image's
    environment: tuple[str, ...] = ()
    name: str = ""
    hostname: str = ""
    #: of the VM, as the ports are
    network: NetworkMode = NetworkMode.NONE
    #: which, when it is one
    tap: Tap | None = None
    #: [IP:]PORT:CONTAINER-PORT[/udp]
    ports: tuple[str, ...] = ()
    volumes: tuple[Volume, ...] = ()
    terminal: bool = False
    #: of the terminal; 0: unknown
    height: UInt16 = 0
    width: UInt16 = 0
    stdin: bool = False
    #: the service keeps the streams, and goes on when its first connection ends
    detached: bool = False
    #: leave a record of the end in the state folder, until Remove
    keep: bool = False


class ExecuteReply(Reply, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The process runs, or it could not be started for what its command is."""

    #: in the VM; 0 when refused
    process_id: UInt32 = 0
    #: each has a descriptor with this reply, in this order
    streams: tuple[StreamName, ...] = ()
    refusal: str = ""
    #: 127: no such command; 126: it can't be executed
    refusal_status: UInt8 = 0


class Execute(Request[ExecuteReply], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Start one more process in the container, or in the VM. Legal while the container runs.

    The process outlives the connection that asked for it.
    """

    arguments: tuple[str, ...]
    #: KEY=VALUE, over the container's
    environment: tuple[str, ...] = ()
    #: empty: the container's
    working_directory: str = ""
    #: as in an image's configuration; empty: the container's
    user: str = ""
    terminal: bool = False
    #: of the terminal; 0: unknown
    height: UInt16 = 0
    width: UInt16 = 0
    stdin: bool = False
    #: in the VM's own namespaces, as root
    in_vm: bool = False


class WaitReply(Reply, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The process has exited and its output has been sent."""

    #: 128 + N after signal N
    exit_status: UInt32


class Wait(Request[WaitReply], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wait for the end of a process.

    For the container's init always legal; for another once: the answer forgets the process.
    """

    #: as Execute has answered; 0: the container's init
    process_id: UInt32 = 0


class Signal(Request[Reply], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send a signal to a process. Legal while the container runs."""

    signal: Int32
    #: as Execute has answered; 0: the container's init
    process_id: UInt32 = 0


class Resize(Request[Reply], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Set the window size of a process's terminal. Legal while it runs and has one."""

    height: UInt16
    width: UInt16
    #: as Execute has answered; 0: the container's init
    process_id: UInt32 = 0


class Stop(Request[Reply], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask the container's init to end, and kill it when it does not. Always legal.

    Answered once it has exited. What has not started yet is ended with its VM.
    """

    #: how long it may take before SIGKILL
    seconds: UInt32 = 10


class Remove(Request[Reply], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End a container at once, and leave no record; the VM ends with its last one.

    Legal when the container has exited, or by force. Answered before the end, when the name is
    free again.
    """

    force: bool = False


class ListMountsReply(Reply, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the VM's table, by path."""

    mounts: tuple[MountReport, ...] = ()
    #: there are more, after the last of these
    is_partial: bool = False


class ListMounts(
    Request[ListMountsReply], frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Tell what is mounted in the VM. Legal while the container runs."""

    #: only paths after this one; empty: from the first
    after: str = ""


class MeasureReply(Reply, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a container takes of its VM, what the VM has, and the files that it reads."""

    memory_bytes: UInt64 = 0
    #: processor time
    cpu_nanoseconds: UInt64 = 0
    #: processes and threads
    tasks: UInt64 = 0
    #: what the guest's kernel has, and what of it is free or can be freed
    total_bytes: UInt64 = 0
    available_bytes: UInt64 = 0
    #: layers, and the root image if it has one; absolute
    mapped_files: tuple[str, ...] = ()


class Measure(Request[MeasureReply], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask the guest for a container's statistics. Legal while the container runs."""


class ProgressState(StrEnum):
    """Where a step is."""

    BEGUN = "begun"
    ADVANCED = "advanced"
    DONE = "done"


class Progress(Notification, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step towards the running container, for a person to watch."""

    #: as "boot the kernel"; the same word begins and ends a step
    step: str
    state: ProgressState
    #: more about it, as "layer 2 of 7: converting"
    detail: str = ""
    #: since the step began
    milliseconds: UInt32 = 0


#: All that gcsctl can ask of a service, and what a service says unasked.
CONTROL = Catalogue(
    category=Category.SERVICE,
    rows=(
        Row(Verb.DESCRIBE, Describe, DescribeReply),
        Row(Verb.RUN, Run, RunReply),
        Row(Verb.WAIT, Wait, WaitReply),
        Row(Verb.SIGNAL, Signal, Reply),
        Row(Verb.RESIZE, Resize, Reply),
        Row(Verb.STOP, Stop, Reply),
        Row(Verb.EXECUTE, Execute, ExecuteReply),
        Row(Verb.REMOVE, Remove, Reply),
        Row(Verb.LIST_MOUNTS, ListMounts, ListMountsReply),
        Row(Verb.MEASURE, Measure, MeasureReply),
    ),
    notifications={PROGRESS_NUMBER: Progress},
)
