"""From QEMU's start to the agent's connection, with more or fewer root ports for hot-plug.

Every port is a bridge that the guest's kernel finds and sets up, whether something is behind it
or not. Rounds go through all numbers in turn, so that what else the machine does meets all.
"""

from collections.abc import Sequence
from dataclasses import replace

from tests.bench import guest
from tests.bench.boot import seconds_to_dial
from tests.bench.figures import Figure, figure

__all__ = ["COUNTS", "FEW", "measure"]

COUNTS = (8, 16, 32, 64)
#: Those of a container and of a pod, for a quick look.
FEW = (8, 32)
#: That a pod has 32 ports must not cost more: issue 6 asks for the default to be measured.
_WANTED = {32: 1.5}


async def measure(*, rounds: int, counts: Sequence[int] = COUNTS) -> list[Figure]:
    """Return a figure for each number of ports but the least, which is the floor of all."""
    taken: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            machine = replace(guest.config(), pmem_ports=count)
            taken[count].append(await seconds_to_dial(machine))
    least, *more = counts
    return [
        figure(
            *(f"{count} ports", "QEMU's start to the agent's connection", "s"),
            f"the same VM with {least} ports",
            list(zip(taken[count], taken[least], strict=True)),
            wanted=_WANTED.get(count),
        )
        for count in more
    ]
