"""The code that is made with the image and taken at the agent's start."""

import collections
import dataclasses
import importlib.util
import marshal
import re
import subprocess
import sys
import sysconfig
import typing
from pathlib import Path
from types import ModuleType

import pytest
from attr import _make

#: Starts the agent as its launcher does; prints what is compiled on the way all the same.
_START = """
import sys
sys.path[:] = [f"{sys.argv[1]}/usr/lib/{place}" for place in ("gcs", "python3.11")]
sys.path += [f"{sys.path[1]}/lib-dynload", sys.argv[2]]
import kept
kept._PLACE = f"{sys.argv[1]}/kept.bin"
find = kept._find
def looked_for(text):
    code = find(text)
    if code is None:
        print("not kept:", text)
    return code
kept._find = looked_for
def audit(event, arguments):
    if event == "compile" and str(arguments[1]).startswith("<"):
        print("compiled:", arguments)
sys.addaudithook(audit)
kept.use()
import gcs.guest.main
kept.forget()
"""

REPO = Path(__file__).resolve().parents[3]


def kept(place: Path) -> ModuleType:
    """Return the guest's module, which looks for its file at a place."""
    spec = importlib.util.spec_from_file_location("kept", REPO / "initramfs/agent/kept.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["_PLACE"] = str(place)
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is kept of an agent that starts with this interpreter's modules."""
    root = tmp_path_factory.mktemp("root")
    library = root / "usr/lib"
    (library / "gcs").mkdir(parents=True)
    (library / "python3.11").symlink_to(sysconfig.get_path("stdlib"))
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        (library / "gcs" / path.name).symlink_to(path)
    (library / "gcs/gcs").symlink_to(REPO / "gcs")
    out = root / "kept.bin"
    keep = REPO / "initramfs/recipes/keep.py"
    subprocess.run([sys.executable, "-sSB", keep, root, out], check=True)
    return out


def test_a_text_gets_its_own_code_and_any_other_none(made: Path) -> None:
    module = kept(made)
    places, data = marshal.loads(made.read_bytes())
    module.use()
    try:
        texts = [data[begin : begin + length] for begin, length, _ in places.values()]
        assert len(texts) > 100
        assert all(module._find(text.decode()) is not None for text in texts)
        assert module._find("no such text") is None
    finally:
        module.forget()


def test_an_agent_that_starts_compiles_nothing(made: Path) -> None:
    """Not what has a hash of a name in it either, which is another number each time."""
    argv = (sys.executable, "-sSBc", _START, str(made.parent), str(REPO / "initramfs/agent"))
    assert subprocess.run(argv, capture_output=True, check=True, text=True).stdout == ""


def test_a_dataclass_is_the_same_whether_its_code_is_kept_or_not(made: Path) -> None:
    module = kept(made)
    module.use()
    try:
        one = dataclasses.make_dataclass("One", [("x", int)], frozen=True)
    finally:
        module.forget()
    assert repr(one(1)) == repr(dataclasses.make_dataclass("One", [("x", int)])(1))
    assert one(1) == one(1)
    # The modules are as they were.
    assert "exec" not in vars(dataclasses)
    assert "eval" not in vars(collections)
    assert not {"compile", "hash"} & {*vars(typing), *vars(_make)}


def test_an_agent_that_cannot_be_imported_makes_nothing(tmp_path: Path) -> None:
    keep, out = REPO / "initramfs/recipes/keep.py", tmp_path / "kept.bin"
    argv = (sys.executable, "-sSB", str(keep), str(tmp_path), str(out))
    assert subprocess.run(argv, capture_output=True, check=False).returncode != 0
    assert not out.exists()


@pytest.mark.parametrize("flags", [0, re.VERBOSE | re.DOTALL, re.IGNORECASE])
def test_a_pattern_is_the_same_whether_it_is_kept_or_not(tmp_path: Path, flags: int) -> None:
    text = r"(?P<a> x+ ) (b [c-z]? | \w)* (?P<last> $)?"
    packages = tmp_path / "usr/lib/gcs"
    (packages / "gcs/guest").mkdir(parents=True)
    main = packages / "gcs/guest/main.py"
    main.write_text(f"import re; re.compile({text!r}, {int(flags)})")
    (packages / "attr").symlink_to(Path(_make.__file__).parent)
    (tmp_path / "usr/lib/python3.11").symlink_to(sysconfig.get_path("stdlib"))
    keep, out = REPO / "initramfs/recipes/keep.py", tmp_path / "kept.bin"
    subprocess.run([sys.executable, "-sSB", keep, tmp_path, out], check=True)
    usual = re.compile(text, flags)
    re.purge()
    module = kept(out)
    module.use()
    try:
        found = module._find(f"{text!r}\0{int(flags)}")
        one = re.compile(text, flags)
    finally:
        module.forget()
    assert found is not None
    assert one == usual
    assert (one.groupindex, one.groups, one.flags) == (usual.groupindex, 3, usual.flags)
    for given in ("xxbc", "x bz ", "xxX", "XB", ""):
        there, here = (each.match(given) for each in (one, usual))
        assert (there and (there[0], there.groups(), there.lastgroup)) == (
            here and (here[0], here.groups(), here.lastgroup)
        )
