"""The tables of what exists in this VM. State only: nothing here touches the kernel.

A row is reserved before the first await of what makes it and settled or dropped afterwards, so
two equal requests can't both pass the check. Everything outlives the bridge connection.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar, TypeVarTuple, Unpack

import trio

from gcs.errors import (
    ContainerExistsError,
    ContainerNotFoundError,
    ContainerStoppedError,
    NotFoundError,
    WrongStateError,
)
from gcs.guest.gate import Gate
from gcs.guest.hosts import Host
from gcs.guest.kills import Kills
from gcs.guest.log import fields
from gcs.guest.memory import PodMemory
from gcs.guest.networks import Networks
from gcs.guest.pods import Pod, Pods
from gcs.guest.process import Process
from gcs.guest.reads import Reads
from gcs.guest.reaper import Children
from gcs.guest.redial import Redial
from gcs.guest.runc import Runc
from gcs.guest.spec.fixups import Prepared
from gcs.guest.stdio import Pipes
from gcs.guest.transport import Transport
from gcs.linux.kept import KeptFiles
from gcs.wire.messages import ContainerNotification, ExitType
from gcs.wire.schema import NULL_CONTAINER_ID

__all__ = ["Agent", "Container", "MountRecord", "State"]

_log = logging.getLogger("gcs.agent")

_Row = TypeVar("_Row")
_Arguments = TypeVarTuple("_Arguments")

#: Processes of the VM whose exit status is kept after they ended. Hosts ask at once; a record
#: is a few hundred bytes.
_MAX_ENDED = 256
#: Mounts and unmounts at a time. Hosts add the layers of a container at once, up to 128; more
#: than a few do not get faster, but those that hang must leave room for others.
_STORAGE_THREADS = 32
#: Kills by cgroup at a time; the kernel makes one after the other.
_CGROUP_THREADS = 8
#: How long after the loss of a bridge the ends of other connections are taken for the host's
#: own end. A vsock device resets them all at once, a host's exit closes them within moments.
_LOSS_S = 1.0
#: Execs of a container whose exit status is kept after they ended; a record takes about 1 KiB,
#: and a probe every second would fill a VM in a week. Hosts ask at once.
_MAX_ENDED_EXECS = 1024


class State(StrEnum):
    """Where a container is in its life."""

    #: reserved; Create is still at work
    CREATING = "creating"
    #: its init waits for the first ExecuteProcess
    CREATED = "created"
    #: that ExecuteProcess is at work
    STARTING = "starting"
    RUNNING = "running"
    #: its init has exited
    STOPPED = "stopped"


@dataclass(slots=True)
class Container:
    """One container, from Create to DeleteContainerState."""

    container_id: str
    bundle: str
    scratch_dir: str
    #: of the Create request, echoed in the exit notification
    activity_id: str
    state: State = State.CREATING
    #: its cgroup, below the cgroup file system
    cgroup: str = ""
    #: of its init's OCI process; for execs that bring none
    rlimits: object = None
    #: the user of its init, for execs that name none; None when its spec names none by name
    user: object = None
    #: its root directory, where the agent sees it
    root: str = ""
    #: the pod that it is in
    pod: Pod | None = None
    #: the file that gets a copy of its init's output: a folder, and a path below it
    log: tuple[str, str] | None = None
    has_terminal: bool = False
    #: without one of its own, its other processes survive their init
    owns_pid_namespace: bool = True
    init: Process | None = None
    #: the init's streams until it is started: pipes, or a terminal's master
    unstarted: Pipes | int | None = None
    #: execs by pid
    processes: dict[int, Process] = field(default_factory=dict)
    exit_type: ExitType = ExitType.UNEXPECTED
    #: processes that the kernel has killed in it for want of memory, as far as it was told
    oom_kills: int = 0
    #: WaitForProcess requests on the init that are not answered yet
    waiters: int = 0
    #: set when such a wait has been answered and no other is left
    wait_answered: trio.Event = field(default_factory=trio.Event)
    #: held by the request that deletes it
    deletion: trio.Lock = field(default_factory=trio.Lock)
    #: the runtime's calls about it are inside, but for the one that deletes it
    gate: Gate = field(init=False)
    #: for reading its properties
    reads: Reads = field(init=False)

    def __post_init__(self) -> None:
        self.gate = Gate(self.container_id)
        self.reads = Reads(f"container {self.container_id}")

    def take(self, prepared: Prepared) -> None:
        """Remember what the spec for the runtime says of the container."""
        self.cgroup = prepared.cgroup
        self.rlimits = prepared.rlimits
        self.user = prepared.user
        self.root = prepared.root
        self.has_terminal = prepared.has_terminal
        self.owns_pid_namespace = prepared.owns_pid_namespace

    def process(self, pid: int) -> Process:
        """Return the init or an exec. Raises NotFoundError."""
        if self.init is not None and self.init.pid == pid:
            return self.init
        if pid not in self.processes:
            raise NotFoundError(f"container {self.container_id}: no process {pid}")
        return self.processes[pid]

    def add_exec(self, process: Process) -> None:
        """Enter an exec; the oldest that are over are forgotten when they are too many."""
        self.processes.pop(
            process.pid, None
        )  # its number may have been another's: it is the newest now
        self.processes[process.pid] = process
        over = [pid for pid, process in self.processes.items() if process.is_over]
        for pid in over[:-_MAX_ENDED_EXECS]:
            del self.processes[pid]

    def move(self, before: State, after: State) -> None:
        """Change the state. Raises ContainerStoppedError or WrongStateError if it is not."""
        if self.state is State.STOPPED:
            raise ContainerStoppedError(f"container {self.container_id} has exited")
        if self.state is not before:
            raise WrongStateError(
                f"container {self.container_id} is {self.state}, not {before}"
            )
        self.state = after

    def check_running(self) -> None:
        """Raise ContainerStoppedError or WrongStateError unless its init runs."""
        self.move(State.RUNNING, State.RUNNING)

    def close_unstarted(self) -> None:
        """Give up the streams of an init that is not started."""
        unstarted, self.unstarted = self.unstarted, None
        if isinstance(unstarted, Pipes):
            unstarted.close()
        elif unstarted is not None:
            os.close(unstarted)

    def record_signal(self, process: Process, signal: int) -> None:
        """Remember how the container is being ended, for its exit notification."""
        kinds = {15: ExitType.GRACEFUL, 9: ExitType.FORCED}
        if process is self.init:
            self.exit_type = kinds.get(signal, self.exit_type)


@dataclass(slots=True)
class MountRecord:
    """Something that a ModifySettings mounted."""

    target: str
    #: the resource type that it is, or "Bundle" for what comes along with one
    kind: str = ""
    #: the device, the folder or the share that it shows
    source: str = ""
    #: False while the mount is being made
    settled: bool = False
    #: targets of the mounts that this one stands on
    uses: frozenset[str] = frozenset()
    #: the kernel's number for it; None for a link
    mount_id: int | None = None
    #: the mapped devices that it is on, the lowest first; removed with it
    mappings: tuple[str, ...] = ()
    #: how a share is cached
    cache: str = ""
    #: it is a symbolic link to a device
    is_link: bool = False
    #: whether its files are read by DAX; None where that makes no sense
    has_dax: bool | None = None


@dataclass(slots=True)
class Agent:
    """All that the requests share."""

    transport: Transport
    children: Children
    runc: Runc
    #: for what outlives a request: processes, streams, notifications
    nursery: trio.Nursery
    #: for busy streams; more than the processors could not be busy at once
    stream_threads: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(2 * (os.cpu_count() or 1))
    )
    #: for reading those of the VM's own properties that may block
    reads: Reads = field(default_factory=lambda: Reads("the VM"))
    #: for reading the others
    kept: KeptFiles = field(default_factory=KeptFiles)
    #: for what may hang on a device: nothing else waits for these threads
    storage_threads: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(_STORAGE_THREADS)
    )
    #: for killing by cgroup, which must not wait behind threads that hang on a device
    cgroup_threads: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(_CGROUP_THREADS)
    )
    pod_memory: PodMemory = field(default_factory=PodMemory)
    #: for want of memory, by the kernel
    kills: Kills = field(default_factory=Kills)
    networks: Networks = field(default_factory=Networks)
    #: since when no host has been there (trio's time); None while one is, and before the first
    host_lost_at: float | None = None
    #: when a host was lost last, whether or not one is there again
    last_loss_at: float = float("-inf")
    #: the host that is there, or was last
    host: Host = field(default_factory=Host)
    #: the host wants everything refused until a policy comes, and none can come
    denies: bool = False
    containers: dict[str, Container] = field(default_factory=dict)
    #: processes of the VM itself, by pid
    vm_processes: dict[int, Process] = field(default_factory=dict)
    pods: Pods = field(default_factory=Pods)
    mounts: dict[str, MountRecord] = field(default_factory=dict)
    #: folders of deleted containers that wait for a mount below them to go
    remains: set[str] = field(default_factory=set)
    #: exits that no host has been told of, in order
    exits: list[ContainerNotification] = field(default_factory=list)
    exits_changed: trio.Event = field(default_factory=trio.Event)
    #: set for good once the host has asked for it: nothing is started any more
    is_powering_off: bool = False

    def start_soon(
        self,
        function: Callable[[Unpack[_Arguments]], Awaitable[None]],
        *arguments: *_Arguments,
    ) -> None:
        """Run what outlives its request; its failure is logged, and ends nothing else.

        The agent's end is its VM's, which is too much for a stream that can't be read.
        """

        async def run() -> None:
            try:
                await function(*arguments)
            except Exception as error:  # noqa: BLE001 - the edge of what has no request
                what = getattr(function, "__qualname__", repr(function))
                _log.error("background work failed", exc_info=error, extra=fields(what=what))

        self.nursery.start_soon(run, name=function)

    def add_vm_process(self, process: Process) -> None:
        """Enter a process of the VM; nobody deletes these, so the oldest that ended go."""
        self.vm_processes[process.pid] = process
        ended = [pid for pid, p in self.vm_processes.items() if p.finished.is_set()]
        for pid in ended[:-_MAX_ENDED]:
            del self.vm_processes[pid]

    def container(self, container_id: str) -> Container:
        """Return a known container. Raises ContainerNotFoundError, WrongStateError."""
        container = self.containers.get(container_id)
        if container is None:
            raise ContainerNotFoundError(f"container {container_id} does not exist")
        if container.state is State.CREATING:
            raise WrongStateError(f"container {container_id} is still being created")
        return container

    def process(self, container_id: str, pid: int) -> Process:
        """Return a process of a container or, for the null id, of the VM."""
        if container_id != NULL_CONTAINER_ID:
            return self.container(container_id).process(pid)
        if pid not in self.vm_processes:
            raise NotFoundError(f"no process {pid} in the utility VM")
        return self.vm_processes[pid]

    @contextmanager
    def reserve_container(self, container: Container) -> Iterator[None]:
        """Hold the id while the container is made; it becomes known only on success."""
        container_id = container.container_id
        self.check_not_powering_off()
        if container_id in self.containers:
            raise ContainerExistsError(f"container {container_id} already exists")
        # What is left of an earlier container of that id is not to be taken for this one's.
        self.exits[:] = [exit_ for exit_ in self.exits if exit_.container_id != container_id]
        self.remains -= {container.bundle, container.scratch_dir}
        with _reserved(self.containers, container_id, container):
            yield
            container.state = State.CREATED

    def redial(self, stdout: int | None = None, stderr: int | None = None) -> Redial:
        """Return how a process of the present host finds it again; with the ports to dial."""
        host = self.host

        def was_lost_since(then: float) -> bool:
            return self.host_lost_at is not None or self.last_loss_at >= then

        return Redial(
            transport=self.transport,
            is_host_lost=lambda: was_lost_since(trio.current_time() - _LOSS_S),
            was_lost_since=was_lost_since,
            is_host_back=lambda: (
                self.host_lost_at is None and (self.host is host or self.host.has_taken_over)
            ),
            ports=(stdout, stderr),
        )

    def check_not_powering_off(self) -> None:
        """Raise WrongStateError when nothing may be started any more."""
        if self.is_powering_off:
            raise WrongStateError("the utility VM is powering off")

    @contextmanager
    def reserve_mount(self, record: MountRecord) -> Iterator[None]:
        """Hold the target while something is mounted there, and what it stands on.

        Raises WrongStateError when something is mounted at the target already.
        """
        if record.target in self.mounts:
            raise WrongStateError(f"{record.target} is mounted already")
        with _reserved(self.mounts, record.target, record):
            yield
            record.settled = True

    @contextmanager
    def release_mount(self, target: str) -> Iterator[None]:
        """Hold the target while it is unmounted; the record goes on success.

        Raises WrongStateError while other mounts stand on it, or while it changes.
        """
        users = sorted(m.target for m in self.mounts.values() if target in m.uses)
        if users:
            raise WrongStateError(f"{target} is in use by {', '.join(users)}")
        record = self.mounts.get(target)
        if record is not None and not record.settled:
            raise WrongStateError(f"{target} is being mounted or unmounted")
        if record is not None:
            record.settled = False
        try:
            yield
        except BaseException:
            if record is not None:
                record.settled = True
            raise
        self.mounts.pop(target, None)

    def announce_exit(self, container: Container) -> None:
        """Queue a container's exit notification, unless its id is another's by now."""
        if self.containers.get(container.container_id, container) is not container:
            return
        self.exits.append(
            ContainerNotification(
                container_id=container.container_id,
                activity_id=container.activity_id or NULL_CONTAINER_ID,
                type=container.exit_type,
                operation="None",
                result=0,
            )
        )
        changed, self.exits_changed = self.exits_changed, trio.Event()
        changed.set()


@contextmanager
def _reserved(table: dict[str, _Row], key: str, row: _Row) -> Iterator[None]:
    table[key] = row
    try:
        yield
    except BaseException:
        del table[key]
        raise
