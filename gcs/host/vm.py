"""A utility VM: QEMU and, where the kernel has no vhost-vsock, vhost-device-vsock beside it.

`open_vm` owns both for the length of a block and leaves nothing behind. When one of them dies
inside the block, the block is cancelled and VmError says what it printed last.

Hot-plug is by name: a layer goes behind the root port of its number, a disk to its LUN. A
virtio-pmem can't be unplugged (QEMU refuses), so a layer stays until the VM ends.
"""

import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from gcs.errors import DeadlineError, DisconnectedError, GcsError
from gcs.host.background import open_background
from gcs.host.child import Child, spawn
from gcs.host.deadline import deadline
from gcs.host.logfile import Log, open_log
from gcs.host.qemu import VmConfig, Wiring, nic_port, pmem_port, qemu_argv
from gcs.host.qmp import Qmp, QmpError, open_qmp
from gcs.host.vsock import HybridVsock, KernelVsock, Vsock

__all__ = ["Vm", "VmError", "find_vhost_vsock", "open_vm"]

_VHOST_VSOCK = Path("/dev/vhost-vsock")
#: Its socket was seen after 10 ms; a busy machine may need seconds to start a program.
_VSOCK_READY_S = 30.0
_VSOCK_POLL_S = 0.005
_ACCEPTS_CONNECTIONS = 1 << 16
#: A guest that is alive lets go of a disk in 0.05 s, and under load in a second.
_UNPLUG_S = 20.0
#: How long an error waits to be explained by a death that is about to be noticed: a program's
#: connections end before it does, and a busy machine may do other things in between.
_DEATH_S = 1.0
#: How long a death waits for last words, which are in a buffer.
_POST_MORTEM_S = 0.3
#: Packets of vhost-device-vsock. A guest's send of more than 32,404 bytes is dropped by it; the
#: credit that this buffer gives keeps every packet below that.
_TX_BUFFER_SIZE = 32000
#: Each vhost-device-vsock is a world of its own, so its guest can have the lowest number.
_GUEST_CID = 3
#: The kernel's cids are shared by all VMs of a machine, and QEMU fails when one is taken: a
#: random one of 31 bits is not.
_LOWEST_CID = 0x10000
_CIDS = 0x7FFF0000


class VmError(GcsError):
    """The VM could not be started, or it died; the text has what it printed last."""


@dataclass(frozen=True, slots=True)
class _Logs:
    """What each part of a VM prints; the names are those of state.LOG_NAMES."""

    serial: Log
    qemu: Log
    #: None when the kernel does that program's work
    vsock: Log | None


