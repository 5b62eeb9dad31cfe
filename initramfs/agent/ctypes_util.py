"""Stand in for ctypes.util, by which trio looks for the C library's threads to name them.

The real one runs compilers and linkers to find a library, which the guest does not have.
"""

__all__ = ["find_library"]


def find_library(name: str) -> str | None:
    """Return that there is no such library."""
    return None
