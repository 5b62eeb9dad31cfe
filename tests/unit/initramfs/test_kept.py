"""The code that is made with the image and taken at the agent's start."""

import dataclasses
import importlib.util
import marshal
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

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


def test_a_dataclass_is_the_same_whether_its_code_is_kept_or_not(made: Path) -> None:
    module = kept(made)
    module.use()
    try:
        one = dataclasses.make_dataclass("One", [("x", int)], frozen=True)
    finally:
        module.forget()
    assert repr(one(1)) == repr(dataclasses.make_dataclass("One", [("x", int)])(1))
    assert one(1) == one(1)
    # Both modules are as they were.
    assert "exec" not in vars(dataclasses)


def test_an_agent_that_cannot_be_imported_makes_nothing(tmp_path: Path) -> None:
    keep, out = REPO / "initramfs/recipes/keep.py", tmp_path / "kept.bin"
    argv = (sys.executable, "-sSB", str(keep), str(tmp_path), str(out))
    assert subprocess.run(argv, capture_output=True, check=False).returncode != 0
    assert not out.exists()
