"""What fencing speculation costs: a VM as it is, beside the same VM with mitigations=off.

No regression is looked for here: this is a cost that is paid on purpose, and known.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from gcs.host.container import Container
from gcs.wire.messages import GetProperties
from gcs.wire.properties import PropertyQuery, PropertyType
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.bench import execs, guest
from tests.bench.boot import seconds_to_dial
from tests.bench.figures import Figure, figure
from tests.bench.guest import Guest, Shell, open_guest

__all__ = ["measure"]

_OFF = "mitigations=off"
_REQUESTS = 100
#: Two system calls for each byte: entering the kernel is what most of them make slower.
_BYTES = 100_000
_COPY = f"dd if=/dev/zero of=/dev/null bs=1 count={_BYTES} 2>/dev/null; echo $?"
_QUERY = PropertyQuery(property_types=(PropertyType.MEMORY, PropertyType.LOAD))


@dataclass(frozen=True)
class _Subject:
    """A VM with a container in it, and a shell beside that."""

    guest: Guest
    shell: Shell
    container: Container

    async def request(self) -> float:
        """Return the seconds of some requests, one after the other."""
        request = GetProperties(container_id=NULL_CONTAINER_ID, query=_QUERY)
        began = time.perf_counter()
        for _ in range(_REQUESTS):
            await self.guest.client.call(request)
        return time.perf_counter() - began

    async def execute(self) -> float:
        """Return the seconds of an exec of true."""
        return await execs.seconds(self.guest, self.container, ())

    async def copy(self) -> float:
        """Return the seconds that a program takes for its system calls."""
        began = time.perf_counter()
        assert await self.shell.ask(_COPY) == "0"
        return time.perf_counter() - began


@asynccontextmanager
async def _open_subject(words: tuple[str, ...]) -> AsyncIterator[_Subject]:
    async with open_guest(replace(guest.config(), kernel_args=words)) as one:
        assert (_OFF in await one.output("cat", "/proc/cmdline")) == (_OFF in words)
        async with one.program("sh") as shell, one.sleeping() as container:
            yield _Subject(one, shell, container)


async def measure(*, rounds: int) -> list[Figure]:
    """Return the figures of a boot, of a request, of an exec and of system calls."""
    machine = guest.config()
    without = replace(machine, kernel_args=(_OFF,))
    boots = [
        (await seconds_to_dial(machine), await seconds_to_dial(without)) for _ in range(rounds)
    ]
    async with _open_subject(()) as ours, _open_subject((_OFF,)) as other:
        requests = await _pairs(rounds, ours.request, other.request)
        started = await _pairs(rounds, ours.execute, other.execute)
        calls = await _pairs(rounds, ours.copy, other.copy)
    calls_what = f"{2 * _BYTES:,} system calls"
    return [
        _figure("boot", "QEMU's start to the agent's connection", boots),
        _figure("exec", "exec of true", started),
        _figure("requests", f"{_REQUESTS} times GetProperties of the VM", requests),
        _figure("system calls", calls_what, calls),
    ]


def _figure(name: str, what: str, pairs: list[tuple[float, float]]) -> Figure:
    return figure(name, what, "s", f"{name}, {_OFF}", pairs)


async def _pairs(
    rounds: int, ours: Callable[[], Awaitable[float]], other: Callable[[], Awaitable[float]]
) -> list[tuple[float, float]]:
    """Measure by turns, after a first time of each that does not count."""
    await ours()
    await other()
    return [(await ours(), await other()) for _ in range(rounds)]
