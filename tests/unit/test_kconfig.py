import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
FRAGMENTS = sorted((REPO / "kconfig").glob("*.config"))
NEEDS = re.compile(r"CONFIG_([A-Z0-9_]+)")


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
    assert options(REPO / "kconfig/base.config")["CPU_MITIGATIONS"] == "y"


def needs() -> dict[str, str]:
    """Return each option that a module's docstring says it needs, and the module."""
    found: dict[str, str] = {}
    for path in sorted((REPO / "gcs").rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        for part in re.findall(r"Needs:((?:.+\n?)+)", text):
            found |= {name: str(path.relative_to(REPO)) for name in NEEDS.findall(part)}
    return found


def test_every_option_that_a_module_needs_is_built() -> None:
    built = {
        name
        for path in FRAGMENTS
        if path.stem != "debug"
        for name, value in options(path).items()
        if value != "n"
    }
    assert {name: module for name, module in needs().items() if name not in built} == {}
