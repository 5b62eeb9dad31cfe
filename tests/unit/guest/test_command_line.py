"""The words of a CommandLine are those that other guests take from it."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcs.errors import InvalidArgumentError
from gcs.guest.command_line import split


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  ", []),
        ("ls -l\t/run\n", ["ls", "-l", "/run"]),
        ("a'b c'd \"e  f\" ''", ["ab cd", "e  f", ""]),
        (r"a\ b \" \' \\", ["a b", '"', "'", "\\"]),
        (r"a\tb\nc 'a\tb' " + r'"a\tb"', ["a\tb\nc", r"a\tb", "a\tb"]),
        ("$HOME `id` *", ["$HOME", "`id`", "*"]),
        ("echo a;echo b", ["echo", "a"]),
        ("a & b", ["a"]),
        ("a | b", ["a"]),
        ("a <b", ["a"]),
        ("a >b 'unclosed", ["a"]),
        (r"a ';' \; '&|<>()'", ["a", ";", ";", "&|<>()"]),
    ],
)
def test_a_line_is_split(line: str, words: list[str]) -> None:
    """White space separates, quotes group, a backslash escapes, an operator ends."""
    assert split(line) == words


@pytest.mark.parametrize("line", ["'a", '"a', "a\\", "(a)", "a)", "\"'\" '"])
def test_a_line_that_is_no_command_is_refused(line: str) -> None:
    """Quotes must match, and parentheses stand in quotes."""
    with pytest.raises(InvalidArgumentError, match="CommandLine"):
        split(line)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_quoted_words_come_back(words: list[str]) -> None:
    """Whatever a shell's quotes protect is taken as it is."""
    assert split(shlex.join(words)) == words
