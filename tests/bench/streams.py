"""How fast a container's output gets to the host, beside two programs without our code.

The floor is the raw copy: one program writes to a pipe, another copies from there to its vsock
connection. A container's process must have a pipe, for /dev/stdout can't be opened when it is a
socket; what that pipe costs is in the second pair, beside a program that writes to its vsock
connection itself.
"""

import time

import trio

from gcs.wire.control import StreamName
from tests.bench.figures import Figure, figure
from tests.bench.guest import PATH, Guest

__all__ = ["measure"]

_MIB = 1024 * 1024
#: Bytes of one measurement: half a second to two under emulation.
_SIZE_MIB = 64
_WRITER = ("dd", "if=/dev/zero", "bs=64k", f"count={_SIZE_MIB * 16}", "status=none")
_COPY = "the raw copy: dd | cat in the VM, cat's stdout the vsock connection"
_DIRECT = "no pipe: dd in the VM, its stdout the vsock connection"
#: design.md, part 9.
_WANTED = 0.9


async def measure(guest: Guest, *, rounds: int) -> list[Figure]:
    """Return the figures of an exec's stdout and of an init's."""
    directs, copies, execs, inits = (list[float]() for _ in range(4))
    for _ in range(rounds):
        directs.append(await _by_vm(guest, *_WRITER))
        execs.append(await _by_exec(guest))
        copies.append(await _by_vm(guest, "sh", "-c", f"{' '.join(_WRITER)} | cat"))
        inits.append(await _by_init(guest))
    figures = []
    for whose, rates in (("an exec", execs), ("an init", inits)):
        texts = (f"stdout of {whose}", f"{_SIZE_MIB} MiB from {whose}", "MiB/s", _COPY)
        pairs = list(zip(rates, copies, strict=True))
        figures.append(figure(*texts, pairs, is_rate=True, wanted=_WANTED))
        texts = (f"{texts[0]}, no pipe", *texts[1:3], _DIRECT)
        pairs = list(zip(rates, directs, strict=True))
        figures.append(figure(*texts, pairs, is_rate=True))
    return figures


async def _by_vm(guest: Guest, *words: str) -> float:
    process, streams = await guest.start(words, [StreamName.STDOUT])
    rate = await _rate(streams[StreamName.STDOUT])
    await process.wait()
    return rate


async def _by_exec(guest: Guest) -> float:
    wish: dict[str, object] = {"cwd": "/", "args": list(_WRITER), "env": [PATH]}
    async with guest.sleeping() as container:
        process, streams = await container.execute(guest.ports, [StreamName.STDOUT], wish)
        rate = await _rate(streams[StreamName.STDOUT])
        await process.wait()
    return rate


async def _by_init(guest: Guest) -> float:
    async with guest.container(*_WRITER) as container:
        streams = await container.start(guest.ports, [StreamName.STDOUT], terminal=False)
        rate = await _rate(streams[StreamName.STDOUT])
        await container.init.wait()
    return rate


async def _rate(stream: trio.SocketStream) -> float:
    """Read a stream to its end; return MiB/s from its first byte on."""
    count, began = 0, 0.0
    async with stream:
        async for data in stream:
            began = began or time.perf_counter()
            count += len(data)
    assert count == _SIZE_MIB * _MIB, f"{count} bytes came"
    return _SIZE_MIB / (time.perf_counter() - began)
