"""Overlays of real folders, and what a failed one leaves."""

import errno
from pathlib import Path

import pytest

from gcs.linux import mounts, overlay

pytestmark = pytest.mark.root


def _names(folder: Path | str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def _layers(folder: Path, *names: str) -> list[str]:
    """Make one layer per name, each with a file of its name and one that they all have."""
    made: list[str] = []
    for name in names:
        layer = folder / name
        layer.mkdir(parents=True)
        (layer / "mine").write_text(name, errors="surrogateescape")
        (layer / f"only-{len(made)}").touch()
        made.append(str(layer))
    return made


def test_the_first_layer_is_the_topmost(folder: Path) -> None:
    """All files show, and of the same one the topmost."""
    layers = _layers(folder, "a", "b", "c")
    overlay.mount(layers, f"{folder}/root")
    assert _names(f"{folder}/root") == ["mine", "only-0", "only-1", "only-2"]
    assert (folder / "root/mine").read_text() == "a"


def test_without_an_upperdir_nothing_can_be_written(folder: Path) -> None:
    """Not even by root."""
    overlay.mount(_layers(folder, "a", "b"), f"{folder}/root")
    with pytest.raises(OSError, match="Read-only") as caught:
        (folder / "root/new").touch()
    assert caught.value.errno == errno.EROFS


def test_one_layer_alone_is_shown_read_only(folder: Path) -> None:
    """Though overlayfs wants two when nothing can be written."""
    (layer,) = _layers(folder, "a")
    overlay.mount([layer], f"{folder}/root")
    assert _names(f"{folder}/root") == ["mine", "only-0"]
    with pytest.raises(OSError, match="Read-only"):
        (folder / "root/new").touch()
    mounts.unmount(f"{folder}/root")
    assert _names(folder) == ["a"]


def test_what_is_written_goes_to_the_upperdir(folder: Path) -> None:
    """The layers stay as they are; the folders are made when they are missing."""
    layers = _layers(folder, "a", "b")
    overlay.mount(layers, f"{folder}/root", f"{folder}/s/upper", f"{folder}/s/work")
    (folder / "root/mine").write_text("new")
    (folder / "root/only-1").unlink()
    assert (folder / "s/upper/mine").read_text() == "new"
    assert (folder / "a/mine").read_text() == "a"
    assert (folder / "b/only-1").exists()


@pytest.mark.parametrize(
    "name",
    ["a,b", "a:b", "a\\b", "a\\,b", "a\\:b\\\\", ",", "\\", "a b\tc\nd", "a=b", "\udcff"],
)
def test_any_path_can_be_a_layer_an_upperdir_and_a_target(folder: Path, name: str) -> None:
    """What separates options and layers in the string of mount(2) may stand in a path."""
    layers = _layers(folder / name, f"1{name}", f"2{name}")
    target, upper, work = (f"{folder}/{name}/{kind}{name}" for kind in "tuw")
    overlay.mount(layers, target, upper, work)
    assert Path(target, "mine").read_text(errors="surrogateescape") == f"1{name}"
    assert Path(target, "only-1").exists()
    Path(target, "new").touch()
    assert _names(upper) == ["new"]
    assert len(mounts.at(target)) == 1


@pytest.mark.parametrize("writable", [False, True])
def test_layers_that_need_more_than_a_page_of_options_are_mounted(
    folder: Path, writable: bool
) -> None:
    """128 with long paths: all of them count, in their order, and so does the upperdir."""
    layers = _layers(folder, *(f"{number:03}{'x' * 90}" for number in range(128)))
    assert len(overlay.options(layers)) > 2 * 4096
    scratch = (f"{folder}/s/upper", f"{folder}/s/work") if writable else ()
    overlay.mount(layers, f"{folder}/root", *scratch)
    assert _names(f"{folder}/root") == sorted(["mine", *(f"only-{n}" for n in range(128))])
    assert (folder / "root/mine").read_text().startswith("000x")
    if writable:
        (folder / "root/new").touch()
        assert _names(f"{folder}/s/upper") == ["new"]
    else:
        with pytest.raises(OSError, match="Read-only"):
            (folder / "root/new").touch()
    mounts.unmount(f"{folder}/root")
    assert not (folder / "root").exists()


@pytest.mark.parametrize("name", ["a,b", "a:b", "a\\b", "a\\:b\\\\", "a b\tc\nd", "\udcff"])
def test_any_path_can_be_a_layer_of_many(folder: Path, name: str) -> None:
    """What is given to the kernel by itself is not escaped; the upperdir still is."""
    layers = _layers(folder / name, *(f"{number:03}{'x' * 99}" for number in range(64)))
    target, upper, work = (f"{folder}/{name}/{kind}{name}" for kind in "tuw")
    overlay.mount(layers, target, upper, work)
    assert Path(target, "mine").read_text().startswith("000x")
    Path(target, "new").touch()
    assert _names(upper) == ["new"]


def test_more_layers_than_the_kernel_takes_are_refused_in_its_words(folder: Path) -> None:
    """500 is its limit; nothing stays."""
    layers = [f"{folder}/layers/{number:03}" for number in range(501)]
    for layer in layers:
        Path(layer).mkdir(parents=True)
    with pytest.raises(OSError, match=rf"{folder}/root.*too many lower directories") as caught:
        overlay.mount(layers, f"{folder}/root", f"{folder}/upper", f"{folder}/work")
    assert caught.value.errno == errno.EINVAL
    assert _names(folder) == ["layers"]


def test_a_missing_layer_of_many_is_named(folder: Path) -> None:
    """ENOENT with its path, and nothing stays."""
    layers = [f"{folder}/layers/{number:03}" for number in range(400)]
    with pytest.raises(OSError, match=rf"lowerdir\+ {folder}/layers/000: ") as caught:
        overlay.mount(layers, f"{folder}/root", f"{folder}/upper", f"{folder}/work")
    assert caught.value.errno == errno.ENOENT
    assert _names(folder) == []


@pytest.mark.parametrize("writable", [True, False])
def test_paths_may_be_long_and_many(folder: Path, writable: bool) -> None:
    """Longer than an option of the kernel's may be, which are longer than a page together."""
    deep = folder / ("x" * 200) / ("y" * 150) / "a,b:c\\"
    layers = _layers(deep, *(f"{number:03}" for number in range(30)))
    scratch = (f"{deep}/upper", f"{deep}/work") if writable else ()
    before = _names("/proc/self/fd")
    overlay.mount(layers, f"{folder}/root", *scratch)
    assert _names("/proc/self/fd") == before
    assert _names(f"{folder}/root") == sorted(["mine", *(f"only-{n}" for n in range(30))])
    assert (folder / "root/mine").read_text().startswith("000")
    if writable:
        (folder / "root/new").touch()
        assert _names(f"{deep}/upper") == ["new"]
    mounts.unmount(f"{folder}/root")


def test_a_long_path_that_is_not_there_is_named(folder: Path) -> None:
    """And nothing stays."""
    layers = [f"{folder}/{'x' * 200}/{'y' * 60}{number}" for number in range(30)]
    with pytest.raises(OSError, match=f"mount overlay on {folder}/root: .*y0") as caught:
        overlay.mount(layers, f"{folder}/root")
    assert caught.value.errno == errno.ENOENT
    assert _names(folder) == []


def test_as_many_layers_as_a_page_holds_are_mounted(folder: Path) -> None:
    """The limit is the kernel's, to the byte: the last layer counts."""
    layers = [f"{folder}/{number:02}" for number in range(4095 // len(f"{folder}/00:") - 2)]
    layers[-1] += "x" * (4095 - len(overlay.options(layers)))
    for layer in layers:
        Path(layer).mkdir()
    Path(layers[-1], "last").touch()
    assert len(overlay.options(layers)) == 4095
    overlay.mount(layers, f"{folder}/root")
    assert _names(f"{folder}/root") == ["last"]


def test_a_failed_overlay_leaves_nothing(folder: Path) -> None:
    """Target, upperdir and workdir go again, since all three were made."""
    with pytest.raises(OSError, match=f"mount .* on {folder}/root") as caught:
        overlay.mount(
            [f"{folder}/missing"], f"{folder}/root", f"{folder}/upper", f"{folder}/work"
        )
    assert caught.value.errno == errno.ENOENT
    assert _names(folder) == []


def test_a_failed_overlay_keeps_what_was_there(folder: Path) -> None:
    """Whatever it did not make, empty or not."""
    for name in ("root", "upper/file", "work"):
        (folder / name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        overlay.mount(
            [f"{folder}/missing"], f"{folder}/root", f"{folder}/upper", f"{folder}/work"
        )
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) == [
        "root",
        "upper",
        "upper/file",
        "work",
    ]


def test_a_late_failure_leaves_nothing_either(folder: Path) -> None:
    """The kernel makes a folder in the workdir before it sees that two layers overlap."""
    (layer,) = _layers(folder, "a")
    with pytest.raises(OSError, match="mount overlay") as caught:
        overlay.mount([layer, f"{layer}/../a"], f"{folder}/root", layer, f"{folder}/work")
    assert caught.value.errno == errno.ELOOP
    assert _names(folder) == ["a"]


def test_a_target_that_is_a_file_is_refused(folder: Path) -> None:
    """What was made before it goes again."""
    layers = _layers(folder, "a")
    (folder / "root").touch()
    with pytest.raises(FileExistsError, match="root"):
        overlay.mount(layers, f"{folder}/root", f"{folder}/upper", f"{folder}/work")
    assert _names(folder) == ["a", "root"]
