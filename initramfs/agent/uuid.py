"""Stand in for the standard library's uuid: msgspec names a type and a value as it is imported.

Ids are plain texts for the agent. The real one looks for a library that makes them.
"""

__all__ = ["UUID", "SafeUUID"]


class SafeUUID:
    """Of the real one's three, the one that is named."""

    unknown = None


class UUID:
    """Never made here."""
