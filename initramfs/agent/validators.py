"""Stand in for attr.validators in the guest: of its thirty, one is used, by outcome.

The real one makes thirty classes whenever the agent starts, a twentieth of all its imports.
"""

from collections.abc import Callable

__all__ = ["instance_of"]


def instance_of(kind: type) -> Callable[[object, object, object], None]:
    """Return a check that an attribute is of a type."""

    def check(_instance: object, attribute: object, value: object) -> None:
        if not isinstance(value, kind):
            raise TypeError(f"{attribute}: expected {kind}, got {value!r}")

    return check
