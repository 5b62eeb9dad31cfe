"""A picture of one boot of each form, from QEMU's start to the agent's connection.

`python -m tests.bench.bootprofile` writes docs/bench/boot-profile-FORM.svg, with every module,
and prints the phases and the modules that take longest.
"""

import sys
from collections.abc import Iterator

import trio

from tests.bench import guest, icicle
from tests.bench.icicle import Span
from tests.bench.machine import ROOT, describe
from tests.bench.phases import PHASES, Profile, profile

__all__ = ["main", "spans"]

_PICTURES = ROOT / "docs" / "bench"
_LONGEST = 25


def spans(one: Profile) -> Iterator[Span]:
    """Yield the phases in a row, and the modules' executions below their imports."""
    start = 0.0
    for phase in PHASES:
        yield Span(phase, start, one.phases[phase], 0)
        if phase == "imports":
            # The last may belong to the next phase in part: the main module's first steps.
            for each in sorted(one.imports, key=lambda each: (each.start, each.depth)):
                yield Span(each.name, start + each.start, each.whole, each.depth + 1)
        start += one.phases[phase]


def _lines(one: Profile) -> Iterator[str]:
    for phase in PHASES:
        yield f"{one.phases[phase]:8.3f} s  {phase}"
    yield f"{one.seconds:8.3f} s  in all; {len(one.imports)} modules, of which longest:"
    longest = sorted(one.imports, key=lambda each: each.own, reverse=True)[:_LONGEST]
    for each in longest:
        yield f"{each.own * 1000:8.1f} ms {each.name} ({each.whole:.3f} s with others)"


def main() -> int:
    """Boot in both forms, draw and tell."""
    machine = describe(guest.config().accelerator)
    _PICTURES.mkdir(parents=True, exist_ok=True)
    for form in guest.FORMS:
        one = trio.run(profile, form, True)
        what = "From QEMU’s start to the agent’s connection, while every module is timed"
        drawn = icicle.draw(f"{what} ({form})", machine.line(), list(spans(one)))
        (_PICTURES / f"boot-profile-{form}.svg").write_text(drawn)
        for line in (form, *_lines(one)):
            sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
