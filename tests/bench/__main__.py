"""Measure, keep and draw: `python -m tests.bench [--quick] [--check] [NAME…]`.

Without --check each report goes to docs/bench/NAME.json and its picture beside it. With it
nothing is written: ratios are compared with those that are there, and one that is worse by more
than its tolerance, however often it is measured, is a failure, as is a figure that is there and
not measured any more. --quick takes as few samples as tell something, of a part of the figures.
"""

import argparse
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

from tests.bench import (
    boot,
    execs,
    guest,
    memory,
    mitigations,
    pictures,
    ports,
    requests,
    sharing,
    streams,
)
from tests.bench.check import check
from tests.bench.figures import Figure, Report, load, store
from tests.bench.guest import Guest, open_guest
from tests.bench.machine import ROOT, describe

__all__ = ["main"]

DOCS = ROOT / "docs"
Measured = tuple[Sequence[Figure], Mapping[str, tuple[float, ...]]]


async def _requests(one: Guest, is_quick: bool) -> Measured:
    return await requests.measure(one, rounds=5 if is_quick else 25), {}


async def _exec(one: Guest, is_quick: bool) -> Measured:
    return await execs.measure(one, rounds=4 if is_quick else 15), {}


async def _streams(one: Guest, is_quick: bool) -> Measured:
    return await streams.measure(one, rounds=3 if is_quick else 7), {}


async def _memory(is_quick: bool) -> Measured:
    # The first state is the one that the aim is stated for.
    states = (*memory.STATES,)
    return await memory.measure(states[:1] if is_quick else states)


async def _boot(is_quick: bool) -> Measured:
    # The aim is stated for a median of 15.
    return await boot.measure(rounds=3 if is_quick else 15), {}


async def _ports(is_quick: bool) -> Measured:
    counts = ports.FEW if is_quick else ports.COUNTS
    return await ports.measure(rounds=2 if is_quick else 7, counts=counts), {}


async def _mitigations(is_quick: bool) -> Measured:
    return await mitigations.measure(rounds=3 if is_quick else 5), {}


async def _sharing(is_quick: bool) -> Measured:
    kinds = sharing.WITH_FIGURES if is_quick else tuple(sharing.KINDS)
    return await sharing.measure(vms=2 if is_quick else 4, kinds=kinds)


#: The name of a file in docs/bench → what measures it, told whether to be quick. The first are
#: measured in one VM.
IN_A_VM: Mapping[str, Callable[[Guest, bool], Awaitable[Measured]]] = {
    "requests": _requests,
    "exec": _exec,
    "streams": _streams,
}
ALONE: Mapping[str, Callable[[bool], Awaitable[Measured]]] = {
    "memory": _memory,
    "boot": _boot,
    "ports": _ports,
    "page-sharing": _sharing,
    "mitigations": _mitigations,
}
#: What gets no better or worse by what we do: --check leaves it out unless it is named.
UNCHECKED = ("mitigations",)


def main(arguments: Sequence[str]) -> int:
    """Measure what is named, or all; return 1 when --check finds something worse."""
    known = (*IN_A_VM, *ALONE)
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*known, []], metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="few samples")
    parser.add_argument("--check", action="store_true", help="compare; write nothing")
    options = parser.parse_args(arguments)
    some = [name for name in known if not options.check or name not in UNCHECKED]
    names: Sequence[str] = options.names or some
    if not options.check:
        _measure(names, _keep, is_quick=options.quick)
        return 0
    missing = [name for name in names if not _committed(name).exists()]
    if missing:
        parser.error(f"docs/bench has no figures to compare with: {' '.join(missing)}")
    committed = {name: load(_committed(name)) for name in names}
    measure = partial(_measured, is_quick=options.quick)
    worse = check(committed, measure, is_quick=options.quick)
    for sentence in worse:
        sys.stderr.write(f"{sentence}\n")
    return 1 if worse else 0


def _committed(name: str) -> Path:
    """Return the file that has the figures of a bench."""
    return DOCS / "bench" / f"{name}.json"


def _keep(report: Report) -> None:
    store(report, _committed(report.name))
    pictures.draw(report, DOCS)


def _measured(names: Sequence[str], *, is_quick: bool) -> list[Report]:
    found = list[Report]()
    _measure(names, found.append, is_quick=is_quick)
    return found


def _measure(names: Sequence[str], use: Callable[[Report], None], *, is_quick: bool) -> None:
    """Measure one bench after the other, each used before the next."""
    machine = describe(guest.accelerator())

    def report(name: str, measured: Measured) -> None:
        figures, values = measured
        for each in figures:
            _say(f"{name}: {each.line()}")
        use(Report(name=name, machine=machine, figures=tuple(figures), values=dict(values)))

    trio.run(_measure_all, names, report, is_quick)


async def _measure_all(
    names: Sequence[str], report: Callable[[str, Measured], None], is_quick: bool
) -> None:
    together = [name for name in names if name in IN_A_VM]
    if together:
        async with open_guest(guest.config()) as one:
            for name in together:
                report(name, await IN_A_VM[name](one, is_quick))
    for name in names:
        if name in ALONE:
            report(name, await ALONE[name](is_quick))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
