"""How long storage takes: a script for the VM's own Python, which needs nothing but that.

`read TURNS FILE FILE` reads two files in turn. `share TURNS PORT NAME FOLDER` mounts by hand
what is served there, and writes, reads and makes files in it and in a folder that is mounted
already. It prints the seconds of each turn as JSON, the first's before the second's.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_MIB = 1024 * 1024
#: Little at a time: what disturbs the one then disturbs the other as well.
_LARGE_MIB, _FILES = 2, 8
_BY_HAND = "/run/by-hand"


def _timed(function: Callable[[str], None], path: str) -> float:
    began = time.perf_counter()
    function(path)
    return time.perf_counter() - began


def _read(path: str) -> None:
    buffer = bytearray(_MIB)
    with Path(path).open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _write(path: str) -> None:
    content = bytes(_MIB)
    with Path(path).open("wb", buffering=0) as file:
        for _ in range(_LARGE_MIB):
            file.write(content)


def _make_files(path: str) -> None:
    for number in range(_FILES):
        with Path(f"{path}{number}").open("wb", buffering=0) as file:
            file.write(b"x" * 1000)
    for number in range(_FILES):
        Path(f"{path}{number}").unlink()


def _turns(count: int, functions: list[Callable[[str], None]], paths: list[str]) -> None:
    """Do everything with both paths, beginning with the one and the other in turn."""
    for function in functions:
        for path in paths:
            function(path)  # nothing is new to either
    found = []
    for turn in range(count):
        row = [0.0] * (2 * len(functions))
        for number, function in enumerate(functions):
            for which in (0, 1) if turn % 2 else (1, 0):
                row[2 * number + which] = _timed(function, paths[which])
        found.append(row)
    print(json.dumps(found))  # noqa: T201 - its result


@contextmanager
def _mounted_by_hand(port: int, name: str) -> Iterator[None]:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        sock.connect((2, port))
        fd = sock.fileno()
        words = f"trans=fd,rfdno={fd},wfdno={fd},version=9p2000.L,msize=65536,aname={name}"
        argv = ("mount", "-t", "9p", "-o", f"{words},access=any,uname=root", "x", _BY_HAND)
        Path(_BY_HAND).mkdir()
        subprocess.run(argv, check=True, pass_fds=[fd])
    try:
        yield
    finally:
        subprocess.run(("umount", _BY_HAND), check=True)
        Path(_BY_HAND).rmdir()


def main(verb: str, turns: str, *words: str) -> None:
    """Measure one of the two."""
    if verb == "read":
        _turns(int(turns), [_read], list(words))
        return
    port, name, folder = words
    with _mounted_by_hand(int(port), name):
        paths = [f"{folder}/ours", f"{_BY_HAND}/theirs"]
        _turns(int(turns), [_write, _read, _make_files], paths)


if __name__ == "__main__":
    main(*sys.argv[1:])
