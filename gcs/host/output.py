"""The streams of a container that nobody watches: kept open, and what it says kept bounded."""

from pathlib import Path

import trio

from gcs.host.logfile import LogFile, keep
from gcs.host.process import Streams
from gcs.wire.control import StreamName

__all__ = ["keep_streams"]


async def keep_streams(streams: Streams, folder: Path) -> None:
    """Write a detached container's output to `stdout.log` and `stderr.log` until both end.

    Its stdin stays open meanwhile and says nothing, so that a shell waits for input instead of
    ending.
    """
    async with trio.open_nursery() as nursery:
        for name, stream in streams.items():
            if name is not StreamName.STDIN:
                nursery.start_soon(_keep, stream, folder / f"{name}.log")
    if StreamName.STDIN in streams:
        await streams[StreamName.STDIN].aclose()


async def _keep(stream: trio.SocketStream, path: Path) -> None:
    file = LogFile(path)
    try:
        async with stream:
            await keep(stream, file)
    finally:
        file.close()
