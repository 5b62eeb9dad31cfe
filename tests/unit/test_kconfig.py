import re
from pathlib import Path

import pytest

from initramfs.recipes import why
from initramfs.recipes.steps import StepError

REPO = Path(__file__).resolve().parents[2]
FRAGMENTS = sorted((REPO / "kconfig").glob("*.config"))


def options(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if line.startswith("CONFIG_"))
    return dict(line.removeprefix("CONFIG_").split("=", 1) for line in lines)


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_every_option_has_its_reason_above_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if line.startswith("CONFIG_") and not re.match(r"# \S.{3,}", before)
    ]
    assert bare == []


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_a_fragment_holds_options_comments_and_nothing_else(path: Path) -> None:
    form = re.compile(r"CONFIG_[A-Z0-9_]+=(y|n|[0-9]+)|#.*|")
    assert [x for x in path.read_text().splitlines() if not form.fullmatch(x)] == []


def test_no_option_stands_in_two_fragments() -> None:
    plain = [path for path in FRAGMENTS if path.stem != "debug"]
    names = [name for path in plain for name in options(path)]
    assert sorted(names) == sorted(set(names))


def test_vsock_loopback_is_the_debug_fragments_alone() -> None:
    """With it a container could dial the agent as if it were the host."""
    assert [p.stem for p in FRAGMENTS if "VSOCKETS_LOOPBACK" in options(p)] == ["debug"]


def test_speculation_is_fenced() -> None:
    """All fences but one, which is only an alternative to another on the same processors."""
    base = options(REPO / "kconfig/base.config")
    assert base["CPU_MITIGATIONS"] == base["MITIGATION_IBRS_ENTRY"] == "y"
    fences = {name: value for name, value in base.items() if name.startswith("MITIGATION_")}
    assert fences.pop("MITIGATION_CALL_DEPTH_TRACKING") == "n"
    assert set(fences.values()) == {"y"}


def test_a_vm_learns_that_it_is_a_copy() -> None:
    """VMGENID has the kernel take new random numbers then."""
    assert options(REPO / "kconfig/base.config")["VMGENID"] == "y"


def test_every_option_that_a_module_needs_is_built() -> None:
    built = {
        name
        for path in FRAGMENTS
        if path.stem != "debug"
        for name, value in options(path).items()
        if value != "n"
    }
    needed = why.needs(REPO)
    assert needed
    assert {path: names - built for path, names in needed.items() if names - built} == {}


def test_an_option_is_explained_with_its_reason_and_who_needs_it() -> None:
    said = why.tell(REPO, "CONFIG_VIRTIO_PMEM").splitlines()
    reason = "virtio-pmem: how QEMU shows a layer's file"
    assert said[0] == f"CONFIG_VIRTIO_PMEM=y in kconfig/pmem-dax.config: {reason}"
    assert "  needed by gcs/linux/pmem.py" in said
    assert why.tell(REPO, "virtio_pmem").splitlines() == said


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_every_option_of_a_fragment_is_explained(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its value, its fragment and its reason, and by each module that says it needs it."""
    needed = why.needs(REPO)
    monkeypatch.setattr(why, "needs", lambda _: needed)
    for name, value in options(path).items():
        first, *_ = said = why.tell(REPO, name).splitlines()
        assert any(
            re.fullmatch(rf"CONFIG_{name}={value} in kconfig/{path.name}: \S.{{3,}}", line)
            for line in said
        ), first
        users = [module for module, names in needed.items() if name in names]
        assert [line for line in said if "needed by" in line] == [
            f"  needed by {module}" for module in users
        ]


def test_an_option_that_nobody_chose_is_said_to_be_none() -> None:
    with pytest.raises(StepError, match="names CONFIG_NO_SUCH_OPTION"):
        why.tell(REPO, "NO_SUCH_OPTION")
