"""The words of a CommandLine: what hosts send that have no argument vector.

It is no shell: there are no variables, no substitutions and no patterns, and what a shell
would do after the first command is left out.

Source: the mattn/go-shellwords rules that other guests have, as far as hosts rely on them.
"""

import re

from gcs.errors import InvalidArgumentError

__all__ = ["split"]

#: How much of what can't be read an error quotes: enough to find it in the line.
_QUOTED_CHARACTERS = 40

#: A piece of a line; what is none is a quote or a backslash without an end, or a parenthesis.
_PIECE = re.compile(
    r"""
      (?P<space> \s+)
    | (?P<end>   [;&|<>])
    | \\(?P<escaped> .)
    | '(?P<single> [^']*)'
    | "(?P<double> (?: [^"\\] | \\. )*)"
    | (?P<bare>  [^\s;&|<>\\'"()]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def split(line: str) -> list[str]:
    """Return the words of the line's first command.

    Quotes group; except within single ones a backslash takes the next character as it is, but
    makes a tab of a t and a line feed of an n. The first bare operator ends the command.

    Raises:
        InvalidArgumentError: When a quote or a backslash has no end, or a parenthesis is bare.
    """
    words: list[str] = []
    word: str | None = None
    position = 0
    while position < len(line):
        piece = _PIECE.match(line, position)
        if piece is None:
            rest = line[position : position + _QUOTED_CHARACTERS]
            raise InvalidArgumentError(f"CommandLine: never closed, or bare: {rest!r}")
        position = piece.end()
        if piece.lastgroup == "end":
            break
        if piece.lastgroup != "space":
            word = (word or "") + _text(piece)
        elif word is not None:
            words.append(word)
            word = None
    return words if word is None else [*words, word]


def _text(piece: re.Match[str]) -> str:
    """Return what a piece of a word stands for."""
    match piece.lastgroup:
        case "escaped":
            return _unescape(piece["escaped"])
        case "double":
            return _ESCAPE.sub(lambda escape: _unescape(escape[1]), piece["double"])
        case _:
            return piece["single"] or piece["bare"] or ""


def _unescape(character: str) -> str:
    return {"t": "\t", "n": "\n"}.get(character, character)
