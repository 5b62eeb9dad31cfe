"""From QEMU's start to the agent's connection, beside VMs whose PID 1 does nothing but dial."""

import subprocess
import time
from dataclasses import replace
from pathlib import Path

from gcs.host.bridge import accept_bridge
from gcs.host.qemu import VmConfig
from gcs.host.vm import open_vm
from gcs.host.vsock import BRIDGE_PORT
from initramfs.recipes import initrd
from tests.bench import guest
from tests.bench.figures import Figure, figure

__all__ = ["Floors", "measure", "seconds_to_dial"]

_SOURCE = Path(__file__).with_name("floor.c")
#: Where the floor's program is in the image that it shares with the agent.
_PLACE = "bench-floor"
#: issue 8, of the same boot form.
_WANTED = 2.2


class Floors:
    """Images whose first program is the floor's, made in a folder."""

    def __init__(self, folder: Path) -> None:
        program = folder / "floor"
        argv = ("gcc", "-static", "-Os", "-s", "-Wall", "-Werror", "-o", program, _SOURCE)
        subprocess.run(argv, check=True)
        self._program = program.read_bytes()
        self._folder = folder

    def same_image(self, machine: VmConfig) -> VmConfig:
        """Return the same VM, the floor's program in its image, as PID 1."""
        if machine.root_image is not None:
            tree = self._folder / "same"
            extract = ("fsck.erofs", f"--extract={tree}", machine.root_image.resolve())
            subprocess.run(extract, check=True, capture_output=True)
            return self._root_image(machine, tree)
        whole = self._folder / "same.initrd"
        own = archive({_PLACE: self._program})
        # The kernel unpacks archives one behind the other; each starts at a multiple of four.
        assert machine.initrd is not None
        image = machine.initrd.read_bytes()
        whole.write_bytes(image + bytes(-len(image) % 4) + own)
        return replace(machine, initrd=whole, kernel_args=(f"rdinit=/{_PLACE}",))

    def bare(self, machine: VmConfig) -> VmConfig:
        """Return the same VM with an image that holds nothing else."""
        if machine.root_image is not None:
            tree = self._folder / "bare"
            (tree / "dev").mkdir(parents=True)
            return self._root_image(machine, tree)
        alone = self._folder / "bare.initrd"
        alone.write_bytes(archive({"init": self._program}))
        return replace(machine, initrd=alone)

    def _root_image(self, machine: VmConfig, tree: Path) -> VmConfig:
        """Return the VM with a root image of a folder and the floor's program."""
        program, image = tree / _PLACE, tree.with_suffix(".erofs")
        program.write_bytes(self._program)
        program.chmod(0o755)
        subprocess.run(initrd.pack_words(image, tree), check=True, capture_output=True)
        initrd.align(image)
        return replace(machine, root_image=image, kernel_args=(f"init=/{_PLACE}",))


def archive(programs: dict[str, bytes]) -> bytes:
    """Return a "newc" cpio archive of executable files. Source: cpio(5)."""
    found = b""
    for number, (name, data) in enumerate([*programs.items(), ("TRAILER!!!", b"")]):
        fields = (number, 0o100755, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        found += _padded(header + name.encode() + b"\0") + _padded(data)
    return found


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


async def seconds_to_dial(machine: VmConfig) -> float:
    """Start a VM and return the seconds until its guest has connected."""
    with guest.folder() as place:
        began = time.perf_counter()
        opening = open_vm(machine, place, vsock_program=guest.vsock_program())
        async with opening as vm:
            with await vm.vsock.listen(BRIDGE_PORT) as listener:
                await vm.start()
                stream = await accept_bridge(listener)
            took = time.perf_counter() - began
            await stream.aclose()
    return took


async def measure(*, rounds: int) -> list[Figure]:
    """Return the figures of a cold start in both forms."""
    return [each for form in guest.FORMS for each in await _measure(form, rounds)]


async def _measure(form: str, rounds: int) -> list[Figure]:
    same, bare = list[tuple[float, float]](), list[tuple[float, float]]()
    machine = guest.config(form)
    with guest.folder() as place:
        floors = Floors(place)
        bare_one, same_one = floors.bare(machine), floors.same_image(machine)
        for _ in range(rounds):
            least = await seconds_to_dial(bare_one)
            floor = await seconds_to_dial(same_one)
            ours = await seconds_to_dial(machine)
            same.append((ours, floor))
            bare.append((ours, least))
    what = "QEMU's start to the agent's connection"
    return [
        figure(
            *(f"boot, {form}", what, "s"),
            *("the same kernel and image, PID 1 only dials", same),
            wanted=_WANTED,
        ),
        figure(
            *(f"boot, {form}, bare", what, "s"),
            *("the same kernel, an image of nothing but a PID 1 that dials", bare),
        ),
    ]
