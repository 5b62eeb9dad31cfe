"""Signals by the names that people and images use for them.

Source: signal(7); image-spec config.md "StopSignal".
"""

import re
import signal

from gcs.errors import InvalidArgumentError

__all__ = ["signal_number"]


def signal_number(text: str) -> int:
    """Return the number of "15", "TERM", "SIGTERM" or "SIGRTMIN+3", in any case.

    Raises InvalidArgumentError for what is no signal of Linux.
    """
    name = text.upper().removeprefix("SIG")
    if re.fullmatch(r"[0-9]{1,3}", name):
        number = int(name)
    elif match := re.fullmatch(r"RTMIN\+([0-9]{1,2})", name):
        number = signal.SIGRTMIN + int(match[1])
    else:
        number = int(getattr(signal.Signals, f"SIG{name}", 0))
    if not 1 <= number <= signal.SIGRTMAX:
        raise InvalidArgumentError(f"signal {text[:40]!r}: there is none of that name")
    return number
