"""Random operations on files: filecheck.c, compiled, and what it says."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Left", "compile_filecheck", "parse", "seen"]

_SOURCE = Path(__file__).with_name("filecheck.c")
_FILE = re.compile(r"^(d\d/f\d) (\d+) ([0-9a-f]{16})$", re.MULTILINE)


@dataclass(frozen=True)
class Left:
    """What a run has left, as its own model has it."""

    #: size and FNV-1a of each file
    files: Mapping[str, tuple[int, int]]
    #: what the file system can't do
    impossible: frozenset[str]
    operations: int


def compile_filecheck(folder: Path) -> Path:
    """Return the program, which needs no libraries."""
    program = folder / "filecheck"
    flags = ("-O1", "-s", "-static", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["gcc", *flags, "-o", str(program), str(_SOURCE)], check=True)
    return program


def parse(said: str) -> Left:
    """Read what a run that found no difference has said."""
    count = re.search(r"^(\d+) operations$", said, re.MULTILINE)
    assert count, said
    return Left(
        {name: (int(size), int(fnv, 16)) for name, size, fnv in _FILE.findall(said)},
        frozenset(re.findall(r"^not possible: (\S+)$", said, re.MULTILINE)),
        int(count[1]),
    )


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and FNV-1a of each file that is really there."""
    return {
        f"{path.parent.name}/{path.name}": (path.stat().st_size, _fnv(path.read_bytes()))
        for path in folder.glob("d*/*")
    }


def _fnv(content: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in content:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value
