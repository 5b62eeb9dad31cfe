"""What the agent takes of its VM's memory: idle, with one container, with ten."""

import re
from contextlib import AsyncExitStack

from tests.bench.figures import Figure, figure
from tests.bench.guest import Guest

__all__ = ["CONTAINERS", "PARTS", "measure"]

#: How many containers run when it is looked at.
CONTAINERS = (0, 1, 10)
#: Members of smaps_rollup; what is anonymous is the agent's alone in every boot form.
PARTS = ("Rss", "Pss", "Anonymous")
_MB = 1e6
_KIB = 1024
_ROLLUP = "cat /proc/$PPID/smaps_rollup"
#: The same interpreter and event loop, and nothing of ours.
_FLOOR_PROGRAM = """\
import sys
sys.path[:] = ["/usr/lib/gcs", "/usr/lib/python3.11", "/usr/lib/python3.11/lib-dynload"]
import trio
async def main():
    sys.stdout.write(open("/proc/self/smaps_rollup").read())
trio.run(main)
"""
_FLOOR = "the same interpreter in the same VM with trio and nothing of ours"


async def measure(guest: Guest) -> tuple[list[Figure], dict[str, tuple[float, ...]]]:
    """Return the figures, and each part in MB for each number of containers."""
    program = ("/usr/bin/python3.11", "-ISBc", _FLOOR_PROGRAM)
    floor = _parts(await guest.output(*program))
    found = list[dict[str, float]]()
    async with AsyncExitStack() as stack:
        running = 0
        for count in CONTAINERS:
            for _ in range(count - running):
                await stack.enter_async_context(guest.sleeping())
            running = count
            found.append(_parts(await guest.output("sh", "-c", _ROLLUP)))
    values = {part: tuple(one[part] for one in found) for part in PARTS}
    values["floor"] = tuple(floor[part] for part in PARTS)
    figures = [
        figure(
            f"agent, {count} containers",
            "resident memory of the agent",
            *("MB", _FLOOR, [(one["Rss"], floor["Rss"])]),
        )
        for count, one in zip(CONTAINERS, found, strict=True)
    ]
    return figures, values


def _parts(rollup: str) -> dict[str, float]:
    """Return the parts in MB."""
    pairs = re.findall(r"^(\w+): +(\d+) kB$", rollup, re.MULTILINE)
    table = {name: round(int(size) * _KIB / _MB, 2) for name, size in pairs}
    return {part: table[part] for part in PARTS}
