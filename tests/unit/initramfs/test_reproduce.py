"""Two builds in two folders, of a made-up checkout whose recipe may depend on its place."""

import subprocess
from pathlib import Path

import pytest

from initramfs.recipes import cache, kernel, reproduce, steps
from initramfs.recipes.engine import Engine

#: Stands in for initramfs/recipes: it builds one file.
_RECIPES = """
import os, sys
from pathlib import Path
assert sys.argv[1:] == ["guest"]
Path("build").mkdir()
Path("build/image").write_text({content})
"""


def engine(folder: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Return an engine of a checkout that builds `content` as its image."""
    repo = folder / "repo"
    package = repo / "initramfs/recipes"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(_RECIPES.format(content=content))
    subprocess.run(["git", "init", "-q", repo], check=True)
    monkeypatch.setattr(reproduce, "GUEST", {"guest": ("image",)})
    (folder / "cache/pool").mkdir(parents=True)
    (folder / "cache/pool/package").write_text("shared")
    return Engine(repo, cache.Cache(folder / "cache"), steps.Progress())


def test_the_same_bytes_are_told_by_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce.prove(engine(tmp_path, "'the same'", monkeypatch))
    digest = cache.file_digest(_file(tmp_path, "the same"))
    assert f"{digest}  image" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "cache").glob("reproduce-*")] == []


@pytest.mark.parametrize(
    "content",
    [
        *("os.getcwd()", "os.environ['TZ']", "os.environ['PYTHONHASHSEED']"),
        *("os.environ['USER']", "str(os.umask(0))"),
    ],
)
def test_what_depends_on_the_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    with pytest.raises(steps.StepError, match="two builds differ in image"):
        reproduce.prove(engine(tmp_path, content, monkeypatch))


def test_what_was_downloaded_is_there_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "Path(os.environ['XDG_CACHE_HOME'], 'gcs/pool/package').read_text()"
    reproduce.prove(engine(tmp_path, content, monkeypatch))


@pytest.mark.parametrize(
    ("content", "is_same"),
    [("'kept'", True), ("os.getcwd()", False), ("os.environ['KERNEL_JOBS']", False)],
)
def test_a_kernel_is_built_once_more_and_compared_with_the_one_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, is_same: bool
) -> None:
    """In another folder, by another number of compilers."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "made").write_text("kept")
    monkeypatch.setattr(kernel, "make", lambda engine: kept)
    monkeypatch.setattr(kernel, "FILES", {"image": "made"})
    monkeypatch.setattr(reproduce, "KERNEL", {"guest": ("image",)})
    one = engine(tmp_path, content, monkeypatch)
    if is_same:
        reproduce.prove_kernel(one)
    else:
        with pytest.raises(steps.StepError, match="two builds differ in image"):
            reproduce.prove_kernel(one)
    assert list((tmp_path / "cache").glob("reproduce-*")) == []


def _file(folder: Path, text: str) -> Path:
    path = folder / "file"
    path.write_text(text)
    return path
