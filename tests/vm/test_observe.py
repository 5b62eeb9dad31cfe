"""`gcsctl images`, `mounts` and `stats` with real VMs of one image."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.stage import Stage

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

#: Reads every file of every layer, so that all pages that there can be are there.
READ = ("sh", "-c", "find /run/layers -type f -exec cat {} + >/dev/null")


@pytest.fixture(scope="module")
def stage(
    gcsctl_for_module: Stage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """gcsctl with the image imported into a cache of its own, since it is pruned here."""
    cache = tmp_path_factory.mktemp("cache")
    environment = {**gcsctl_for_module.environment, "XDG_CACHE_HOME": str(cache)}
    stage = replace(gcsctl_for_module, environment=environment)
    assert said(stage, "images", "import", "--name", "cat:1", str(stage.image)) == "cat:1\n"
    for name in ("one", "two"):
        said(stage, "run", "-d", "--name", name, "cat:1", "sleep", "6000")
    yield stage
    said(stage, "rm", "-f", "one", "two")
    assert stage.leftovers() == []
    shutil.rmtree(cache)


def said(stage: Stage, *words: str) -> str:
    """Run a verb that succeeds, and return what it says."""
    done = stage.run(*words, timeout_s=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def layers_of(stage: Stage) -> list[Path]:
    return sorted(Path(stage.environment["XDG_CACHE_HOME"]).glob("gcs/layers/*.ext4"))


def test_pages_of_layers_that_two_vms_have_are_there_once(stage: Stage) -> None:
    """Each VM has them all mapped; what the machine has spent is one copy and not two."""
    for name in ("one", "two"):
        said(stage, "exec", "--vm", name, *READ)
    stats = json.loads(said(stage, "stats", "--json"))
    one, two = (vm["Host"] for vm in stats["Vms"])
    total = stats["Total"]
    most = max(one["LayersResidentBytes"], two["LayersResidentBytes"])
    # All files were read: most of the layers' bytes, and in both VMs about the same ones.
    assert most > 0.5 * sum(layer.stat().st_size for layer in layers_of(stage))
    assert total["LayersResidentBytes"] > 1.8 * most
    assert total["LayersBytes"] < 1.1 * most
    assert min(one["GuestBytes"], two["GuestBytes"]) > 20_000_000
    # A VM alone has to pay for half of what it shares.
    (alone,) = json.loads(said(stage, "stats", "--json", "one"))["Vms"]
    assert alone["Host"]["LayersBytes"] < 0.6 * most
    (container,) = alone["Containers"]
    assert container["Tasks"] == 1
    assert container["MemoryBytes"] > 0


def test_mounts_tells_devices_dax_and_users(stage: Stage) -> None:
    """Seven layers on seven devices with DAX, a scratch disk, and the root that is on them."""
    mounts = [json.loads(line) for line in said(stage, "mounts", "--json", "one").splitlines()]
    layers = [each for each in mounts if each["ResourceType"] == "VPMemDevice"]
    assert len(layers) == 7
    assert len({each["Source"] for each in layers}) == 7
    (root,) = (each for each in mounts if each["ResourceType"] == "CombinedLayers")
    assert root["Filesystem"] == "overlay"
    for each in layers:
        assert (each["Filesystem"], each["Dax"]) == ("ext4", True)
        assert "ro" in each["Options"]
        assert root["MountPath"] in each["Users"]
    (scratch,) = (each for each in mounts if each["ResourceType"] == "MappedVirtualDisk")
    assert (scratch["Filesystem"], root["MountPath"] in scratch["Users"]) == ("ext4", True)
    table = said(stage, "mounts", "one")
    assert len(table.splitlines()) == len(mounts) + 1


def test_a_layer_in_use_can_not_be_removed(stage: Stage) -> None:
    """Without its image and after a prune, files that were never read are still there."""
    before = layers_of(stage)
    assert said(stage, "images", "check") == f"1 images, {len(before)} layers, 0 packs\n"
    said(stage, "images", "rm", "cat:1")
    assert said(stage, "images", "prune") == "0 files, 0 B\n"
    assert layers_of(stage) == before
    said(stage, "exec", "--vm", "two", *READ)
    assert said(stage, "images", "import", "--name", "cat:1", str(stage.image)) == "cat:1\n"


def test_layers_are_used_again_after_a_vm_has_ended(stage: Stage) -> None:
    """A third VM converts nothing, and finds the same files."""
    before = [layer.stat().st_ino for layer in layers_of(stage)]
    done = stage.run("run", "--verbose", "cat:1", "true", timeout_s=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(b": in the cache") == 7
    assert [layer.stat().st_ino for layer in layers_of(stage)] == before