class Vm:
    """A running VM; made by `open_vm`."""

    def __init__(
        self,
        config: VmConfig,
        qmp: Qmp,
        vsock: Vsock,
        qemu: Child,
        scratch_fd: int | None = None,
    ) -> None:
        self.config = config
        self.qmp = qmp
        self.vsock = vsock
        self.qemu = qemu
        root = config.root_image
        #: read-only, in their order, to the end: the root image, if it has one, and layers;
        #: each with its size, as the name may go before the VM does
        self.mapped_files = {root: _size(root)} if root else {}
        self._scratch_fd = scratch_fd

    async def start(self) -> None:
        """Let the guest boot; what it will dial must be listened on by now."""
        await self.qmp.execute("cont")

    async def add_layer(self, number: int, image: Path) -> None:
        """Plug a read-only image in as the persistent-memory device of this number.

        Raises QmpError; leaves nothing plugged then.
        """
        size = _size(image)
        await self._add_memory(f"layer{number}", number, image, readonly=True)
        self.mapped_files[image] = size

    async def add_scratch_memory(self) -> None:
        """Plug in the scratch as the persistent-memory device after those of the layers.

        Raises QmpError; leaves nothing plugged then.
        """
        # QEMU opens a memory's file by a name, and takes no set of descriptors for it.
        path = Path(f"/proc/self/fd/{self._scratch_fd}")
        await self._add_memory("scratch", self.config.pmem_ports, path, readonly=False)

    async def _add_memory(self, name: str, number: int, path: Path, *, readonly: bool) -> None:
        backend = f"{name}-memory"
        await self.qmp.execute(
            "object-add",
            qom_type="memory-backend-file",
            id=backend,
            mem_path=str(path),
            size=_size(path),
            share=True,
            readonly=readonly,
        )
        try:
            await self.qmp.execute(
                "device_add",
                driver="virtio-pmem-pci",
                id=f"{name}-device",
                bus=pmem_port(number),
                memdev=backend,
            )
        except QmpError:
            await self.qmp.execute("object-del", id=backend)
            raise

    async def add_disk(self, lun: int, filename: str, *, is_kept: bool = False) -> None:
        """Plug a raw image in as the SCSI disk of this LUN, target 0 of controller 0.

        What the guest discards is given back to the host's file system. Nothing is flushed of a
        disk that does not outlive its VM. Raises QmpError; leaves nothing plugged then.
        """
        node = f"disk{lun}-node"
        await self.qmp.execute(
            "blockdev-add",
            driver="raw",
            node_name=node,
            discard="unmap",
            cache={"no-flush": not is_kept},
            file={"driver": "file", "filename": filename, "discard": "unmap"},
        )
        try:
            await self.qmp.execute(
                "device_add",
                driver="scsi-hd",
                id=f"disk{lun}",
                bus="scsi0.0",
                channel=0,
                scsi_id=0,
                lun=lun,
                drive=node,
            )
        except QmpError:
            await self.qmp.execute("blockdev-del", node_name=node)
            raise

    async def remove_disk(self, lun: int) -> None:
        """Unplug a disk. Raises DeadlineError when the guest does not let go of it."""
        await self._unplug(f"disk{lun}", f"disk {lun}")
        await self.qmp.execute("blockdev-del", node_name=f"disk{lun}-node")

    async def add_nic(self, number: int, mac: str, backend: Mapping[str, object]) -> None:
        """Plug a NIC in, behind the root port of its number.

        Raises GcsError when there is no such port, QmpError; leaves nothing plugged then.

        Args:
            number: From 0.
            mac: What the guest knows it by.
            backend: Arguments of QEMU's netdev_add, but for the id.
        """
        if number >= self.config.nic_ports:
            raise GcsError(
                f"NIC {number}: the VM was started with ports for {self.config.nic_ports}"
            )
        network = f"nic{number}-network"
        await self.qmp.execute("netdev_add", id=network, **backend)
        try:
            await self.qmp.execute(
                "device_add",
                driver="virtio-net-pci",
                id=f"nic{number}",
                bus=nic_port(number),
                netdev=network,
                mac=mac,
                romfile="",  # nothing boots from it
            )
        except QmpError:
            await self.qmp.execute("netdev_del", id=network)
            raise

    async def remove_nic(self, number: int) -> None:
        """Unplug a NIC. Raises DeadlineError when the guest does not let go of it."""
        await self._unplug(f"nic{number}", f"NIC {number}")
        await self.qmp.execute("netdev_del", id=f"nic{number}-network")

    async def _unplug(self, device: str, what: str) -> None:
        await self.qmp.execute("device_del", id=device)
        with trio.move_on_after(_UNPLUG_S) as waited:
            await self.qmp.wait_event("DEVICE_DELETED", device=device)
        if waited.cancelled_caught:
            raise DeadlineError(f"unplug {what}: the guest kept it for {_UNPLUG_S:g} s")


def _size(path: Path) -> int:
    return path.stat().st_size


@asynccontextmanager
async def open_vm(
    config: VmConfig,
    folder: Path,
    *,
    vsock_program: str | None,
    scratch_fd: int | None = None,
    inherit: Sequence[int] = (),
    record: Callable[[Child], None] = lambda _: None,
) -> AsyncIterator[Vm]:
    """Run a VM for the length of the block.

    The block starts when QEMU takes commands; `Vm.start` lets the guest boot.

    Args:
        config: What it is made of.
        folder: An empty folder for sockets and logs; the logs stay.
        vsock_program: vhost-device-vsock; None to use the kernel's vhost-vsock.
        scratch_fd: An open file that `add_disk` can name as "/dev/fdset/1", or the one of
            `add_scratch_memory` when the configuration has a port for that.
        inherit: More descriptors that QEMU gets under the same numbers.
        record: Called with each program as soon as it runs.

    Raises VmError when the VM does not start, or when it dies inside the block.
    """
    async with AsyncExitStack() as stack:
        # First in, last out: they have the last words of everything that is started below.
        logs = await _open_logs(stack, folder, with_vsock=vsock_program is not None)
        helper = await _open_vsock_program(stack, folder, vsock_program, logs)
        if helper is not None:
            record(helper)
        cid = _GUEST_CID if helper else _LOWEST_CID + secrets.randbelow(_CIDS)
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        with theirs:
            wiring = Wiring(
                qmp_fd=theirs.fileno(),
                scratch_fd=None if config.has_scratch_port else scratch_fd,
                serial_fd=logs.serial.writer.fileno(),
                vsock_socket=_vhost_user_socket(folder) if helper else None,
                cid=cid,
                root_size=_size(config.root_image) if config.root_image else 0,
            )
            scratch = [] if scratch_fd is None else [scratch_fd]
            fds = [wiring.qmp_fd, wiring.serial_fd, *scratch, *inherit]
            qemu = await _spawn("QEMU", qemu_argv(config, wiring), logs.qemu, fds, stack)
        logs.serial.writer.close()
        record(qemu)
        vsock: Vsock = HybridVsock(_hybrid(folder), helper.pid) if helper else KernelVsock(cid)
        async with _guarded([qemu, *([helper] if helper else [])], logs):
            ours.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            async with open_qmp(stream) as qmp:
                yield Vm(config, qmp, vsock, qemu, scratch_fd)


