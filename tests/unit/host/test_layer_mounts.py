"""Layers of a VM that several containers use, against a QEMU and a guest that keep state."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from gcs.errors import CallError, GcsError, NotFoundError
from gcs.host.background import together
from gcs.host.place import Place, whole
from tests.unit.host.test_container import CONFIG, layers, world

__all__ = ["layers"]

MIB = 1 << 20


def plugged(devices: Sequence[str]) -> list[str]:
    """Return the layers' devices."""
    return sorted(name for name in devices if name.startswith("layer"))


async def test_a_layer_of_two_containers_is_there_once(
    tmp_path: Path, layers: list[Path]
) -> None:
    """One device and one mount, until both have gone; what only one has goes with it."""
    async with world(tmp_path) as here:
        first, second = whole(layers[:2]), whole(layers[1:])
        assert await here.mounts.mount(first) == ("/run/layers/p0", "/run/layers/p1")
        assert await here.mounts.mount(second) == ("/run/layers/p1", "/run/layers/p2")
        assert [here.mounts.users(place) for place in whole(layers)] == [1, 2, 1]
        assert plugged([*here.qemu.devices]) == [f"layer{n}-device" for n in range(3)]
        await here.mounts.unmount(first)
        assert here.guest.layers == {"/run/layers/p1": 1, "/run/layers/p2": 2}
        await here.mounts.unmount(second)
        assert here.guest.layers == {}
        assert here.mounts.users(first[1]) == 0


async def test_a_device_is_kept_for_the_next_container_of_its_layer(
    tmp_path: Path, layers: list[Path]
) -> None:
    """Nothing more is plugged in, as often as it comes and goes."""
    async with world(tmp_path) as here:
        for _ in range(3):
            await here.mounts.mount(whole(layers))
            await here.mounts.unmount(whole(layers))
        assert len(plugged([*here.qemu.devices])) == 3
        assert here.guest.layers == {}


async def test_containers_that_come_at_once_share_a_layer(
    tmp_path: Path, layers: list[Path]
) -> None:
    """Eight at once plug it in once and mount it once; all get the same path."""
    async with world(tmp_path) as here:
        found: list[tuple[str, ...]] = []

        async def one() -> None:
            found.append(await here.mounts.mount(whole(layers)))

        await together(*[one] * 8)
        assert len(set(found)) == 1
        assert here.mounts.users(Place(layers[0])) == 8
        assert len(plugged([*here.qemu.devices])) == 3
        await together(*[lambda: here.mounts.unmount(whole(layers))] * 8)
        assert here.guest.layers == {}


async def test_layers_of_one_file_share_a_device(tmp_path: Path, layers: list[Path]) -> None:
    """Each is a mount of its own; the same one twice in an image is there once."""
    async with world(tmp_path) as here:
        parts = [Place(layers[0], offset, 2 * MIB) for offset in (0, 2 * MIB)]
        paths = await here.mounts.mount([*parts, Place(layers[1]), parts[0]])
        assert paths == ("/run/layers/p0", "/run/layers/p1", "/run/layers/p2", "/run/layers/p0")
        assert here.guest.layers == {paths[0]: 0, paths[1]: 0, paths[2]: 1}
        assert here.mounts.users(parts[0]) == 1
        assert len(plugged([*here.qemu.devices])) == 2


async def test_a_layer_that_fails_leaves_none_mounted(
    tmp_path: Path, layers: list[Path]
) -> None:
    """What another container has stays, and the next try finds everything as it was."""
    async with world(tmp_path) as here:
        await here.mounts.mount(whole(layers[:1]))
        here.guest.failures["ModifySettings"] = NotFoundError("/dev/pmem1 did not appear")
        with pytest.raises(CallError, match="did not appear"):
            await here.mounts.mount(whole(layers))
        assert here.mounts.users(Place(layers[0])) == 1
        here.guest.failures.clear()
        await here.mounts.mount(whole(layers))
        assert len(here.guest.layers) == 3
        assert here.mounts.users(Place(layers[0])) == 2


async def test_a_vm_without_a_port_for_a_layer_says_so(
    tmp_path: Path, layers: list[Path]
) -> None:
    """Before anything is done, and what comes next finds all ports that were left."""
    ports = CONFIG.pmem_ports
    files = [tmp_path / f"{number}.ext4" for number in range(ports)]
    for file in files:
        file.write_bytes(bytes(4096))
    async with world(tmp_path) as here:
        await here.mounts.mount(whole(layers[:1]))
        words = f"{ports} layers .* need a port each, and of its {ports} {ports - 1} are left"
        with pytest.raises(GcsError, match=words):
            await here.mounts.mount(whole(files))
        assert len(plugged([*here.qemu.devices])) == 1
        with trio.fail_after(60):
            await here.mounts.mount(whole(files[1:]))
        with pytest.raises(GcsError, match=f"of its {ports} none are left"):
            await here.mounts.mount(whole(files))


async def test_layers_that_are_larger_than_a_vm_can_have_are_refused(
    tmp_path: Path, layers: list[Path]
) -> None:
    """Before anything is done; those that fit are mounted all the same."""
    large = [tmp_path / f"large{number}" for number in range(3)]
    for path in large:
        with path.open("wb") as file:
            file.truncate(25 << 30)
    async with world(tmp_path) as here:
        await here.mounts.mount(whole(layers))
        words = (
            r"with 3 more layers the VM would have 75\.0 GiB of mapped files, "
            "and it has room for 64"
        )
        with pytest.raises(GcsError, match=words):
            await here.mounts.mount(whole(large))
        assert len(plugged([*here.qemu.devices])) == 3
        await here.mounts.mount(whole(large[:2]))
    async with world(tmp_path) as here:
        # As the root image is, which takes room of the same kind.
        here.vm.mapped_files[large[2]] = large[2].stat().st_size
        with pytest.raises(GcsError, match=r"with 2 more layers the VM would have 75\.0 GiB"):
            await here.mounts.mount(whole(large[:2]))
        await here.mounts.mount(whole(large[:1]))


async def test_a_mapped_file_whose_name_has_gone_is_in_nobodys_way(
    tmp_path: Path, layers: list[Path]
) -> None:
    """As a root image that was built anew, with containers to come in its VM."""
    async with world(tmp_path) as here:
        here.vm.mapped_files[tmp_path / "root-image"] = 4096
        await here.mounts.mount(whole(layers[:1]))
        layers[0].unlink()
        await here.mounts.mount(whole(layers[:1]))
        await here.mounts.mount(whole(layers[1:]))
        assert len(here.guest.layers) == 3
