from pathlib import Path

import pytest

from initramfs.recipes import demo, toolchain


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("go version go1.26.0 linux/amd64", (1, 26)),
        ("cargo 1.95.0 (abc 2026-01-01)", (1, 95)),
        ("go version devel", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_a_compilers_words_read_as_its_version(said: str, version: tuple[int, int]) -> None:
    assert toolchain.parse_version(said) == version


def test_without_a_terminal_the_cat_ends_by_itself() -> None:
    argv = demo.command(Path("/repo"), terminal=False)
    assert argv[-len(demo.FRAMES) :] == list(demo.FRAMES)
    assert "-f" in argv
    assert "-it" not in argv


def test_in_a_terminal_the_cat_has_it() -> None:
    assert demo.command(Path("/repo"), terminal=True)[1:4] == ["run", "--rm", "-it"]
