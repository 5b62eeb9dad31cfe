"""What the agent takes of its VM's memory: idle, with one container, with ten, by boot form.

Each is looked at in a VM that never had a NIC and in one that had a first one before, since the
agent knows nothing of networks until then. With a root image no file is in the agent's resident
set: its pages are the host's, mapped by DAX, and the kernel does not count them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from gcs.host.bridge import modify
from gcs.wire.resource import NetworkAdapter, RequestType, ResourceType
from tests.bench import guest
from tests.bench.figures import Figure, figure
from tests.bench.guest import Guest, open_guest

__all__ = ["CONTAINERS", "PARTS", "STATES", "measure", "rollup"]

#: How many containers run when it is looked at.
CONTAINERS = (0, 1, 10)
#: Members of smaps_rollup; what is anonymous is the agent's alone in every boot form.
PARTS = ("Rss", "Pss", "Anonymous")
#: The name of a state → its boot form, and whether it is after the first NIC. The first is what
#: the aim is stated for.
STATES: Mapping[str, tuple[str, bool]] = {
    "pmem": ("pmem", False),
    "pmem, NIC": ("pmem", True),
    "initrd": ("initrd", False),
    "initrd, NIC": ("initrd", True),
}
_MB = 1e6
_KIB = 1024
_ROLLUP = "cat /proc/$PPID/smaps_rollup"
#: In a namespace without a container, which is made for it and goes with it.
_NIC = NetworkAdapter(namespace_id="bench", adapter_id="bench", mac_address="52:54:00:00:00:01")
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


async def measure(
    states: Sequence[str] = (*STATES,),
) -> tuple[list[Figure], dict[str, tuple[float, ...]]]:
    """Return the figures, and each part in MB in each state for each number of containers."""
    figures: list[Figure] = []
    values: dict[str, tuple[float, ...]] = {}
    for state in states:
        form, has_nic = STATES[state]
        async with open_guest(replace(guest.config(form), nic_ports=1)) as one:
            floor, found = await _look(one, has_nic=has_nic)
        values |= {f"{state}, {part}": tuple(one[part] for one in found) for part in PARTS}
        values[f"{state}, floor"] = tuple(floor[part] for part in PARTS)
        figures += _figures(state, found, floor)
    return figures, values


def _figures(
    state: str, found: Sequence[Mapping[str, float]], floor: Mapping[str, float]
) -> Iterator[Figure]:
    what = "resident memory of the agent"
    for count, one in zip(CONTAINERS, found, strict=True):
        pairs = [(one["Rss"], floor["Rss"])]
        yield figure(f"agent, {state}, {count} containers", what, "MB", _FLOOR, pairs)


async def _look(
    one: Guest, *, has_nic: bool
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return the parts of the floor, and those of the agent for each number of containers."""
    floor = _parts(await one.output("/usr/bin/python3.11", "-ISBc", _FLOOR_PROGRAM))
    if has_nic:
        await one.vm.add_nic(0, _NIC.mac_address, {"type": "user", "restrict": True})
        await modify(one.client, RequestType.ADD, ResourceType.NETWORK, _NIC)
    found = list[dict[str, float]]()
    async with AsyncExitStack() as stack:
        running = 0
        for count in CONTAINERS:
            for _ in range(count - running):
                await stack.enter_async_context(one.sleeping())
            running = count
            found.append(await rollup(one))
    return floor, found


async def rollup(one: Guest) -> dict[str, float]:
    """Return the parts of the agent's memory in MB."""
    return _parts(await one.output("sh", "-c", _ROLLUP))


def _parts(text: str) -> dict[str, float]:
    pairs = re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)
    table = {name: round(int(size) * _KIB / _MB, 2) for name, size in pairs}
    return {part: table[part] for part in PARTS}
