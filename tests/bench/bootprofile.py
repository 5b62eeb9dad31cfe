"""A picture of one boot of each form, from QEMU's start to the agent's connection.

`python -m tests.bench.bootprofile` writes docs/bench/boot-profile-FORM.svg, with every import,
and prints the phases and the imports that take longest.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import trio

from tests.bench import guest, icicle
from tests.bench.icicle import Span
from tests.bench.machine import ROOT, describe
from tests.bench.phases import PHASES, Import, Profile, profile

__all__ = ["main", "spans"]

_PICTURES = ROOT / "docs" / "bench"
_LONGEST = 25


@dataclass(frozen=True, slots=True)
class _Node:
    what: Import
    children: Sequence["_Node"]


def spans(one: Profile) -> Iterator[Span]:
    """Yield the phases in a row, and the imports below theirs."""
    start = 0.0
    for phase in PHASES:
        yield Span(phase, start, one.phases[phase], 0)
        if phase == "imports":
            yield from _placed(_tree(one.imports), start, 1)
        start += one.phases[phase]


def _tree(imports: Sequence[Import]) -> Sequence[_Node]:
    """Return the top ones; an import is listed behind those that it has made."""
    waiting = defaultdict[int, list[_Node]](list)
    for each in imports:
        waiting[each.depth].append(_Node(each, waiting.pop(each.depth + 1, [])))
    return waiting[0]


def _placed(nodes: Sequence[_Node], start: float, depth: int) -> Iterator[Span]:
    """Yield spans one behind the other; what a module does itself comes last."""
    for node in nodes:
        yield Span(node.what.name, start, node.what.whole, depth)
        yield from _placed(node.children, start, depth + 1)
        start += node.what.whole


def _lines(one: Profile) -> Iterator[str]:
    for phase in PHASES:
        yield f"{one.phases[phase]:8.3f} s  {phase}"
    yield f"{one.seconds:8.3f} s  in all; {len(one.imports)} imports, of which longest:"
    longest = sorted(one.imports, key=lambda each: each.own, reverse=True)[:_LONGEST]
    for each in longest:
        yield f"{each.own * 1000:8.1f} ms {each.name} (with what it imports {each.whole:.3f} s)"


def main() -> int:
    """Boot in both forms, draw and tell."""
    machine = describe(guest.config().accelerator)
    _PICTURES.mkdir(parents=True, exist_ok=True)
    for form in guest.FORMS:
        one = trio.run(profile, form, True)
        what = "From QEMU’s start to the agent’s connection, while every import is timed"
        drawn = icicle.draw(f"{what} ({form})", machine.line(), list(spans(one)))
        (_PICTURES / f"boot-profile-{form}.svg").write_text(drawn)
        for line in (form, *_lines(one)):
            sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
