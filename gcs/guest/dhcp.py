"""An IPv4 address by DHCP, for a NIC that the host gives none: busybox's client does it.

It runs in the NIC's namespace for as long as the NIC is there, and renews the lease. What it is
told comes through a script of ours and its own output, and is set by the agent, so that nothing
is left when a later step fails. It does not outlive the agent for long: the first word that it
has no reader for ends it, and it has one for each renewal; or the next agent does.

Source: networking/udhcp/dhcpc.c of busybox, its variables for scripts.
Needs: CONFIG_PACKET
"""

import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from functools import partial
from subprocess import DEVNULL  # noqa: TID251 - a constant for trio

import trio

from gcs.errors import DeadlineError, GcsError
from gcs.guest.log import fields
from gcs.guest.netplan import Lease
from gcs.guest.reaper import Children
from gcs.linux import procfs

__all__ = ["Client", "end_strays", "start"]

_log = logging.getLogger("gcs.network")

#: Four questions, three seconds apart; and a moment for starting the program.
_QUESTIONS, _INTERVAL_S = 4, 3
_TIMEOUT_S = 15.0
#: Before a client that has ended is started again: most have no NIC any more.
_PAUSE_S = 10.0
_CLIENT = ("busybox", "udhcpc")
#: Of what the script writes at once; a DHCP packet has less.
_MAX_LINE = 4096
#: The first word of a line tells the script's from the client's own.
_LEASE, _LOST = "lease", "lost"
_SCRIPT = f"""#!/bin/sh
case "$1" in
bound | renew)
    printf '{_LEASE}\\t%s\\t%s\\t%s\\t%s\\t%s\\n' \\
        "$ip" "${{mask:-$subnet}}" "$router" "$dns" "$search $domain" ;;
deconfig) echo {_LOST} ;;
esac
"""


class _Output:
    """What a client and its script print."""

    def __init__(self, stream: trio.abc.ReceiveStream, ifname: str) -> None:
        self._stream = stream
        self._ifname = ifname
        self._buffer = b""
        self._has_lease = False

    async def next(self) -> Lease | None:
        """Return the next lease, or None when the last one is over.

        Raises GcsError when the client has ended, DeadlineError if for want of an answer.
        """
        words = ""
        while line := await self._line():
            if line.startswith(f"{_LEASE}\t"):
                self._has_lease = True
                return _parse(line)
            if line == _LOST and self._has_lease:
                self._has_lease = False
                return None
            words = line
        if "no lease" in words:
            raise _no_answer(self._ifname, _QUESTIONS * _INTERVAL_S)
        raise GcsError(f"DHCP on {self._ifname}: the client has ended: {words}")

    async def _line(self) -> str:
        """Return the next line that is not empty; "" at the end."""
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                if line:
                    return line.decode(errors="replace")
                continue
            data = await self._stream.receive_some(_MAX_LINE)
            if not data:
                return ""
            # A line without an end is none of ours.
            self._buffer = (self._buffer + data)[-_MAX_LINE:]


def _no_answer(ifname: str, seconds: float) -> DeadlineError:
    return DeadlineError(
        f"DHCP on {ifname}: no server has given an address within {seconds:g} s"
    )


def _parse(line: str) -> Lease:
    _, ip, mask, routers, servers, search = (line.split("\t") + [""] * 6)[:6]
    return Lease(
        ip=ip,
        prefixlen=mask,
        routers=tuple(routers.split()),
        servers=tuple(servers.split()),
        search=tuple(search.split()),
    )


class Client:
    """A client that has a lease, made by `start`: it has to be followed, until it is ended."""

    def __init__(
        self,
        run: Callable[[], AbstractAsyncContextManager[_Output]],
        output: _Output,
        stack: AsyncExitStack,
    ) -> None:
        self._run = run
        self._output = output
        self._stack = stack
        self._scope = trio.CancelScope()
        self._has_ended = trio.Event()

    async def follow(self, changed: Callable[[Lease | None], Awaitable[None]]) -> None:
        """Pass each further lease on, and None when there is none any more, until the end."""
        try:
            with self._scope:
                while True:
                    await changed(await self._next())
        finally:
            with trio.CancelScope(shield=True):  # for a killed program, which has a limit
                await self._stack.aclose()
            self._has_ended.set()

    async def end(self) -> None:
        """End the program, and what follows it."""
        self._scope.cancel()
        await self._has_ended.wait()

    async def _next(self) -> Lease | None:
        """Return what the client says next, or another one that takes its place."""
        try:
            return await self._output.next()
        except (GcsError, trio.ClosedResourceError) as error:
            _log.warning("DHCP client has ended", extra=fields(error=error))
        await self._stack.aclose()
        await trio.sleep(_PAUSE_S)
        try:
            self._output = await self._stack.enter_async_context(self._run())
            return await self._output.next()
        except (GcsError, OSError):
            return None


async def start(children: Children, ifname: str, netns: int | None) -> tuple[Client, Lease]:
    """Return a client and what a DHCP server has given it; the link must be up.

    Raises DeadlineError when none gives anything.

    Args:
        children: Owner of the client's process.
        ifname: Name of the NIC in its namespace.
        netns: That namespace; None is the VM's own.
    """
    run = partial(_running, children, ifname, netns)
    async with AsyncExitStack() as stack:
        try:
            with trio.fail_after(_TIMEOUT_S):
                output = await stack.enter_async_context(run())
                lease = await output.next()
        except trio.TooSlowError:
            raise _no_answer(ifname, _TIMEOUT_S) from None
        assert lease is not None, "none is over before the first one"
        return Client(run, output, stack.pop_all()), lease


def end_strays() -> None:
    """Kill the clients of an agent that has died: they keep the namespaces of its pods."""
    for pid in procfs.children(1):
        words = procfs.arguments(pid)
        if words[:2] == _CLIENT and words[-1].startswith("/proc/"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def _running(
    children: Children, ifname: str, netns: int | None
) -> AsyncIterator[_Output]:
    """Run a client for the length of the block."""
    with _program(_SCRIPT) as script:
        reader, writer = os.pipe()
        async with trio.lowlevel.FdStream(reader) as stream:
            try:
                process = await children.spawn(
                    _command(ifname, netns, script),
                    stdin=DEVNULL,
                    stdout=writer,
                    stderr=writer,
                    new_session=True,
                )
            finally:
                os.close(writer)
            try:
                yield _Output(stream, ifname)
            finally:
                await children.end(process)


@contextmanager
def _program(text: str) -> Iterator[str]:
    """Yield the path of a program in memory: nothing that can be written to lets it be run."""
    descriptor = os.memfd_create("dhcp-script")
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _command(ifname: str, netns: int | None, script: str) -> list[str]:
    times = ("-t", str(_QUESTIONS), "-T", str(_INTERVAL_S))
    # In the foreground; without a first lease it ends when the questions are asked.
    client = (*_CLIENT, "-f", "-n", *times, "-i", ifname, "-s", script)
    if netns is None:
        return list(client)
    return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{netns}", *client]
