"""Stand in for the standard library's platform: attrs asks it one question as it is imported.

The real one has eight patterns compiled, for what others ask.
"""

__all__ = ["python_implementation"]


def python_implementation() -> str:
    """Return the one interpreter's that the image has."""
    return "CPython"
