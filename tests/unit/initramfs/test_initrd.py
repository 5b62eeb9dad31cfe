from pathlib import Path

import pytest

from initramfs.recipes import images, initrd, python, toolbox
from initramfs.recipes.steps import StepError

REPO = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", initrd.FULL_PARTS)
def test_each_linuxkit_file_names_images_of_ours(name: str) -> None:
    text = (REPO / "initramfs" / f"{name}.yml").read_text()
    assert len(initrd.image_names(text)) == len(set(initrd.image_names(text))) > 0


def test_the_full_image_is_the_base_one_and_a_line_for_each_program() -> None:
    """Whoever leaves a line out, or adds one, has an image that is neither."""
    assert [part for part in initrd.FULL_PARTS if part != "full"] == list(initrd.PARTS)
    text = (REPO / "initramfs/full.yml").read_text()
    programs = {
        place.rpartition("/")[2]
        for name in initrd.image_names(text)
        for place in images.PICKED[name].keep
        if "lib/" not in place
    }
    assert programs == {"chronyd", "mkfs.xfs", "cryptsetup"}


def test_an_image_from_elsewhere_is_refused() -> None:
    with pytest.raises(StepError, match="linuxkit/init:v1"):
        initrd.image_names("init:\n  - gcs/base:v1\n  - linuxkit/init:v1\n")


def test_every_package_of_an_image_is_pinned() -> None:
    lock = (REPO / "initramfs/lock/debian.txt").read_text()
    pinned = {line.split()[0] for line in lock.splitlines() if not line.startswith("#")}
    assert images.debian_packages() | set(toolbox.PACKAGES) <= pinned


def test_the_host_side_is_not_in_the_guest() -> None:
    paths = python.agent_modules(REPO)
    assert "usr/lib/gcs/gcs/errors.py" in paths
    assert not [path for path in paths if "/host/" in path or "/shim/" in path]
