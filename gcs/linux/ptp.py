"""The clock of the host, where the hypervisor shows it as a PTP clock.

Source: Documentation/driver-api/ptp.rst; clock_gettime(2), "Dynamic clocks"; the names are
those that drivers/hv/hv_util.c and drivers/ptp/ptp_kvm_common.c give their clocks.
Needs: CONFIG_PTP_1588_CLOCK, CONFIG_PTP_1588_CLOCK_KVM, CONFIG_HYPERV_UTILS
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gcs.linux import syscall

__all__ = ["Clocks", "find", "open_clocks"]

#: Clocks that show the host's time of day. A NIC's own clock may show anything.
_NAMES = frozenset({"hyperv", "KVM virtual PTP"})
#: FD_TO_CLOCKID of clock_gettime(2): the descriptor inverted, above three bits of kind.
_KIND_BITS, _DYNAMIC = 3, 3


@dataclass(frozen=True, slots=True)
class Clocks:
    """The two clocks that are compared, in nanoseconds, and the two ways to move ours."""

    host: Callable[[], int]
    ours: Callable[[], int]
    #: jump to a time
    step: Callable[[int], None]
    #: make up for so many nanoseconds by and by
    slew: Callable[[int], None]


def find(sysfs: Path = Path("/sys")) -> str | None:
    """Return the device node of the host's clock, None where there is none."""
    for clock in sorted((sysfs / "class/ptp").glob("ptp*")):
        try:
            name = (clock / "clock_name").read_text().strip()
        except OSError:  # it has just gone
            continue
        if name in _NAMES:
            return f"/dev/{clock.name}"
    return None


def open_clocks(device: str) -> Clocks:
    """Return the clocks of this VM; the device stays open. Raises OSError."""
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    clock = ~descriptor << _KIND_BITS | _DYNAMIC
    return Clocks(
        host=lambda: time.clock_gettime_ns(clock),
        ours=lambda: time.clock_gettime_ns(time.CLOCK_REALTIME),
        step=_step,
        slew=lambda offset: syscall.adjtime(round(offset / 1000)),
    )


def _step(now: int) -> None:
    time.clock_settime_ns(time.CLOCK_REALTIME, now)
