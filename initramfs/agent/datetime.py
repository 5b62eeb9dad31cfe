"""Stand in for the standard library's datetime: what the interpreter has of it, and no more.

The real one first defines all of that in Python, and then takes the interpreter's.
"""

# typeshed does not have it apart; all of it is datetime's.
from _datetime import *  # type: ignore[import-not-found] # noqa: F403
