"""Keep the VM's clock with the host's, where the host shows one.

There is no daemon to restart: a comparison takes a few microseconds. A VM without such a clock,
and one whose clock can't be read, goes on without.

Source: PROTOCOL.md, "The start of the guest".
"""

import logging

import trio

from gcs.guest.log import fields
from gcs.linux import ptp

__all__ = ["keep", "run"]

_log = logging.getLogger("gcs.timesync")

#: Between comparisons; what hosts in use have their guests do (2^3 s).
_INTERVAL_S = 8.0
#: What is off by more is set at once: a VM that was stopped, or restored. The kernel makes up
#: for less by running 0.05 % faster or slower.
_STEP_NS = 100_000_000


async def run() -> None:
    """Find the host's clock and follow it until cancelled; return if there is none."""
    device = ptp.find()
    if device is None:
        _log.info("no clock of the host to follow")
        return
    try:
        clocks = ptp.open_clocks(device)
    except OSError as error:
        _log.warning("the host's clock is not followed", extra=fields(error=error))
        return
    await keep(clocks)


async def keep(clocks: ptp.Clocks) -> None:
    """Compare the clocks and correct ours, until cancelled. A failure is said once in a row."""
    failed = False
    while True:
        try:
            _correct(clocks)
            failed = False
        except OSError as error:
            if not failed:
                _log.warning("the host's clock is not followed", extra=fields(error=error))
            failed = True
        await trio.sleep(_INTERVAL_S)


def _correct(clocks: ptp.Clocks) -> None:
    before = clocks.ours()
    host = clocks.host()
    # Reading the host's clock may leave the VM for long; the middle is the best guess.
    offset = host - (before + clocks.ours()) // 2
    if abs(offset) > _STEP_NS:
        clocks.step(clocks.ours() + offset)
        _log.info("clock set", extra=fields(offset_ms=offset // 1_000_000))
    elif offset:
        clocks.slew(offset)
