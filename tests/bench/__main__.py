"""Measure, keep and draw: `python -m tests.bench [--quick] [--check] [NAME…]`.

Without --check each report goes to docs/bench/NAME.json and its picture beside it. With it
nothing is written: ratios are compared with those that are there, and one that is worse by more
than its tolerance is a failure. --quick takes as few samples as tell something.
"""

import argparse
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

from tests.bench import boot, execs, guest, memory, pictures, ports, requests, sharing, streams
from tests.bench.figures import Figure, Report, complaints, load, store
from tests.bench.guest import Guest, open_guest
from tests.bench.machine import ROOT, Machine, describe

__all__ = ["main"]

DOCS = ROOT / "docs"
Measured = tuple[Sequence[Figure], Mapping[str, tuple[float, ...]]]


async def _in_a_vm(measure: Callable[[Guest], Awaitable[list[Figure]]]) -> Measured:
    async with open_guest(guest.config()) as one:
        return await measure(one), {}


async def _requests(is_quick: bool) -> Measured:
    return await _in_a_vm(partial(requests.measure, rounds=5 if is_quick else 25))


async def _exec(is_quick: bool) -> Measured:
    return await _in_a_vm(partial(execs.measure, rounds=4 if is_quick else 15))


async def _streams(is_quick: bool) -> Measured:
    return await _in_a_vm(partial(streams.measure, rounds=3 if is_quick else 7))


async def _boot(is_quick: bool) -> Measured:
    # The aim is stated for a median of 15.
    return await boot.measure(rounds=3 if is_quick else 15), {}


async def _ports(is_quick: bool) -> Measured:
    return await ports.measure(rounds=2 if is_quick else 7), {}


async def _memory(is_quick: bool) -> Measured:
    async with open_guest(guest.config()) as one:
        return await memory.measure(one)


async def _sharing(is_quick: bool) -> Measured:
    return await sharing.measure(vms=2 if is_quick else 4)


#: The name of a file in docs/bench → what measures it, told whether to be quick.
BENCHES: Mapping[str, Callable[[bool], Awaitable[Measured]]] = {
    "requests": _requests,
    "exec": _exec,
    "streams": _streams,
    "memory": _memory,
    "boot": _boot,
    "ports": _ports,
    "page-sharing": _sharing,
}


def main(arguments: Sequence[str]) -> int:
    """Measure what is named, or all; return 1 when --check finds something worse."""
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="few samples")
    parser.add_argument("--check", action="store_true", help="compare; write nothing")
    options = parser.parse_args(arguments)
    worse = list[str]()
    names = options.names or tuple(BENCHES)
    if options.check:
        missing = [name for name in names if not _committed(name).exists()]
        if missing:
            parser.error(f"docs/bench has no figures to compare with: {' '.join(missing)}")
    machine = describe(guest.config().accelerator)
    for name in names:
        report = _run(name, machine, is_quick=options.quick)
        if options.check:
            worse += complaints(report, load(_committed(name)))
        else:
            store(report, _committed(name))
            pictures.draw(report, DOCS)
    for sentence in worse:
        sys.stderr.write(f"{sentence}\n")
    return 1 if worse else 0


def _committed(name: str) -> Path:
    """Return the file that has the figures of a bench."""
    return DOCS / "bench" / f"{name}.json"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run(name: str, machine: Machine, *, is_quick: bool) -> Report:
    _say(f"→ {name}")
    figures, values = trio.run(BENCHES[name], is_quick)
    for each in figures:
        _say(f"  {each.line()}")
    return Report(name=name, machine=machine, figures=tuple(figures), values=dict(values))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
