"""Every message of the bridge, version 4, with the moment when it is legal.

`BRIDGE`, at the end, is the closed list. Before NegotiateProtocol nothing else is legal; after
it NegotiateProtocol itself is not. A container is *known* from the success of its Create to its
DeleteContainerState. Members that are not here are ignored when they come in. A member
without a default is always sent, one with a default only when it differs.

Source: PROTOCOL.md; member names are hcsshim's.
"""

from enum import IntEnum, StrEnum
from typing import Annotated

from msgspec import field

from gcs.wire.extensions import EXTENSIONS
from gcs.wire.frame import Category
from gcs.wire.properties import Properties, PropertyQuery
from gcs.wire.resource import ModificationRequest
from gcs.wire.schema import (
    NESTED,
    Catalogue,
    Int32,
    Message,
    Notification,
    Reply,
    Request,
    Row,
    UInt16,
    UInt32,
)

__all__ = [
    "BRIDGE",
    "Capabilities",
    "ContainerConfig",
    "ContainerNotification",
    "Create",
    "CreateReply",
    "DeleteContainerState",
    "DumpStacks",
    "DumpStacksReply",
    "ExecuteProcess",
    "ExecuteProcessReply",
    "ExecuteProcessSettings",
    "ExitType",
    "GetProperties",
    "GetPropertiesReply",
    "GuestDefinedCapabilities",
    "ModifySettings",
    "NegotiateProtocol",
    "NegotiateProtocolReply",
    "ProcessParameters",
    "ResizeConsole",
    "Rpc",
    "SchemaVersion",
    "ShutdownForced",
    "ShutdownGraceful",
    "SignalOptions",
    "SignalProcess",
    "Start",
    "VsockStdioRelaySettings",
    "WaitForProcess",
    "WaitForProcessReply",
]


class Rpc(IntEnum):
    """Message numbers of the ComputeSystem category."""

    CREATE = 1
    START = 2
    SHUTDOWN_GRACEFUL = 3
    SHUTDOWN_FORCED = 4
    EXECUTE_PROCESS = 5
    WAIT_FOR_PROCESS = 6
    SIGNAL_PROCESS = 7
    RESIZE_CONSOLE = 8
    GET_PROPERTIES = 9
    MODIFY_SETTINGS = 10
    NEGOTIATE_PROTOCOL = 11
    DUMP_STACKS = 12
    DELETE_CONTAINER_STATE = 13
    # 14 UpdateContainer and 15 LifecycleNotification stand in host headers, and no guest
    # answers them: deliberately absent, so they get NotImpl.


#: The number of the one notification; its type word is 0x30100101.
NOTIFICATION_NUMBER = 1


class SchemaVersion(Message, frozen=True, kw_only=True):
    """A version of the HCS schema."""

    major: UInt32 = 0
    minor: UInt32 = 0


# -- NegotiateProtocol: first of all, once per connection --------------------------------------


class GuestDefinedCapabilities(Message, frozen=True, kw_only=True):
    """What a host may use beyond the plain protocol; it sends nothing that is false here."""

    namespace_add_request_supported: bool = False
    signal_process_supported: bool = False
    dump_stacks_supported: bool = False
    delete_container_state_supported: bool = False
    #: Ours: ReportMounts.
    report_mounts_supported: bool = False
    #: Ours: WaitForOutOfMemory.
    wait_for_out_of_memory_supported: bool = False
    #: Ours: the resource TemporaryFilesystem.
    temporary_filesystem_supported: bool = False
    #: Ours: VPMemDevice with Writable.
    writable_vpmem_supported: bool = False


class Capabilities(Message, frozen=True, kw_only=True):
    """What the guest is; every member is mandatory for hosts in use."""

    supported_schema_versions: tuple[SchemaVersion, ...]
    #: "Linux"; hosts take an absent one for Windows
    runtime_os_type: str
    guest_defined_capabilities: GuestDefinedCapabilities


class NegotiateProtocolReply(Reply, frozen=True, kw_only=True):
    """The version that both sides speak from here on."""

    version: UInt32
    capabilities: Capabilities


class NegotiateProtocol(Request[NegotiateProtocolReply], frozen=True, kw_only=True):
    """Agree on a version of the protocol."""

    minimum_version: UInt32 = 0
    maximum_version: UInt32 = 0


# -- containers --------------------------------------------------------------------------


class ContainerConfig(Message, frozen=True, kw_only=True):
    """The "hosted system" document of Create."""

    schema_version: SchemaVersion = SchemaVersion()
    oci_bundle_path: str = ""
    #: the OCI runtime spec: data that is passed through
    oci_specification: dict[str, object] = field(default_factory=dict)
    #: removed with the container; may be empty
    scratch_dir_path: str = ""


class CreateReply(Reply, frozen=True, kw_only=True):
    """No more than that the container is there."""

    selected_protocol_version: UInt32


class Create(Request[CreateReply], frozen=True, kw_only=True):
    """Create a container of an unknown id; its init waits for the first ExecuteProcess."""

    container_config: Annotated[ContainerConfig, NESTED] = ContainerConfig()


class Start(Request[Reply], frozen=True, kw_only=True):
    """Acknowledge; the init starts with the first ExecuteProcess. Always legal."""


class ShutdownGraceful(Request[Reply], frozen=True, kw_only=True):
    """Send SIGTERM to a known container's init; of the VM itself: power off, no reply."""


class ShutdownForced(Request[Reply], frozen=True, kw_only=True):
    """Send SIGKILL to a known container's init; of the VM itself: power off, no reply."""


class DeleteContainerState(Request[Reply], frozen=True, kw_only=True):
    """Forget a known container whose init has exited, and what it left behind."""


