"""An image of as many layers as a container may have, in a VM with few devices."""

from pathlib import Path

import pytest

from gcs.host.images import Image, open_image
from gcs.host.layout import MAX_LAYERS
from gcs.host.unpack import Unpacked
from tests.support.oci import layer_tar, member, write_layout
from tests.support.stage import Stage

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

#: Each hides the file of the one below it.
_HIDING = range(10, MAX_LAYERS, 10)
#: It hides all of a folder that is below it.
_OPAQUE = 120


def _tars(image: Image) -> list[bytes]:
    """Return the tars of an image's layers."""
    found = []
    for layer in image.layers:
        with layer.blob.open() as blob:
            unpacked = Unpacked(blob, layer.diff_id, lambda _: None)
            found.append(b"".join(iter(lambda: unpacked.read(1 << 20), b"")))  # noqa: B023
    return found


def _layer(number: int) -> bytes:
    members = [
        member(f"many/{number:03}", b"x"),
        member("many/top", b"%d" % number),
        member(f"odd/{number:03}", b"x"),
    ]
    if number in _HIDING:
        members.append(member(f"many/.wh.{number - 1:03}"))
    if number == _OPAQUE:
        members.append(member("odd/.wh..wh..opq"))
    return layer_tar(members)


@pytest.fixture
async def many(image: Path, tmp_path: Path) -> Path:
    """An image of 128 layers, the programs in the lowest of them."""
    opened = await open_image(image)
    tars = _tars(opened)
    tars += [_layer(number) for number in range(len(tars), MAX_LAYERS)]
    config = {"Env": list(opened.config.env), "Cmd": ["true"]}
    return write_layout(tmp_path / "many", tars, config=config)


async def test_128_layers_are_one_root_on_eight_devices(gcsctl: Stage, many: Path) -> None:
    """The topmost counts, what is hidden does not show, and each is read by DAX."""
    started = gcsctl.run(
        "run", "-d", "--name", "many", str(many), "sleep", "3000", timeout_s=240
    )
    assert started.returncode == 0, started.stderr
    script = "cat /many/top; echo; ls /many; echo; ls /odd"
    shown = gcsctl.run("exec", "many", "sh", "-c", script).stdout.decode()
    first, _, rest = shown.partition("\n")
    files, _, odd = rest.partition("\n\n")
    assert first == str(MAX_LAYERS - 1)
    hidden = {f"{number - 1:03}" for number in _HIDING}
    names = {f"{number:03}" for number in range(7, MAX_LAYERS)} - hidden
    assert files.split() == [*sorted(names), "top"]
    assert odd.split() == [f"{number:03}" for number in range(_OPAQUE, MAX_LAYERS)]
    count = (
        "ls /sys/block | grep -c pmem; grep -c ' / erofs ' /proc/mounts; "
        "grep -c '/run/layers/p.*,dax' /proc/mounts"
    )
    told = gcsctl.run("exec", "--vm", "many", "sh", "-c", count).stdout.split()
    devices, of_root, layers = (int(word) for word in told)
    assert (devices - of_root, layers) == (8, MAX_LAYERS)
    assert gcsctl.run("rm", "-f", "many").returncode == 0
    assert gcsctl.leftovers() == []
