"""The agent's start, and the nursery that everything lives in.

Source: PROTOCOL.md, "The start of the guest".
"""

import logging
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import trio

from gcs.guest import dhcp, flags, kmsg, log, memory, oom, timesync, vanished
from gcs.guest.agent import Agent
from gcs.guest.connection import Bridge
from gcs.guest.flags import Options
from gcs.guest.handlers import container
from gcs.guest.reaper import Children
from gcs.guest.runc import Runc
from gcs.guest.transport import Transport, UnixTransport, VsockTransport
from gcs.linux import limits, procfs

__all__ = ["main"]

_log = logging.getLogger("gcs")


def _transport(folder: str) -> Transport:
    return UnixTransport(Path(folder)) if folder else VsockTransport()


def _prepare(options: Options) -> None:
    """Do what must be done before the first container; nothing of it ends the agent."""
    for complaint in options.complaints:
        _log.warning("command line", extra=log.fields(what=complaint))
    if options.core_dump_location:
        try:
            procfs.set_core_pattern(options.core_dump_location)
        except OSError as error:
            _log.error("no core dumps", extra=log.fields(error=error))
    memory.enter_own_cgroup()
    try:
        dhcp.end_strays()
    except OSError as error:
        _log.error("DHCP clients may be left", extra=log.fields(error=error))


def _claim_limits() -> limits.Inherited:
    """Raise the agent's own limits; return those of before."""
    inherited = limits.inherited()
    open_files = limits.claim_open_files()
    try:
        limits.claim_memory()
    except OSError as error:
        _log.warning("no protection of the agent's memory", extra=log.fields(error=error))
    _log.debug("limits raised", extra=log.fields(open_files=open_files))
    return inherited


async def _run(options: Options, steps: Iterable[object]) -> None:
    children = Children(_claim_limits())
    async with trio.open_nursery() as nursery:
        agent = Agent(
            transport=_transport(options.unix),
            children=children,
            runc=Runc(children, options.runtime),
            nursery=nursery,
            pod_memory=memory.PodMemory(options.root_reserve),
            denies=options.denies,
        )
        nursery.start_soon(children.run)
        # Before the first request: a container must not be there before its limit.
        await agent.pod_memory.settle()
        agent.start_soon(agent.pod_memory.run)
        agent.start_soon(oom.run, agent)
        agent.start_soon(memory.watch_own, options.agent_threshold)
        agent.start_soon(kmsg.run, options.kmsg_level)

        async def power_off() -> None:
            await container.power_off(agent, signal.SIGTERM)

        agent.start_soon(vanished.watch, agent, options.power_off_after, power_off)
        if options.has_time_sync:
            agent.start_soon(timesync.run)
        bridge = Bridge(agent)
        agent.start_soon(_take, steps, bridge.has_negotiated)
        await bridge.run()


async def _take(steps: Iterable[object], moment: trio.Event) -> None:
    """Take one step after the other from some moment on, with requests in between."""
    await moment.wait()
    for _ in steps:
        await trio.lowlevel.checkpoint()


def main(steps: Iterable[object] = ()) -> None:
    """Serve the host until the VM ends; take steps that can wait when it has negotiated."""
    options = flags.parse(sys.argv[1:])
    log.configure(options.loglevel, options.logfile)
    _prepare(options)
    trio.run(_run, options, steps)