# -- processes ---------------------------------------------------------------------------


class ProcessParameters(Message, frozen=True, kw_only=True):
    """The process document of ExecuteProcess."""

    command_line: str = ""
    command_args: tuple[str, ...] = ()
    working_directory: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    emulate_console: bool = False
    create_std_in_pipe: bool = False
    create_std_out_pipe: bool = False
    create_std_err_pipe: bool = False
    create_in_utility_vm: bool = field(default=False, name="CreateInUtilityVM")
    #: an OCI process object: present for an exec, absent for the container's init
    oci_process: dict[str, object] | None = None


class VsockStdioRelaySettings(Message, frozen=True, kw_only=True):
    """The vsock port of the host for each stream; used only when its Create…Pipe is true."""

    std_in: UInt32 = 0
    std_out: UInt32 = 0
    std_err: UInt32 = 0


class ExecuteProcessSettings(Message, frozen=True, kw_only=True):
    """What to run, and where its streams go."""

    process_parameters: Annotated[ProcessParameters, NESTED] = ProcessParameters()
    vsock_stdio_relay_settings: VsockStdioRelaySettings = VsockStdioRelaySettings()


class ExecuteProcessReply(Reply, frozen=True, kw_only=True):
    """The pid, in the utility VM's root pid namespace."""

    process_id: UInt32


class ExecuteProcess(Request[ExecuteProcessReply], frozen=True, kw_only=True):
    """Start a known container's init, a further process in it, or one of the VM itself."""

    settings: ExecuteProcessSettings = ExecuteProcessSettings()


class WaitForProcessReply(Reply, frozen=True, kw_only=True):
    """The exit status; 128 + N after signal N."""

    exit_code: UInt32


class WaitForProcess(Request[WaitForProcessReply], frozen=True, kw_only=True):
    """Wait until a process has exited and its streams have drained; legal until deletion."""

    process_id: UInt32 = 0
    #: 0xFFFFFFFF: no limit
    timeout_in_ms: UInt32 = 0


class SignalOptions(Message, frozen=True, kw_only=True):
    """0 means SIGKILL."""

    signal: Int32 = 0


class SignalProcess(Request[Reply], frozen=True, kw_only=True):
    """Send a signal to one process that has not exited."""

    process_id: UInt32 = 0
    options: SignalOptions = SignalOptions()


class ResizeConsole(Request[Reply], frozen=True, kw_only=True):
    """Set the window size of a process that has a terminal."""

    process_id: UInt32 = 0
    height: UInt16 = 0
    width: UInt16 = 0


# -- properties and settings -------------------------------------------------------------


class GetPropertiesReply(Reply, frozen=True, kw_only=True):
    """What was asked for."""

    properties: Annotated[Properties, NESTED]


class GetProperties(Request[GetPropertiesReply], frozen=True, kw_only=True):
    """Read properties of a known container or of the VM itself."""

    query: Annotated[PropertyQuery, NESTED] = PropertyQuery()


class ModifySettings(Request[Reply], frozen=True, kw_only=True):
    """Add, remove or update one resource of the VM or of a known container."""

    request: ModificationRequest = ModificationRequest()


class DumpStacksReply(Reply, frozen=True, kw_only=True):
    """Text for a person."""

    guest_stacks: str


class DumpStacks(Request[DumpStacksReply], frozen=True, kw_only=True):
    """Read the stacks of the agent's tasks and threads."""


# -- notification ------------------------------------------------------------------------


class ExitType(StrEnum):
    """How a container ended, by what was last asked of it."""

    GRACEFUL = "GracefulExit"
    FORCED = "ForcedExit"
    UNEXPECTED = "UnexpectedExit"


class ContainerNotification(Notification, frozen=True, kw_only=True):
    """A container's init has exited; sent once per container, after the reply to its wait.

    `ResultInfo` is deliberately absent: hosts parse it as JSON even when it is empty.
    """

    container_id: str
    #: of the Create request; a GUID even when there was none, for hosts parse it as one
    activity_id: str
    type: ExitType
    operation: str
    result: Int32


def _rows() -> tuple[Row, ...]:
    return (
        Row(Rpc.CREATE, Create, CreateReply),
        Row(Rpc.START, Start, Reply),
        Row(Rpc.SHUTDOWN_GRACEFUL, ShutdownGraceful, Reply),
        Row(Rpc.SHUTDOWN_FORCED, ShutdownForced, Reply),
        Row(Rpc.EXECUTE_PROCESS, ExecuteProcess, ExecuteProcessReply),
        Row(Rpc.WAIT_FOR_PROCESS, WaitForProcess, WaitForProcessReply),
        Row(Rpc.SIGNAL_PROCESS, SignalProcess, Reply),
        Row(Rpc.RESIZE_CONSOLE, ResizeConsole, Reply),
        Row(Rpc.GET_PROPERTIES, GetProperties, GetPropertiesReply),
        Row(Rpc.MODIFY_SETTINGS, ModifySettings, Reply),
        Row(Rpc.NEGOTIATE_PROTOCOL, NegotiateProtocol, NegotiateProtocolReply),
        Row(Rpc.DUMP_STACKS, DumpStacks, DumpStacksReply),
        Row(Rpc.DELETE_CONTAINER_STATE, DeleteContainerState, Reply),
    )


#: All that a host can ask of a guest, and all that a guest says unasked.
BRIDGE = Catalogue(
    category=Category.COMPUTE_SYSTEM,
    rows=_rows(),
    notifications={NOTIFICATION_NUMBER: ContainerNotification},
    extensions=(EXTENSIONS,),
)
