"""Storage on real devices, in one shared VM: shares, layers in parts of a device, DAX."""

import json
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import pytest
from msgspec.structs import replace

from gcs.errors import CallError, Hresult
from gcs.host.bridge import modify
from gcs.host.layers import default_cache_dir, ensure_layers
from gcs.wire.resource import (
    CombinedLayers,
    Layer,
    MappedDirectory,
    MappedVirtualDisk,
    MappingInfo,
    RequestType,
    ResourceSettings,
    ResourceType,
    ScsiDevice,
    VPMemDevice,
)
from tests.support.patience import is_soon
from tests.support.shared_vm import SharedVm
from tests.support.stage import ROOT
from tests.vm.test_container import in_vm

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

#: The root port that no layer of the image has; what its device holds is a multiple of 2 MiB.
_SPARE, _PMEM_ALIGN = 7, 2 * 1024 * 1024
_MANY = 128
_SERVER_S = 60
_KINDS = {
    CombinedLayers: ResourceType.COMBINED_LAYERS,
    MappedDirectory: ResourceType.MAPPED_DIRECTORY,
    MappedVirtualDisk: ResourceType.MAPPED_VIRTUAL_DISK,
    ScsiDevice: ResourceType.SCSI_DEVICE,
    VPMemDevice: ResourceType.VPMEM_DEVICE,
}


def change(vm: SharedVm, action: RequestType, settings: ResourceSettings) -> None:
    """Change one resource of the VM. Raises CallError."""
    vm.call(modify, vm.client, action, _KINDS[type(settings)], settings)


def refused(vm: SharedVm, action: RequestType, settings: ResourceSettings) -> CallError:
    """Make a change that must be refused; return the error."""
    with pytest.raises(CallError) as caught:
        change(vm, action, settings)
    return caught.value


def shell(vm: SharedVm, script: str) -> str:
    """Run a script in the VM, and return what it printed on either stream."""
    return in_vm(vm, "/bin/sh", "-c", f"exec 2>&1; {script}; true")


# -- shares ------------------------------------------------------------------------------


class _Place(Protocol):
    """A VM, as far as its sockets are in a folder."""

    folder: Path


