"""The picture of a boot: a module is below what executed it, in the time that it took."""

from tests.bench import phases
from tests.bench.bootprofile import spans
from tests.bench.phases import PHASES, Import, Profile


def test_modules_are_placed_in_their_phase() -> None:
    """As the finder tells them: behind those that they have executed, with both times."""
    told = [
        ("a.b", 1, 5.0, 5.125),
        ("a.c", 1, 5.25, 5.5),
        ("a", 0, 5.0, 5.625),
        ("d", 0, 5.75, 6.0),
    ]
    modules = phases._modules(repr(told), 5.0)
    assert modules == (
        Import("a.b", 1, 0.0, 0.125, 0.125),
        Import("a.c", 1, 0.25, 0.25, 0.25),
        Import("a", 0, 0.0, 0.25, 0.625),
        Import("d", 0, 0.75, 0.25, 0.25),
    )
    before = PHASES.index("imports")
    found = {
        (span.name, span.start - before, span.length, span.depth)
        for span in spans(Profile(dict.fromkeys(PHASES, 1.0), modules, 8.0))
    }
    assert found >= {
        ("imports", 0.0, 1.0, 0),
        ("a", 0.0, 0.625, 1),
        ("a.b", 0.0, 0.125, 2),
        ("a.c", 0.25, 0.25, 2),
        ("d", 0.75, 0.25, 1),
    }
