"""Wait for a device to appear, by the kernel's announcements and with a deadline."""

import errno
import logging
import os
from collections.abc import Callable
from typing import TypeVar

import trio

from gcs.errors import DeadlineError
from gcs.guest.log import fields
from gcs.linux import uevent

__all__ = ["wait_for", "wait_for_node"]

_log = logging.getLogger("gcs.devices")

_Found = TypeVar("_Found")

#: A hot-plugged device shows within a fifth of a second; hosts wait five minutes for an answer.
_TIMEOUT_S = 5.0
#: An announcement may come before the driver has finished with what is looked for.
_RECHECK_S = 0.25


async def wait_for(
    find: Callable[[], _Found | None], what: str, timeout_s: float | None = None
) -> _Found:
    """Return what `find` finds, as soon as it finds something.

    Raises DeadlineError that says what was waited for.
    """
    timeout_s = _TIMEOUT_S if timeout_s is None else timeout_s
    with uevent.listen() as announcements, trio.move_on_after(timeout_s):
        while (found := find()) is None:
            with trio.move_on_after(_RECHECK_S):
                await trio.lowlevel.wait_readable(announcements)
            _drain(announcements.recv)
        _log.debug("device found", extra=fields(what=what, found=str(found)))
        return found
    raise DeadlineError(f"{what} did not appear within {timeout_s:g} s")


async def wait_for_node(find: Callable[[], str | None], what: str) -> str:
    """Return the device node that `find` names, once it is there as well.

    The kernel shows a disk in sysfs before its node is made. Raises DeadlineError.
    """

    def find_node() -> str | None:
        node = find()
        return node if node and os.path.exists(node) else None  # noqa: PTH110 - a string

    return await wait_for(find_node, what)


def _drain(receive: Callable[[int], bytes]) -> None:
    """Read off the announcements; that some were lost (ENOBUFS) does not matter."""
    while True:
        try:
            receive(65536)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