def _hybrid(folder: Path) -> Path:
    return folder / "v"


def _vhost_user_socket(folder: Path) -> Path:
    return folder / "vhost-user"


async def _open_logs(stack: AsyncExitStack, folder: Path, *, with_vsock: bool) -> _Logs:
    async def log(name: str) -> Log:
        return await stack.enter_async_context(open_log(folder / name))

    vsock = await log("vsock.log") if with_vsock else None
    return _Logs(await log("serial.log"), await log("qemu.log"), vsock)


async def _spawn(
    name: str, argv: Sequence[str], log: Log, inherit: Sequence[int], stack: AsyncExitStack
) -> Child:
    """Start a program whose output goes to a log."""
    child = spawn(name, argv, output=log.writer.fileno(), inherit=inherit)
    started = await stack.enter_async_context(child)
    log.writer.close()
    return started


async def _open_vsock_program(
    stack: AsyncExitStack, folder: Path, program: str | None, logs: _Logs
) -> Child | None:
    """Start vhost-device-vsock and wait for its socket; None when the kernel does its work.

    Raises VmError when it ends, DeadlineError when its socket does not come.
    """
    if program is None or logs.vsock is None:
        return None
    stack.callback(_remove_sockets, folder)
    ready = _vhost_user_socket(folder)
    argv = (
        *(program, "--guest-cid", str(_GUEST_CID), "--socket", str(ready)),
        *("--uds-path", str(_hybrid(folder)), "--tx-buffer-size", str(_TX_BUFFER_SIZE)),
    )
    helper = await _spawn("vhost-device-vsock", argv, logs.vsock, [], stack)
    async with _guarded([helper], logs):
        with deadline(_VSOCK_READY_S, "vhost-device-vsock: its socket"):
            # It can't say that it is ready, nor take a socket that we listen on.
            while not _is_listened_on(ready):  # noqa: ASYNC110
                await trio.sleep(_VSOCK_POLL_S)
    return helper


def _is_listened_on(path: Path) -> bool:
    """Tell whether a unix socket takes connections: it is there a moment before that.

    To connect would be to be taken for QEMU.

    Source: linux/net/unix/af_unix.c, unix_seq_show; __SO_ACCEPTCON in linux/net.h.
    """
    if not path.is_socket():
        return False
    # Names are any bytes, those of other users' abstract sockets too.
    for line in Path("/proc/net/unix").read_bytes().split(b"\n")[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) > 7 and fields[7] == os.fsencode(path):
            return bool(int(fields[3], 16) & _ACCEPTS_CONNECTIONS)
    return False


def _remove_sockets(folder: Path) -> None:
    for path in (_hybrid(folder), _vhost_user_socket(folder)):
        path.unlink(missing_ok=True)


# -- death -------------------------------------------------------------------------------------


@asynccontextmanager
async def _guarded(watched: Sequence[Child], logs: _Logs) -> AsyncIterator[None]:
    """Cancel the block when one of the programs ends, and raise VmError that says why."""
    dead: list[Child] = []

    async def watch(child: Child) -> None:
        await child.wait()
        dead.append(child)
        scope.cancel()

    with trio.CancelScope() as scope:
        try:
            async with open_background() as nursery:
                for child in watched:
                    nursery.start_soon(watch, child)
                yield
        except DisconnectedError as error:
            # A lost bridge or monitor is often the first that is seen of a death.
            died = await _first_death(watched)
            if died is None:
                raise
            raise VmError(await _obituary(died, logs)) from error
    if dead:
        raise VmError(await _obituary(dead[0], logs))


async def _first_death(watched: Sequence[Child]) -> Child | None:
    with trio.move_on_after(_DEATH_S):
        await watched[0].wait()
    return next((child for child in watched if child.exit_status is not None), None)


async def _obituary(child: Child, logs: _Logs) -> str:
    """Return one sentence about a death, and what it and the guest printed last."""
    own = logs.qemu if child.name == "QEMU" else logs.vsock
    text = f"{child.name} {child.describe_end()}"
    for what, log in (("it printed", own), ("the guest's console ends", logs.serial)):
        if log is None:
            continue
        # The console of a guest that has lost its vsock does not end.
        with trio.move_on_after(_POST_MORTEM_S):
            await log.ended.wait()
        tail = log.tail()
        text += f"; {what}: {tail}" if tail else ""
    return text


def find_vhost_vsock() -> bool:
    """Tell whether the kernel has vhost-vsock and lets us use it."""
    return os.access(_VHOST_VSOCK, os.R_OK | os.W_OK)
