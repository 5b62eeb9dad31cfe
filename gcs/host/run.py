"""From an image to an exit status: the one way through VM, bridge, layers and container.

Nothing here knows of clients: what becomes known on the way is set as an outcome.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from gcs.host import network, volumes
from gcs.host.accelerator import probe_kvm
from gcs.host.background import together
from gcs.host.bridge import accept_bridge, open_bridge
from gcs.host.container import Container, mount_layers, rootfs_path, unmount_layers
from gcs.host.contents import Contents, find_image, prepare
from gcs.host.images import Image, ImageConfig
from gcs.host.layer_cache import Leases
from gcs.host.layer_mounts import LayerMounts
from gcs.host.outcome import Outcome
from gcs.host.packs import device_count
from gcs.host.place import Place
from gcs.host.process import Streams
from gcs.host.qemu import VmConfig
from gcs.host.scratch import open_scratch
from gcs.host.spec import Command, runtime_spec
from gcs.host.state import StateFolder
from gcs.host.steps import Steps
from gcs.host.users import find_user
from gcs.host.vm import Vm, open_vm
from gcs.host.volumes import Mounted, Volumes, open_volumes
from gcs.host.vsock import BRIDGE_PORT, Ports
from gcs.wire.control import NetworkMode, Run, StreamName

__all__ = ["Life", "Started", "run_container", "wanted_streams"]

_log = logging.getLogger("gcs.host.run")

#: The guest finds a layer's device by its number, so ports without a layer are only for later
#: plugging; each costs the guest a few milliseconds of boot.
_SPARE_PORTS = 1


@dataclass(frozen=True, slots=True)
class Started:
    """A container whose init runs, and the connections of its streams."""

    container: Container
    streams: Streams
    #: of the VM, for more processes
    ports: Ports
    image: ImageConfig
    #: of the image as file systems, bottom first
    layers: Sequence[Path]
    #: init's, as the spec has it
    process: Mapping[str, object]


@dataclass(slots=True)
class Life:
    """What becomes known of a container, in this order."""

    image: Outcome[Image] = field(default_factory=Outcome)
    started: Outcome[Started] = field(default_factory=Outcome)
    exited: Outcome[int] = field(default_factory=Outcome)


async def run_container(
    run: Run, cid: str, folder: StateFolder, steps: Steps, life: Life
) -> None:
    """Run a container in a VM of its own, until it has exited and all is taken down.

    Args:
        run: What to run.
        cid: The container's id.
        folder: Of the VM.
        steps: Told of what happens on the way.
        life: Told of what becomes known; not of failures, which are raised.

    Raises CommandRefusedError when the OCI runtime can't execute the command, and any GcsError
    when a step fails. Leaves no process and no device behind, and the logs in the folder.
    """
    async with steps.step("read the image"):
        image = await find_image(run.image, Path(run.cache))
    life.image.succeed(image)
    config = await _configure(run, len(image.layers), folder.path.parent / ".probe")
    program = run.vm.vsock_program or None
    with Leases() as leases, open_scratch() as scratch_fd:
        async with open_vm(
            config,
            folder.path,
            vsock_program=program,
            scratch_fd=scratch_fd,
            record=folder.record,
        ) as vm:
            stream, contents = await _boot(vm, image, leases, run, steps)
            async with (
                open_bridge(stream) as client,
                open_volumes(vm, client, folder) as shares,
            ):
                container = Container(vm, client, cid)
                await _live(container, contents, shares, run, steps, life)


async def _configure(run: Run, layer_count: int, probes: Path) -> VmConfig:
    kernel = Path(run.vm.kernel)
    why_not = await probe_kvm(kernel, probes)
    _log.info("accelerator", extra={"kvm": why_not or "works"})
    return VmConfig(
        kernel=kernel,
        initrd=Path(run.vm.initrd),
        memory_mib=run.vm.memory_mib,
        cpus=run.vm.cpus,
        pmem_ports=device_count(layer_count) + _SPARE_PORTS,
        nic_ports=1 if run.network is NetworkMode.USER else 0,
        accelerator="tcg" if why_not else "kvm",
    )


async def _boot(
    vm: Vm, image: Image, leases: Leases, run: Run, steps: Steps
) -> tuple[trio.SocketStream, Contents]:
    """Boot the guest, and make the image's layers ready meanwhile."""
    streams: list[trio.SocketStream] = []
    contents: list[Contents] = []

    async def boot() -> None:
        name = "boot the VM"
        with await vm.vsock.listen(BRIDGE_PORT) as listener:
            async with steps.step(name):
                await steps.advance(name, _platform(vm, run))
                await vm.start()
                streams.append(await accept_bridge(listener))

    async def make_ready() -> None:
        name = "prepare the layers"
        async with steps.step(name):
            tell = partial(steps.advance, name)
            contents.append(await prepare(image, Path(run.cache), leases, tell))

    await together(boot, make_ready)
    return streams[0], contents[0]


