"""How fast a container's output gets to the host, beside a program that has the vsock."""

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
_DIRECT = "dd in the VM, its stdout the vsock connection"
_COPY = "dd | cat in the VM, cat's stdout the vsock connection"
#: design.md, part 9.
_WANTED = 0.9


async def measure(guest: Guest, *, rounds: int) -> list[Figure]:
    """Return the figures of an exec's stdout and of an init's."""
    execs, inits, copies = (list[tuple[float, float]]() for _ in range(3))
    for _ in range(rounds):
        direct = await _by_vm(guest, *_WRITER)
        ours = await _by_exec(guest)
        init = await _by_init(guest)
        copied = await _by_vm(guest, "sh", "-c", f"{' '.join(_WRITER)} | cat")
        execs.append((ours, direct))
        inits.append((init, direct))
        copies.append((ours, copied))
    what = f"{_SIZE_MIB} MiB from "
    return [
        figure(
            *("stdout of an exec", f"{what}an exec", "MiB/s", _DIRECT, execs),
            is_rate=True,
            wanted=_WANTED,
        ),
        figure(
            *("stdout of an init", f"{what}a container's init", "MiB/s", _DIRECT, inits),
            is_rate=True,
            wanted=_WANTED,
        ),
        figure(
            *("stdout beside a copy", f"{what}an exec", "MiB/s", _COPY, copies), is_rate=True
        ),
    ]


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
