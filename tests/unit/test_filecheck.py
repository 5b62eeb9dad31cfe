"""The checker of files sees a difference of one byte, one name, one length, one mode."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.filecheck import compile_filecheck, parse, seen


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile it."""
    return compile_filecheck(tmp_path_factory.mktemp("filecheck"))


def run(program: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    """Run it to its end."""
    argv = [str(program), *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_a_file_system_that_is_right_passes_and_ends_as_the_model_has_it(
    program: Path, tmp_path: Path
) -> None:
    """On this machine's own; nothing that it does is left out."""
    assert run(program, "make", tmp_path).returncode == 0
    ended = run(program, "run", tmp_path, 3, 600)
    assert ended.returncode == 0, ended.stdout
    left = parse(ended.stdout)
    assert left.files == seen(tmp_path)
    assert left.operations == 600
    assert left.impossible == frozenset()
    counts = dict(line.split() for line in ended.stderr.splitlines())
    assert len(counts) == 13
    assert all(int(count) for count in counts.values())


def _alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_alter, "f0 at "),
        (_lengthen, "f0: read "),
        (lambda path: path.chmod(0o641), "f0 has mode 641, not 640"),
        (lambda path: path.rename(path.with_name("f7")), "has an entry f7"),
        (lambda path: path.unlink(), "3 files are listed, not 4"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "look"])
def test_a_difference_is_found(
    program: Path, tmp_path: Path, verb: str, change: Callable[[Path], None], said: str
) -> None:
    """And said."""
    run(program, "make", tmp_path)
    change(tmp_path / "d0/f0")
    ended = run(program, verb, tmp_path, 3, 10)
    assert ended.returncode == 1
    assert said in ended.stdout