def _platform(vm: Vm, run: Run) -> str:
    vsock = "vhost-device-vsock" if run.vm.vsock_program else "vhost-vsock"
    return f"{vm.config.accelerator}, {vsock}"


async def _live(
    container: Container,
    contents: Contents,
    shares: Volumes,
    run: Run,
    steps: Steps,
    life: Life,
) -> None:
    """Make the container, let it run, and take it down."""
    vm, client, ports = container.vm, container.client, Ports()
    mounts, places = LayerMounts(vm, client), contents.places
    paths, mounted = await _connect(mounts, places, shares, container.cid, run, steps)
    async with steps.step("create the container"):
        spec = await _spec(contents, run, container.cid)
        volumes.bind(spec, mounted)
        await container.create(spec, paths)
    async with steps.step("start the container"):
        names = wanted_streams(stdin=run.stdin, terminal=run.terminal)
        streams = await container.start(ports, names, terminal=run.terminal)
    process = spec["process"]
    assert isinstance(process, dict), "runtime_spec makes one"
    life.started.succeed(
        Started(container, streams, ports, contents.image.config, contents.layers, process)
    )
    life.exited.succeed(await container.init.wait())
    async with steps.step("take the container down"):
        notification = await container.wait_notification()
        _log.info("container exited", extra={"type": notification.type})
        await container.remove()
        if run.network is NetworkMode.USER:
            await network.disconnect(vm, client, container.cid)
        await shares.unmount(mounted)
        await unmount_layers(mounts, places)


async def _connect(
    mounts: LayerMounts,
    places: Sequence[Place],
    shares: Volumes,
    cid: str,
    run: Run,
    steps: Steps,
) -> tuple[Sequence[str], Sequence[Mounted]]:
    """Mount layers and volumes and connect the network at once; return the layers' paths."""
    paths: list[str] = []
    mounted: list[Mounted] = []

    async def mount() -> None:
        async with steps.step("mount the layers"):
            paths.extend(await mount_layers(mounts, places))

    async def connect() -> None:
        if run.network is NetworkMode.USER:
            async with steps.step("connect the network"):
                ports = map(network.parse_published, run.ports)
                await network.connect(mounts.vm, mounts.client, cid, ports)

    async def share() -> None:
        if run.volumes:
            async with steps.step("mount the volumes"):
                mounted.extend(await shares.mount(run.volumes))

    await together(mount, connect, share)
    return paths, mounted


async def _spec(contents: Contents, run: Run, cid: str) -> dict[str, object]:
    config = contents.image.config
    user = await find_user(config.user, contents.layers)
    wish = Command(
        arguments=run.arguments,
        entrypoint=run.entrypoint,
        environment=run.environment,
        hostname=run.hostname,
        terminal=run.terminal,
        height=run.height,
        width=run.width,
    )
    spec = runtime_spec(config, wish, user, cid, rootfs_path(cid))
    if run.network is NetworkMode.USER:
        network.use_namespace(spec, cid)
    return spec


def wanted_streams(*, stdin: bool, terminal: bool) -> tuple[StreamName, ...]:
    """Return the streams to connect; a terminal has one output."""
    first = (StreamName.STDIN,) if stdin else ()
    last = () if terminal else (StreamName.STDERR,)
    return (*first, StreamName.STDOUT, *last)
