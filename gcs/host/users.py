"""Who an image's user is, by the image's own /etc/passwd and /etc/group.

Names are looked up in the converted layers, topmost first, without mounting anything: debugfs
reads a file out of an ext4 image.

Source: image-spec config.md "User"; passwd(5), group(5); debugfs(8).
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import trio

from gcs.errors import NotFoundError
from gcs.host.deadline import deadline
from gcs.host.spec import User

__all__ = ["find_user"]

#: Reading one small file takes milliseconds.
_READ_S = 10.0


async def find_user(text: str, layers: Sequence[Path]) -> User:
    """Return the numbers of "", "uid", "name", each with ":gid" or ":group" if need be.

    Args:
        text: As the image has it.
        layers: Its layers as ext4 images, bottom first.

    Raises NotFoundError when the image knows no such name.
    """
    user = User.parse(text)
    if user is not None:
        return user
    name, _, group = text.partition(":")
    uid, gid = await _lookup_user(name, layers)
    if group:
        gid = int(group) if group.isdigit() else await _lookup_group(group, layers)
    return User(uid, gid)


async def _lookup_user(name: str, layers: Sequence[Path]) -> tuple[int, int]:
    if name.isdigit():
        return int(name), 0
    for fields in _entries(await _read("/etc/passwd", layers), 4):
        if fields[0] == name and fields[2].isdigit() and fields[3].isdigit():
            return int(fields[2]), int(fields[3])
    raise NotFoundError(f"user {name[:80]!r}: not in the image's /etc/passwd")


async def _lookup_group(name: str, layers: Sequence[Path]) -> int:
    for fields in _entries(await _read("/etc/group", layers), 3):
        if fields[0] == name and fields[2].isdigit():
            return int(fields[2])
    raise NotFoundError(f"group {name[:80]!r}: not in the image's /etc/group")


def _entries(text: str, least: int) -> list[list[str]]:
    lines = (line.split(":") for line in text.splitlines())
    return [fields for fields in lines if len(fields) >= least]


async def _read(path: str, layers: Sequence[Path]) -> str:
    """Return a file of the image; empty when it has none, or a layer has removed it."""
    for layer in reversed(layers):
        kind = await _debugfs(layer, f"stat {path}")
        if "Type: regular" in kind:
            return await _debugfs(layer, f"cat {path}")
        # A whiteout is a character device.
        if "Type: character special" in kind:
            break
    return ""


async def _debugfs(layer: Path, request: str) -> str:
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    program = shutil.which("debugfs", path=search)
    if program is None:
        raise NotFoundError("debugfs: not found; the package e2fsprogs has it")
    argv = [program, "-R", request, str(layer)]
    with deadline(_READ_S, f"debugfs {request}"):
        done = await trio.run_process(
            argv, capture_stdout=True, capture_stderr=True, check=False
        )
    return done.stdout.decode(errors="replace")
