"""Stand in for the standard library's textwrap: of it, tracebacks of groups use one function.

The real one has five patterns compiled whenever the agent starts.
"""

from collections.abc import Callable

__all__ = ["dedent", "indent"]


def dedent(text: str) -> str:
    """Return documentation as it is; nobody reads it here."""
    return text


def indent(text: str, prefix: str, predicate: Callable[[str], object] = str.strip) -> str:
    """Put the prefix before each line that the predicate takes."""
    lines = text.splitlines(keepends=True)
    return "".join(f"{prefix}{line}" if predicate(line) else line for line in lines)
