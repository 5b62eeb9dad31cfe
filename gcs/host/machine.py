"""A VM that takes containers: its boot, its bridge, and what its containers have in common.

They share the scratch, each with folders of its own; the layers, as `layer_mounts` has it;
the network; and in a pod the sandbox. Containers come and go while `Machine.serve` runs.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from gcs.errors import GcsError
from gcs.host import network
from gcs.host.accelerator import probe_kvm
from gcs.host.background import open_background, together
from gcs.host.bridge import accept_bridge, open_bridge
from gcs.host.client import Client
from gcs.host.exits import Exits
from gcs.host.guest_scratch import GuestScratch
from gcs.host.layer_cache import Leases
from gcs.host.layer_mounts import LayerMounts
from gcs.host.outcome import Outcome
from gcs.host.packs import device_count
from gcs.host.passt import Passt, open_passt
from gcs.host.pod import Sandbox, open_sandbox
from gcs.host.publish import Published, open_relays, parse_published
from gcs.host.qemu import VmConfig
from gcs.host.scratch import open_file
from gcs.host.state import StateFolder
from gcs.host.steps import Steps
from gcs.host.vm import Vm, open_vm
from gcs.host.volumes import Volumes, open_volumes
from gcs.host.vsock import BRIDGE_PORT, Ports
from gcs.wire.container_storage import ScratchKind
from gcs.wire.control import NetworkMode, Run, VmOptions

__all__ = ["Machine", "Storage", "open_machine"]

#: A VM with less has crun start its containers: runc takes 10 MiB more while it does that.
_SMALL_VM_MIB = 96
_SMALL_VM_ARGS = (
    *("/bin/gcs", "-v4", "-log-format", "json", "-loglevel", "info", "-runtime", "crun"),
)

_log = logging.getLogger("gcs.host.machine")

#: The guest finds a layer's device by its number, so ports without a layer are only for later
#: plugging; a VM of one container has no use for more.
_SPARE_PORTS = 1
#: Of a pod, for the layers of containers that come later: four images that share nothing. The
#: least that a boot took of four on a busy machine under emulation was 8.3 s with 8 ports, 8.5
#: with 16, 10.8 with 32 and 12.8 with 64, each of which is a bridge that the guest sets up
#: (docs/bench/ports.json).
_POD_PORTS = 32


@dataclass(frozen=True, slots=True)
class Storage:
    """What containers get mounted, each its own."""

    layers: LayerMounts
    scratch: GuestScratch
    volumes: Volumes


class Machine:
    """A VM and what its containers share; made by `open_machine`."""

    def __init__(
        self,
        vm: Vm,
        folder: StateFolder,
        leases: Leases,
        run: Run,
        home: str,
        passt: Passt | None,
    ) -> None:
        self.vm = vm
        self.folder = folder
        self.passt = passt
        #: of all layers that were ever plugged in: they stay to the end
        self.leases = leases
        self.ports = Ports()
        self.exits = Exits()
        #: there once the guest has connected
        self.storage: Outcome[Storage] = Outcome()
        #: set once containers can be created
        self.is_furnished = trio.Event()
        #: None in a VM of a single container
        self.sandbox: Sandbox | None = None
        #: id of the container that has the network, in a pod of the sandbox
        self.home = home
        #: whether it goes on when one of its containers has failed
        self.is_shared = bool(run.pod)
        self._run = run

    @property
    def _options(self) -> VmOptions:
        assert self._run.vm is not None, "the first container of a VM brings them"
        return self._run.vm

    @property
    def has_network(self) -> bool:
        """Tell whether its containers have more than loopback."""
        return self._run.network is not NetworkMode.NONE

    async def serve(self, steps: Steps, is_vacant: Outcome[bool]) -> None:
        """Boot, and be there for containers until the last one has gone.

        Args:
            steps: Told of the way to the first container.
            is_vacant: Set when nobody is left, to whether all has gone well. If it has, what
                containers share is taken down.

        Raises GcsError when the boot fails, or a pod loses its sandbox.
        """
        stream = await self._boot(steps)
        async with (
            open_bridge(stream) as client,
            open_volumes(self.vm, client, self.folder) as volumes,
            open_relays(self._forwarded()) as forwards,
            open_background() as nursery,
        ):
            nursery.start_soon(self.exits.read, client.notifications)
            scratch = GuestScratch(self.vm, client, self._options.scratch)
            self.storage.succeed(Storage(LayerMounts(self.vm, client), scratch, volumes))
            await self._furnish(client, forwards, scratch, steps)
            self.is_furnished.set()
            if await self._wait_until(is_vacant):
                await self._clear(client, scratch)

    async def _boot(self, steps: Steps) -> trio.SocketStream:
        name = "boot the VM"
        with await self.vm.vsock.listen(BRIDGE_PORT) as listener:
            async with steps.step(name):
                vsock = "vhost-device-vsock" if self._options.vsock_program else "vhost-vsock"
                await steps.advance(name, f"{self.vm.config.accelerator}, {vsock}")
                await self.vm.start()
                return await accept_bridge(listener)

    async def _furnish(
        self,
        client: Client,
        forwards: Sequence[Published],
        scratch: GuestScratch,
        steps: Steps,
    ) -> None:
        """Make what containers share: the scratch, the network, and a pod's sandbox."""

        async def connect() -> None:
            if self.has_network:
                async with steps.step("connect the network"):
                    await self._connect(client, forwards)

        await together(scratch.mount, connect)
        if self.is_shared:
            async with steps.step("open the pod"):
                self.sandbox = await open_sandbox(
                    *(self.vm, client, self.home),
                    hostname=self._run.hostname or self._run.pod,
                    has_network=self.has_network,
                )

    def _forwarded(self) -> Sequence[Published]:
        """Return the ports that QEMU and we are to see to."""
        return () if self.passt else _published(self._run)

    async def _connect(self, client: Client, forwards: Sequence[Published]) -> None:
        if self._run.tap is not None:
            await network.connect_tap(self.vm, client, self.home, self._run.tap)
            return
        if self.passt is not None:
            await network.connect_passt(self.vm, client, self.home, self.passt)
            return
        is_wanted = network.has_ipv6_route()
        await network.connect(self.vm, client, self.home, forwards, ipv6_route=is_wanted)

    async def _wait_until(self, is_vacant: Outcome[bool]) -> bool:
        """Return what it is set to."""
        if self.sandbox is None:
            return await is_vacant.get()
        async with open_background() as nursery:
            nursery.start_soon(self._watch, self.sandbox, is_vacant)
            return await is_vacant.get()

    async def _watch(self, sandbox: Sandbox, is_vacant: Outcome[bool]) -> None:
        """Have it fail when the sandbox ends: its namespaces are gone then for who comes."""
        try:
            status = await sandbox.wait()
            is_vacant.fail(GcsError(f"pod {self._run.pod}: its sandbox has ended: {status}"))
        except GcsError as error:
            is_vacant.fail(error)

    async def _clear(self, client: Client, scratch: GuestScratch) -> None:
        """Take down what was made, but for the sandbox, which the VM takes along."""
        if self.has_network:
            await network.disconnect(self.vm, client, self.home)
        await scratch.unmount()


