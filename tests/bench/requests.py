"""What a request costs: its round trip on the bridge, beside an echo over vsock."""

import time
from collections.abc import Awaitable, Callable
from statistics import median

from gcs.wire import messages
from gcs.wire.properties import PropertyQuery, PropertyType
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.bench.figures import Figure, figure
from tests.bench.guest import Guest

__all__ = ["measure"]

#: The floor sends and gets as many bytes as a short frame has.
_LINE = "x" * 99
#: A round is so many of each kind, and gives one pair: its medians.
_IN_A_ROUND = 20
_FLOOR = "100 bytes through cat in the VM, over two vsock connections"
#: Of a properties request, beside what the machine's echo is: 5 ms and 0.5 ms were aimed at
#: and seen under emulation.
_WANTED = 10.0


async def measure(guest: Guest, *, rounds: int) -> list[Figure]:
    """Return the figures of a request that does nothing, and of the VM's properties."""
    process, _ = await guest.start(("true",), ())
    await process.wait()
    # Answered at once: no thread, no file, no other program.
    wait = messages.WaitForProcess(
        container_id=NULL_CONTAINER_ID, process_id=process.process_id, timeout_in_ms=1000
    )
    kinds = (PropertyType.STATISTICS, PropertyType.MEMORY, PropertyType.LOAD)
    query = PropertyQuery(property_types=kinds)
    properties = messages.GetProperties(container_id=NULL_CONTAINER_ID, query=query)
    idle, busy = list[tuple[float, float]](), list[tuple[float, float]]()
    async with guest.program("cat") as echo:
        for _ in range(rounds):
            floor = await _median(lambda: echo.ask(_LINE))
            idle.append((await _median(lambda: guest.client.call(wait)), floor))
            busy.append((await _median(lambda: guest.client.call(properties)), floor))
    return [
        figure(
            "request",
            "a request that is answered at once (WaitForProcess of one that has exited)",
            *("ms", _FLOOR, idle),
        ),
        figure(
            "properties",
            "GetProperties of the VM: statistics, memory and load",
            *("ms", _FLOOR, busy),
            wanted=_WANTED,
        ),
    ]


async def _median(ask: Callable[[], Awaitable[object]]) -> float:
    """Return the median milliseconds of some calls."""
    took = []
    for _ in range(_IN_A_ROUND):
        began = time.perf_counter()
        await ask()
        took.append((time.perf_counter() - began) * 1000)
    return median(took)
