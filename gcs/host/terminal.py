"""The user's terminal: its size, and raw mode that is always undone.

Source: termios(3), tty_ioctl(4).
"""

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["printable", "raw_mode", "size"]


@contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Pass every byte through for the length of the block, if it is a terminal at all."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        # Not TCSADRAIN: a terminal that is stopped, or gone, must not hold us up.
        termios.tcsetattr(fd, termios.TCSANOW, before)


def size() -> tuple[int, int]:
    """Return the terminal's height and width; zeros when there is none."""
    for fd in (1, 0, 2):
        try:
            found = os.get_terminal_size(fd)
        except OSError:
            continue
        return found.lines, found.columns
    return 0, 0


def printable(text: str) -> str:
    """Show text from elsewhere without letting it steer the terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
