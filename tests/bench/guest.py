"""A VM to measure in: its programs, a shell that answers by the line, its containers."""

import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from gcs.host.artifacts import (
    DEFAULT_FORM,
    BootForm,
    find_boot_image,
    find_kernel,
    find_vsock_program,
)
from gcs.host.bridge import accept_bridge, open_bridge
from gcs.host.child import Child
from gcs.host.client import Client
from gcs.host.container import Container, rootfs_path, run_in_vm
from gcs.host.images import Image, open_image
from gcs.host.layer_mounts import LayerMounts
from gcs.host.layers import default_cache_dir, ensure_layers
from gcs.host.place import whole
from gcs.host.process import Process, Streams
from gcs.host.qemu import VmConfig
from gcs.host.scratch import open_scratch
from gcs.host.spec import Command, User, runtime_spec
from gcs.host.vm import Vm, find_vhost_vsock, open_vm
from gcs.host.vsock import BRIDGE_PORT, Ports
from gcs.wire.control import StreamName
from gcs.wire.messages import ProcessParameters
from tests.bench.machine import ROOT
from tests.support.mounting import mount_layers

__all__ = [
    "FORMS",
    "IMAGE",
    "PATH",
    "Guest",
    "Shell",
    "accelerator",
    "config",
    "folder",
    "open_guest",
    "read_all",
    "vsock_program",
]

IMAGE = ROOT / "build" / "nyancat"
LAYERS = 7
FORMS = tuple(BootForm)
PATH = "PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def config(form: str = DEFAULT_FORM) -> VmConfig:
    """Return the VM that is measured, which boots in one of FORMS, or by default as users' do.

    GCS_INITRD or GCS_ROOT_IMAGE may name the image of that form, and chooses no other: figures
    of one form would be kept, and compared, as those of the other.
    """
    image = find_boot_image(form)
    return VmConfig(
        kernel=find_kernel(None),
        initrd=image.initrd,
        root_image=image.root_image,
        pmem_ports=LAYERS + 1,
        accelerator=accelerator(),
    )


def accelerator() -> str:
    """Return kvm or tcg."""
    return os.environ.get("GCS_TEST_ACCEL", "tcg")


def vsock_program() -> str | None:
    """Return vhost-device-vsock, where the kernel does not do its work."""
    return None if find_vhost_vsock() else str(find_vsock_program(None))


@contextmanager
def folder() -> Iterator[Path]:
    """Have a folder for a VM's sockets and logs; sockets lie in it, so its name is short."""
    path = Path(tempfile.mkdtemp(prefix="gcs-bench-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@dataclass(frozen=True, slots=True)
class Shell:
    """A shell of the VM at the other end of two connections."""

    stdin: trio.SocketStream
    stdout: trio.SocketStream

    async def ask(self, line: str) -> str:
        """Have a line run that prints one, and return that."""
        await self.stdin.send_all(line.encode() + b"\n")
        said = bytearray()
        while not said.endswith(b"\n"):
            data = await self.stdout.receive_some(4096)
            assert data, f"the shell ended in: {line}"
            said += data
        return said.decode().rstrip("\n")


@dataclass(frozen=True, slots=True)
class Guest:
    """A VM whose agent has connected, with an image's layers and a scratch disk mounted."""

    vm: Vm
    client: Client
    ports: Ports
    image: Image
    #: where the image's layers are in the guest, bottom first
    layers: Sequence[str] = ()
    #: processes of the host that have the guest's memory mapped
    pids: tuple[int, ...] = ()

    async def start(
        self, words: Sequence[str], streams: Sequence[StreamName]
    ) -> tuple[Process, Streams]:
        """Start a program of the VM itself; its streams are the vsock connections."""
        name, _, path = PATH.partition("=")
        parameters = ProcessParameters(
            command_args=tuple(words), working_directory="/", environment={name: path}
        )
        return await run_in_vm(self.vm, self.client, parameters, self.ports, streams)

    async def output(self, *words: str) -> str:
        """Run a program of the VM itself to its end, and return what it printed."""
        process, streams = await self.start(words, [StreamName.STDOUT])
        said = await read_all(streams[StreamName.STDOUT])
        status = await process.wait()
        assert status == 0, f"{words}: exit status {status}"
        return said.decode()

    @asynccontextmanager
    async def program(self, *words: str) -> AsyncIterator[Shell]:
        """Run a program that reads lines and answers each, for the length of the block."""
        process, streams = await self.start(words, [StreamName.STDIN, StreamName.STDOUT])
        async with streams[StreamName.STDIN] as stdin, streams[StreamName.STDOUT] as stdout:
            yield Shell(stdin, stdout)
            await process.signal(9)
            await process.wait()

    @asynccontextmanager
    async def container(self, *command: str) -> AsyncIterator[Container]:
        """Have a container that is created, and removed when the block ends by itself."""
        cid = secrets.token_hex(32)
        made = Container(self.vm, self.client, cid)
        wish = Command(arguments=command)
        spec = runtime_spec(self.image.config, wish, User(), cid, rootfs_path(cid))
        await made.create(spec, self.layers)
        yield made
        await made.remove()

    @asynccontextmanager
    async def sleeping(self) -> AsyncIterator[Container]:
        """Have a container that runs and does nothing."""
        async with self.container("sleep", "6000") as container:
            await container.start(self.ports, (), terminal=False)
            yield container
            await container.init.signal(9)
            await container.init.wait()


async def read_all(stream: trio.SocketStream) -> bytes:
    """Read a stream to its end."""
    said = bytearray()
    async with stream:
        async for data in stream:
            said += data
    return bytes(said)


@asynccontextmanager
async def open_guest(
    machine: VmConfig, *, layers: Sequence[Path] | None = None
) -> AsyncIterator[Guest]:
    """Boot a VM and mount the image in it, for the length of the block.

    Args:
        machine: What the VM is made of.
        layers: The layers' files, where they are not those of the cache.
    """
    image = await open_image(IMAGE)
    if layers is None:
        layers = await ensure_layers(image, default_cache_dir(), progress=lambda _: None)
    with folder() as place, open_scratch() as scratch:
        programs = list[Child]()
        opening = open_vm(
            machine,
            place,
            vsock_program=vsock_program(),
            scratch_fd=scratch,
            record=programs.append,
        )
        async with opening as vm:
            with await vm.vsock.listen(BRIDGE_PORT) as listener:
                await vm.start()
                stream = await accept_bridge(listener)
            async with open_bridge(stream) as client:
                paths = await mount_layers(LayerMounts(vm, client), whole(layers))
                pids = tuple(child.pid for child in programs)
                yield Guest(vm, client, Ports(), image, paths, pids)
