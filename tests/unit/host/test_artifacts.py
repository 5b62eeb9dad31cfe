"""What a VM boots from: the form and the file, by options, environment and what was built."""

from pathlib import Path

import pytest

import gcs
from gcs.errors import InvalidArgumentError, NotFoundError
from gcs.host.artifacts import BootImage, find_boot_image, find_kernel

#: Files as good as any.
_HERE, _THERE = Path(__file__), Path(gcs.__file__)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of what was built, empty, with no variable set."""
    for name in ("GCS_INITRD", "GCS_ROOT_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gcs, "__file__", str(tmp_path / "gcs/__init__.py"))
    (tmp_path / "build").mkdir()
    return tmp_path / "build"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"GCS_INITRD": _HERE}, BootImage(initrd=_HERE)),
        ({"GCS_ROOT_IMAGE": _HERE}, BootImage(root_image=_HERE)),
        ({"GCS_INITRD": _HERE, "GCS_ROOT_IMAGE": _THERE}, BootImage(root_image=_THERE)),
    ],
)
def test_the_form_is_that_of_the_image_which_the_environment_names(
    build: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, Path],
    expected: BootImage,
) -> None:
    """The default decides between two; an option or a form that is given, before that."""
    for name, path in variables.items():
        monkeypatch.setenv(name, str(path))
    assert find_boot_image() == expected
    assert find_boot_image(initrd=str(_THERE)) == BootImage(initrd=_THERE)
    assert find_boot_image(root_image=str(_HERE)) == BootImage(root_image=_HERE)
    for form in ("initrd", "pmem"):
        (build / {"initrd": "initrd", "pmem": "root-image"}[form]).touch()
        assert (find_boot_image(form).initrd is None) == (form == "pmem")


def test_a_root_image_that_was_not_built_is_not_replaced_by_an_initrd(build: Path) -> None:
    """What a VM boots from does not depend on what happens to be there."""
    (build / "initrd").touch()
    words = f"root-image: not in {build}; make initrd makes it, --root-image or GCS_ROOT_IMAGE"
    with pytest.raises(NotFoundError, match=words):
        find_boot_image()
    assert find_boot_image("initrd") == BootImage(initrd=build / "initrd")
    (build / "root-image").touch()
    assert find_boot_image() == BootImage(root_image=build / "root-image")


def test_a_vm_boots_from_one_image(build: Path) -> None:
    """Neither of two is ignored."""
    with pytest.raises(InvalidArgumentError, match="--initrd /a, --root-image /b: a VM boots"):
        find_boot_image(initrd="/a", root_image="/b")
    with pytest.raises(InvalidArgumentError, match="--initrd /a: --boot pmem has no initrd"):
        find_boot_image("pmem", initrd="/a")


def test_a_file_that_is_named_and_not_there_is_an_error(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says who has named it."""
    with pytest.raises(NotFoundError, match=r"/none: no such file \(--root-image\)"):
        find_boot_image(root_image="/none")
    monkeypatch.setenv("GCS_INITRD", "/none")
    with pytest.raises(NotFoundError, match=r"initrd /none: no such file \(GCS_INITRD\)"):
        find_boot_image()


def test_what_was_built_is_named_without_links(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The links go with `make clean`, and lead elsewhere after the next build."""
    monkeypatch.delenv("GCS_KERNEL", raising=False)
    for name in ("vmlinux", "initrd", "root-image"):
        (build.parent / f"{name}-1").touch()
        (build / name).symlink_to(f"../{name}-1")
    assert find_kernel(None) == build.parent / "vmlinux-1"
    assert find_boot_image("initrd").initrd == build.parent / "initrd-1"
    for option in (None, str(build / "root-image")):
        found = find_boot_image("pmem", root_image=option)
        assert found.root_image == build.parent / "root-image-1"
