"""Stand in for the standard library's linecache: the guest has no sources to show lines of.

The real one imports tokenize, which has its patterns compiled first.
"""

__all__ = ["cache", "checkcache", "clearcache", "getline", "getlines", "lazycache"]

#: attrs puts the texts of its methods here.
cache: dict[str, object] = {}


def getline(filename: str, lineno: int, module_globals: object = None) -> str:
    """Return no line."""
    return ""


def getlines(filename: str, module_globals: object = None) -> list[str]:
    """Return no lines."""
    return []


def lazycache(filename: str, module_globals: object) -> bool:
    """Say that there is no source to be read later."""
    return False


def checkcache(filename: str | None = None) -> None:
    """Leave things as they are: no source changes."""


def clearcache() -> None:
    """Forget what was put here."""
    cache.clear()