@asynccontextmanager
async def open_machine(
    run: Run, layer_count: int, folder: StateFolder, home: str
) -> AsyncIterator[Machine]:
    """Have a VM for the length of the block; `Machine.serve` boots it.

    Args:
        run: The first container of it.
        layer_count: Of that container's image.
        folder: Of the VM.
        home: Id of who is to have the network.

    Raises VmError when it does not start, or when it dies inside the block. Leaves no process
    behind, and the logs in the folder.
    """
    options = run.vm
    assert options is not None, "the first container of a VM brings them"
    ports = device_count(layer_count) + _SPARE_PORTS
    config = await _configure(
        options,
        Path(run.cache).with_name("kvm"),
        pmem_ports=max(ports, _POD_PORTS) if run.pod else ports,
        nic_ports=0 if run.network is NetworkMode.NONE else 1,
    )
    async with AsyncExitStack() as stack:
        leases = stack.enter_context(Leases())
        passt = None
        if run.network is NetworkMode.PASST:
            passt = await stack.enter_async_context(open_passt(_published(run), folder))
        async with open_vm(
            config,
            folder.path,
            vsock_program=options.vsock_program or None,
            scratch_fd=stack.enter_context(open_file(options.scratch)),
            inherit=[passt.qemu_fd] if passt else [],
            record=folder.record,
        ) as vm:
            yield Machine(vm, folder, leases, run, home, passt)


def _published(run: Run) -> Sequence[Published]:
    return [parse_published(one) for one in run.ports]


async def _configure(
    options: VmOptions, probes: Path, *, pmem_ports: int, nic_ports: int
) -> VmConfig:
    kernel = Path(options.kernel)
    why_not = await probe_kvm(kernel, probes)
    _log.info("accelerator", extra={"kvm": why_not or "works"})
    return VmConfig(
        kernel=kernel,
        initrd=Path(options.initrd) if options.initrd else None,
        root_image=Path(options.root_image) if options.root_image else None,
        memory_mib=options.memory_mib,
        cpus=options.cpus,
        pmem_ports=pmem_ports,
        has_scratch_port=options.scratch.kind is ScratchKind.PMEM,
        nic_ports=nic_ports,
        accelerator="tcg" if why_not else "kvm",
        init_args=_SMALL_VM_ARGS if options.memory_mib < _SMALL_VM_MIB else (),
    )