@contextmanager
def served(vm: _Place, folder: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Serve a folder on a port of the host."""
    diod = shutil.which("diod", path="/usr/sbin:/sbin:/usr/bin")
    assert diod, "diod is one of the packages that the build installs"
    address = Path(f"{vm.folder}/v_{port}")
    argv = (diod, "-f", "-n", "-L", "stderr", "-c", "/dev/null", "-e", folder, "-l", address)
    with (vm.folder / "diod.log").open("wb") as log:
        server = subprocess.Popen(argv, stderr=log)
    try:
        _await_listener(address, server)
        yield server
    finally:
        server.kill()
        server.wait()
        address.unlink(missing_ok=True)


def _await_listener(address: Path, server: "subprocess.Popen[bytes]") -> None:
    """Wait until a server takes connections: its socket is there before that."""
    deadline = time.monotonic() + _SERVER_S
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(address)) == 0:
                return
        assert server.poll() is None, "the server has ended"
        assert time.monotonic() < deadline, "the server does not listen"
        time.sleep(0.02)


def share(folder: Path, port: int) -> MappedDirectory:
    """Return the settings of a share."""
    return MappedDirectory(mount_path=f"/run/shares/{port}", port=port, share_name=str(folder))


def test_both_sides_see_each_other_s_writes_at_once(
    vm_connected: SharedVm, tmp_path: Path
) -> None:
    """Files, appended to, renamed and removed on either side; by default nothing is cached."""
    vm, wanted = vm_connected, share(tmp_path, 564)
    (tmp_path / "theirs").write_text("one")
    with served(vm, tmp_path, 564):
        change(vm, RequestType.ADD, replace(wanted, port=0))
        assert shell(vm, "cat /run/shares/564/theirs") == "one"
        (tmp_path / "theirs").write_text("one and two")
        assert shell(vm, "cat /run/shares/564/theirs") == "one and two"
        shell(vm, "echo mine >/run/shares/564/ours; mkdir /run/shares/564/d")
        assert (tmp_path / "ours").read_text() == "mine\n"
        (tmp_path / "ours").rename(tmp_path / "d/moved")
        assert shell(vm, "cd /run/shares/564; ls . d").split() == [
            ".:",
            "d",
            "theirs",
            "d:",
            "moved",
        ]
        (line,) = shell(vm, "grep ' 9p ' /proc/mounts").splitlines()
        assert "rw," in line
        assert "cache=" not in line
        change(vm, RequestType.REMOVE, wanted)
        assert "No such file" in shell(vm, "ls /run/shares/564")
    assert (tmp_path / "d/moved").exists()


def test_a_read_only_share_takes_no_writes(vm_connected: SharedVm, tmp_path: Path) -> None:
    """And a cache that was asked for by name is there."""
    vm = vm_connected
    wanted = replace(share(tmp_path, 565), read_only=True, cache="loose")
    with served(vm, tmp_path, 565):
        change(vm, RequestType.ADD, wanted)
        assert "Read-only file system" in shell(vm, "touch /run/shares/565/x")
        assert "cache=0xf" in shell(vm, "grep /run/shares/565 /proc/mounts")
        error = refused(vm, RequestType.ADD, wanted)
        assert error.result == Hresult.INVALID_STATE
        change(vm, RequestType.REMOVE, wanted)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_is_an_error_and_no_hang(
    vm_connected: SharedVm, tmp_path: Path
) -> None:
    """EIO for what uses the share; it is removed as ever, and can be added again."""
    vm, wanted = vm_connected, share(tmp_path, 566)
    (tmp_path / "file").write_text("x")
    for _ in range(2):
        with served(vm, tmp_path, 566) as server:
            change(vm, RequestType.ADD, wanted)
            assert shell(vm, "cat /run/shares/566/file") == "x"
            server.send_signal(signal.SIGKILL)
            server.wait()
            assert "Input/output error" in shell(vm, "cat /run/shares/566/file")
            change(vm, RequestType.REMOVE, wanted)
    assert shell(vm, "grep -c /run/shares /proc/mounts") == "0\n"


def test_a_share_that_nobody_serves_is_refused_in_time(
    vm_connected: SharedVm, tmp_path: Path
) -> None:
    """Nobody listens, somebody listens and says nothing, or knows no such share."""
    vm = vm_connected
    error = refused(vm, RequestType.ADD, share(tmp_path, 567))
    assert "connect vsock port 0x237" in error.message
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{vm.folder}/v_568")
        silent.listen()
        error = refused(vm, RequestType.ADD, share(tmp_path, 568))
        assert error.result == Hresult.TIMEOUT
        assert "no answer within 5 s" in error.message
    with served(vm, tmp_path, 569):
        error = refused(vm, RequestType.ADD, share(tmp_path / "none", 569))
        assert "mount 9p /run/shares/569 on /run/shares/569" in error.message
    assert "No such file" in shell(vm, "ls /run/shares/567 /run/shares/568 /run/shares/569")
    assert shell(vm, "echo served") == "served\n"


# -- layers ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """What is in the one device, part by part."""

    #: of the image, with DAX
    layers: tuple[MappingInfo, ...]
    #: its blocks have 1024 bytes
    small_blocks: MappingInfo
    #: with a file each that has its number
    many: tuple[MappingInfo, ...]


@pytest.fixture(scope="module")
def packed(vm_connected: SharedVm, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """Plug in one device that holds all of these."""
    vm, folder = vm_connected, tmp_path_factory.mktemp("packed")
    converted = vm.call(_layers, vm)
    images = [*converted[:3], _mkfs(folder, "small", "-b", "1024")]
    images += [_mkfs(folder, f"{n:03}", "-b", "4096") for n in range(_MANY)]
    parts, file = [], folder / "device"
    with file.open("wb") as device:
        for path in images:
            parts.append(
                MappingInfo(
                    device_offset_in_bytes=device.tell(),
                    device_size_in_bytes=path.stat().st_size,
                )
            )
            device.write(path.read_bytes())
        device.truncate(-(-device.tell() // _PMEM_ALIGN) * _PMEM_ALIGN)
    vm.call(vm.vm.add_layer, _SPARE, file)
    return Packed(tuple(parts[:3]), parts[3], tuple(parts[4:]))


async def _layers(vm: SharedVm) -> Sequence[Path]:
    return await ensure_layers(vm.image, default_cache_dir(), progress=lambda _: None)


def _mkfs(folder: Path, name: str, *options: str) -> Path:
    """Make a small ext4 image that holds a file of its name, and one called `same`."""
    content, made = folder / f"{name}-content", folder / f"{name}.ext4"
    content.mkdir()
    (content / name).write_text(name)
    (content / "same").write_text(name)
    with made.open("wb") as file:
        file.truncate(512 * 1024)
    argv = ("mkfs.ext4", "-q", "-O", "^has_journal", *options, "-d", str(content), str(made))
    subprocess.run(argv, check=True, capture_output=True)
    return made


def layer(part: MappingInfo, name: str) -> VPMemDevice:
    """Return the settings of a layer that is a part of the device."""
    return VPMemDevice(
        device_number=_SPARE, mount_path=f"/run/layers/{name}", mapping_info=part
    )


def has_dax(vm: SharedVm, folder: str) -> str:
    """Ask the VM's kernel, by the agent's own code."""
    code = f'from gcs.linux import pmem; print(pmem.has_dax("{folder}"))'
    return shell(vm, f"PYTHONPATH=/usr/lib/gcs python3.11 -c '{code}'").strip()


def cached_kib(vm: SharedVm) -> int:
    """Return what the VM's page cache holds."""
    (line,) = re.findall(r"^Cached: +(\d+) kB$", shell(vm, "cat /proc/meminfo"), re.MULTILINE)
    return int(line)


def test_files_of_layers_are_read_by_dax_and_leave_nothing_in_the_page_cache(
    vm_connected: SharedVm,
) -> None:
    """By statx, and by the memory that reading all of a layer takes."""
    vm = vm_connected
    assert has_dax(vm, "/run/layers/p0") == "True"
    size = int(shell(vm, "du -sk /run/layers/p0").split()[0])
    before = cached_kib(vm)
    shell(vm, "tar cf - /run/layers/p0 >/dev/null; cat /run/layers/p0/*/* >/dev/null")
    assert size > 2000
    assert cached_kib(vm) - before < size / 4


def test_layers_in_parts_of_a_device_have_dax_too(
    vm_connected: SharedVm, packed: Packed
) -> None:
    """The same files as in the devices of their own; the mapped devices go with the mounts."""
    vm = vm_connected
    for number, part in enumerate(packed.layers):
        change(vm, RequestType.ADD, layer(part, f"m{number}"))
    assert [has_dax(vm, f"/run/layers/m{n}") for n in range(3)] == ["True"] * 3
    for number in range(3):
        script = f"cd /run/layers/{{}}{number}; find . -type f | sort | xargs md5sum"
        assert shell(vm, script.format("m")) == shell(vm, script.format("p"))
    assert "/dev/dm-" in shell(vm, "grep /run/layers/m0 /proc/mounts")
    error = refused(vm, RequestType.ADD, layer(packed.layers[0], "twice"))
    assert error.result == Hresult.INVALID_STATE
    assert "are mounted at /run/layers/m0 already" in error.message
    for number, part in enumerate(packed.layers):
        change(vm, RequestType.REMOVE, layer(part, f"m{number}"))
    assert shell(vm, "ls /sys/block | grep -c dm-; ls /run/layers | grep -c m") == "0\n0\n"


def test_a_layer_of_small_blocks_is_mounted_without_dax(
    vm_connected: SharedVm, packed: Packed
) -> None:
    """Its files are there all the same."""
    vm = vm_connected
    change(vm, RequestType.ADD, layer(packed.small_blocks, "small"))
    assert shell(vm, "cat /run/layers/small/small") == "small"
    assert has_dax(vm, "/run/layers/small") == "False"
    change(vm, RequestType.REMOVE, layer(packed.small_blocks, "small"))


@pytest.mark.parametrize(
    ("offset", "size", "said"),
    [
        (0, 0, "not whole pages"),
        (512, 4096, "not whole pages"),
        (0, 4097, "not whole pages"),
        (1 << 40, 4096, "are not within its"),
        (4096, 1 << 40, "are not within its"),
        (4096, 8192, "mount ext4 /dev/dm-"),
    ],
)
def test_a_part_that_is_no_layer_is_refused_and_leaves_no_device(
    vm_connected: SharedVm, packed: Packed, offset: int, size: int, said: str
) -> None:
    """Not whole pages, not within the device, or no file system."""
    assert packed.layers
    part = MappingInfo(device_offset_in_bytes=offset, device_size_in_bytes=size)
    error = refused(vm_connected, RequestType.ADD, layer(part, "none"))
    assert said in error.message
    script = "ls /sys/block | grep -c dm-; ls /run/layers | grep -c none"
    assert shell(vm_connected, script) == "0\n0\n"


def test_128_layers_of_one_device_are_one_root(vm_connected: SharedVm, packed: Packed) -> None:
    """With paths of the length that hosts give them; the topmost counts, and all show."""
    vm, deep = vm_connected, "x" * 64
    layers = [layer(part, f"{deep}/{n:03}") for n, part in enumerate(packed.many)]
    for settings in layers:
        change(vm, RequestType.ADD, settings)
    root = CombinedLayers(
        container_root_path="/run/gcs/c/many/rootfs",
        layers=tuple(Layer(path=settings.mount_path) for settings in layers),
        scratch_path="/run/mounts/scsi/0_0_0/scratch/many",
    )
    change(vm, RequestType.ADD, root)
    names = shell(vm, "cd /run/gcs/c/many/rootfs; ls | grep -v lost+found").split()
    assert names == [*(f"{n:03}" for n in range(_MANY)), "same"]
    assert shell(vm, "cat /run/gcs/c/many/rootfs/same") == "000"
    error = refused(vm, RequestType.REMOVE, layers[77])
    assert "is in use by /run/gcs/c/many/rootfs" in error.message
    change(vm, RequestType.REMOVE, root)
    for settings in layers:
        change(vm, RequestType.REMOVE, settings)
    assert shell(vm, "ls /sys/block | grep -c dm-") == "0\n"


# -- layers that are verified ------------------------------------------------------------


def _verity(image: bytes, salt: bytes) -> tuple[bytes, str]:
    """Return the image with its tree of digests behind it, and the root digest."""
    levels, level, blocks = list[bytes](), image, len(image) // 4096
    while len(level) > 4096 or not levels:
        starts = range(0, len(level), 4096)
        digests = b"".join(sha256(salt + level[at : at + 4096]).digest() for at in starts)
        level = digests.ljust(-(-len(digests) // 4096) * 4096, b"\0")
        levels.insert(0, level)
    superblock = struct.pack(
        "<8sII16s32sIIQH6x256s",
        *(b"verity\0\0", 1, 1, bytes(16), b"sha256", 4096, 4096, blocks, len(salt), salt),
    )
    tree = b"".join(levels)
    return image + superblock.ljust(4096, b"\0") + tree, sha256(salt + levels[0]).hexdigest()


@dataclass(frozen=True)
class Verified:
    """Layers with trees, in one device; the digest is that of the first."""

    digest: str
    good: MappingInfo
    #: a byte of a file is another one
    altered: MappingInfo
    #: and the tree agrees with it
    forged: MappingInfo
    #: with a tree of two levels; then a byte, and what the lower level has of it, are others
    deep: MappingInfo
    deep_digest: str
    deep_altered: MappingInfo


@pytest.fixture(scope="module")
def verified(vm_connected: SharedVm, tmp_path_factory: pytest.TempPathFactory) -> Verified:
    """Plug in one device that holds all of these."""
    vm, folder = vm_connected, tmp_path_factory.mktemp("verity")
    plain = _mkfs(folder, "true", "-b", "4096").read_bytes()
    starts = range(0, len(plain), 4096)
    at = next(at for at in starts if plain[at : at + 64] == b"true".ljust(64, b"\0"))
    false = plain[:at] + b"fals" + plain[at + 4 :]
    salt = bytes(range(32))
    good, digest = _verity(plain, salt)
    forged, other = _verity(false, salt)
    assert digest != other
    altered = good[:at] + b"fals" + good[at + 4 :]
    deep, deep_digest, deep_altered = _deep(folder, salt)
    parts, device = [], b""
    for layer_image in (good, altered, forged, deep, deep_altered):
        parts.append(
            MappingInfo(
                device_offset_in_bytes=len(device), device_size_in_bytes=len(layer_image)
            )
        )
        device += layer_image
    file = folder / "device"
    file.write_bytes(device.ljust(-(-len(device) // _PMEM_ALIGN) * _PMEM_ALIGN, b"\0"))
    vm.call(vm.vm.add_layer, _SPARE + 1, file)
    first, second, third, fourth, fifth = parts
    return Verified(digest, first, second, third, fourth, deep_digest, fifth)


def _deep(folder: Path, salt: bytes) -> tuple[bytes, str, bytes]:
    """Return a layer with a tree of two levels, its digest, and it with one file forged."""
    content, image = folder / "deep", folder / "deep.ext4"
    content.mkdir()
    for number in range(300):
        (content / f"{number:03}").write_bytes(f"true{number:03}".encode() * 500)
    with image.open("wb") as file:
        file.truncate(4 * 1024 * 1024)
    options = ("-q", "-b", "4096", "-O", "^has_journal", "-d", str(content), str(image))
    subprocess.run(("mkfs.ext4", *options), check=True, capture_output=True)
    plain = image.read_bytes()
    at = plain.index(b"true299true299")
    false = plain[:at] + b"fals" + plain[at + 4 :]
    (good, digest), (forged, _) = _verity(plain, salt), _verity(false, salt)
    root = len(plain) + 4096
    return good, digest, forged[:root] + good[root : root + 4096] + forged[root + 4096 :]


def verified_layer(part: MappingInfo, digest: str) -> VPMemDevice:
    """Return the settings of a layer that is to be verified."""
    return replace(layer(part, "v"), device_number=_SPARE + 1, root_digest=digest)


def test_a_layer_reads_as_its_digest_says(vm_connected: SharedVm, verified: Verified) -> None:
    """What the host has said of it is proved for each block; it has no DAX."""
    vm, wanted = vm_connected, verified_layer(verified.good, verified.digest)
    change(vm, RequestType.ADD, wanted)
    assert shell(vm, "cat /run/layers/v/true") == "true"
    assert has_dax(vm, "/run/layers/v") == "False"
    change(vm, RequestType.REMOVE, wanted)
    assert shell(vm, "ls /sys/block | grep -c dm-") == "0\n"


def test_an_altered_block_is_an_error_and_never_data(
    vm_connected: SharedVm, verified: Verified
) -> None:
    """The other files can be read."""
    vm, wanted = vm_connected, verified_layer(verified.altered, verified.digest)
    change(vm, RequestType.ADD, wanted)
    said = shell(vm, "cat /run/layers/v/true; cat /run/layers/v/same")
    assert "Input/output error" in said
    assert "fals" not in said
    change(vm, RequestType.REMOVE, wanted)


def test_a_tree_of_more_than_one_level_proves_its_layer(
    vm_connected: SharedVm, verified: Verified
) -> None:
    """Which layers of any size have; a forged leaf of it gives an error, and never data."""
    vm, wanted = vm_connected, verified_layer(verified.deep, verified.deep_digest)
    change(vm, RequestType.ADD, wanted)
    assert shell(vm, "cat /run/layers/v/[0-9]* | wc -c; md5sum /run/layers/v/299").startswith(
        "1050000\n"
    )
    change(vm, RequestType.REMOVE, wanted)
    wanted = verified_layer(verified.deep_altered, verified.deep_digest)
    change(vm, RequestType.ADD, wanted)
    said = shell(vm, "cat /run/layers/v/299; cat /run/layers/v/000 | wc -c")
    assert "Input/output error" in said
    assert "fals" not in said
    change(vm, RequestType.REMOVE, wanted)


def test_a_forged_layer_is_not_mounted(vm_connected: SharedVm, verified: Verified) -> None:
    """Its tree is in order, but it is not the host's; nothing stays."""
    vm = vm_connected
    error = refused(vm, RequestType.ADD, verified_layer(verified.forged, verified.digest))
    assert "mount ext4 /dev/dm-" in error.message
    error = refused(vm, RequestType.ADD, verified_layer(verified.good, "0" * 63))
    assert "is not of SHA-256" in error.message
    assert shell(vm, "ls /sys/block | grep -c dm-") == "0\n"


# -- each step ---------------------------------------------------------------------------


def test_a_step_that_fails_leaves_everything_as_it_was(
    vm_connected: SharedVm,
    packed: Packed,
    verified: Verified,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Each step of a part of a device, of a verified one and of a share, on the VM's kernel."""
    vm = vm_connected
    wanted = [
        ("part", _numbers(_SPARE, packed.layers[0], "")),
        ("verified", _numbers(_SPARE + 1, verified.good, verified.digest)),
        ("share", {"port": 576, "name": str(tmp_path)}),
    ]
    with served(vm, tmp_path, 576):
        counts = steps_that_failed(vm, wanted)
    record_property("steps of a part, a verified one, a share", counts)
    # Fewer are not seen.
    assert all(count >= least for count, least in zip(counts, (8, 14, 5), strict=True)), counts


def steps_that_failed(vm: SharedVm, wanted: list[tuple[str, dict[str, object]]]) -> list[int]:
    """Have each step of some Adds fail in the VM (tests.support.guest_faults); count them."""
    folder = "/tmp/faulty"
    shell(vm, f"mkdir -p {folder}/tests/support")
    for name in ("tests/support/faults.py", "tests/support/guest_faults.py"):
        script = (ROOT / name).read_text()
        shell(vm, f"cat >{folder}/{name} <<'END_OF_FILE'\n{script}END_OF_FILE\n:")
    program = f"PYTHONPATH=/usr/lib/gcs:{folder} python3.11 -m tests.support.guest_faults"
    said = shell(vm, f"{program} {folder} '{json.dumps(wanted)}'")
    shell(vm, f"rm -r {folder}")
    assert said.splitlines()[-1].startswith("["), said
    return [int(count) for count in json.loads(said.splitlines()[-1])]


def _numbers(device: int, part: MappingInfo, digest: str) -> dict[str, object]:
    return {
        "device": device,
        "offset": part.device_offset_in_bytes,
        "size": part.device_size_in_bytes,
        "digest": digest,
    }


# -- disks -------------------------------------------------------------------------------


def test_a_disk_that_vanishes_under_its_mount_can_be_removed(
    vm_connected: SharedVm, tmp_path: Path
) -> None:
    """The kernel has let go of it; unmounting it is no wait and no error."""
    vm, image = vm_connected, tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    disk = MappedVirtualDisk(lun=5, mount_path="/run/disks/5", ensure_filesystem=True)

    def measure() -> float:
        vm.call(vm.vm.add_disk, 5, str(image))
        change(vm, RequestType.ADD, disk)
        shell(vm, "echo x >/run/disks/5/file; sync")
        change(vm, RequestType.REMOVE, ScsiDevice(lun=5))
        began = time.monotonic()
        change(vm, RequestType.REMOVE, disk)
        took = time.monotonic() - began
        vm.call(vm.vm.remove_disk, 5)
        assert "No such file" in shell(vm, "ls /run/disks/5")
        return took

    assert is_soon(measure, 5)
    error = refused(vm, RequestType.ADD, disk)
    assert error.result == Hresult.TIMEOUT
    assert "disk 0:5 did not appear within 5 s" in error.message
