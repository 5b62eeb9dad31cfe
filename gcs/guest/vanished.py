"""Power the VM off when its host has gone for good.

Some hosts listen for the bridge once: a VM whose host has died would dial for ever. Others move
VMs, and are away for as long as that takes; so this is off unless the host asks for it.

Source: PROTOCOL.md, "Connections".
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from gcs.guest.agent import Agent
from gcs.guest.log import fields

__all__ = ["watch"]

_log = logging.getLogger("gcs.vanished")

#: How often is looked; the time itself is given in whole seconds.
_CHECK_S = 0.5


async def watch(agent: Agent, limit_s: float, act: Callable[[], Awaitable[None]]) -> None:
    """Act once no host has been there for so long, and return.

    The time runs from the loss of a bridge that a host has spoken on: before the first one a VM
    may wait as long as it takes. Returns at once when the limit is 0.
    """
    while limit_s > 0:
        lost = agent.host_lost_at
        if lost is not None and trio.current_time() - lost >= limit_s:
            _log.error("no host, powering off", extra=fields(seconds=int(limit_s)))
            await act()
            return
        await trio.sleep(_CHECK_S)
