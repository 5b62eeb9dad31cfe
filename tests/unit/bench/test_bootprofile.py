"""The picture of a boot: imports are below what made them, in the time that they took."""

from tests.bench.bootprofile import spans
from tests.bench.phases import PHASES, Import, Profile


def test_imports_are_placed_in_their_phase() -> None:
    """As Python tells them: behind those that they have made, with both kinds of time."""
    imports = (
        Import("a.b", 1, 0.1, 0.1),
        Import("a.c", 1, 0.2, 0.2),
        Import("a", 0, 0.3, 0.6),
        Import("d", 0, 0.4, 0.4),
    )
    before = PHASES.index("imports")
    found = {
        (span.name, round(span.start - before, 3), round(span.length, 3), span.depth)
        for span in spans(Profile(dict.fromkeys(PHASES, 1.0), imports, 8.0))
    }
    assert found >= {
        ("imports", 0.0, 1.0, 0),
        ("a", 0.0, 0.6, 1),
        ("a.b", 0.0, 0.1, 2),
        ("a.c", 0.1, 0.2, 2),
        ("d", 0.6, 0.4, 1),
    }
