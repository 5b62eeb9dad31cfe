"""Serve a folder as a service of some user does: `-m tests.support.volume_server FD PATH`."""

import argparse
import os
import socket
import sys
from pathlib import Path

import trio

from gcs.host import diod

__all__: list[str] = []


async def _serve(path: Path, fd: int, *, readonly: bool) -> None:
    connection = socket.socket(fileno=fd)
    output = sys.stderr.fileno()
    async with diod.serve(path, connection, readonly=readonly, output=output) as server:
        await server.wait()


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def main() -> None:
    """Serve until the connection ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("fd", type=int)
    parser.add_argument("path", type=Path)
    parser.add_argument("--readonly", action="store_true")
    parser.add_argument("--uid", type=int, default=0)
    options = parser.parse_args()
    if options.uid:
        # Here and not before the start: the user may not be able to read this checkout.
        _become(options.uid)
    trio.run(lambda: _serve(options.path, options.fd, readonly=options.readonly))


if __name__ == "__main__":
    main()
