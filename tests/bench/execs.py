"""What an exec costs over the bridge, beside `runc exec` by hand in the same VM."""

import time

from gcs.host.container import Container
from gcs.host.process import Streams
from gcs.wire.control import StreamName
from tests.bench.figures import Figure, figure
from tests.bench.guest import PATH, Guest, Shell, read_all

__all__ = ["measure", "seconds"]

_FLOOR = "runc exec by hand in the same VM"
_TRUE: dict[str, object] = {"cwd": "/", "args": ["true"], "env": [PATH]}
_OUTPUTS = (StreamName.STDOUT, StreamName.STDERR)
#: issue 8: more than nine tenths of an exec are the runtime itself.
_WANTED = 1.15


async def measure(guest: Guest, *, rounds: int) -> list[Figure]:
    """Return the figures of an exec of true, without streams and with two."""
    plain, streamed = list[tuple[float, float]](), list[tuple[float, float]]()
    async with guest.sleeping() as container, guest.program("sh") as shell:
        by_hand = f"runc exec {container.cid} true </dev/null; echo $?"
        # The first of each reads programs from the image.
        await _by_hand(shell, by_hand)
        await seconds(guest, container, ())
        for _ in range(rounds):
            before = await _by_hand(shell, by_hand)
            without = await seconds(guest, container, ())
            with_streams = await seconds(guest, container, _OUTPUTS)
            after = await _by_hand(shell, by_hand)
            floor = (before + after) / 2
            plain.append((without, floor))
            streamed.append((with_streams, floor))
    return [
        figure("exec", "exec of true", "s", _FLOOR, plain, wanted=_WANTED),
        figure("exec, streams", "exec of true, stdout and stderr read", "s", _FLOOR, streamed),
    ]


async def _by_hand(shell: Shell, line: str) -> float:
    began = time.perf_counter()
    assert await shell.ask(line) == "0"
    return time.perf_counter() - began


async def seconds(guest: Guest, container: Container, names: tuple[StreamName, ...]) -> float:
    """Return what an exec of true takes, until it has exited and its streams are read."""
    began = time.perf_counter()
    process, streams = await container.execute(guest.ports, names, _TRUE)
    await _read(streams)
    assert await process.wait() == 0
    return time.perf_counter() - began


async def _read(streams: Streams) -> None:
    for stream in streams.values():
        await read_all(stream)
