"""The streams of one process: pipes or a terminal on its side, the host's sockets on ours.

Bytes of a pipe go by splice(2), so Python sees counts and the end of the stream only. A process
gets pipes and not the socket itself, because `/dev/stdout` can't be opened when it is a socket.
Each stream is a task of its own: one that nobody reads delays none of the others.

The end of an output stream. The pipe's end-of-file becomes SHUT_WR, and the host answers by
closing. Not every transport passes SHUT_WR on, so the host's end is waited for only briefly and
then the socket is closed, which every transport passes on; the kernel still delivers what was
written before.

Source: splice(2), vsock(7), PROTOCOL.md "Streams".
"""

import errno
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest

import trio

from gcs.errors import DeadlineError
from gcs.guest.passage import Passage
from gcs.guest.redial import Redial
from gcs.guest.relay import Relay
from gcs.guest.replay import REPLAY_BYTES, replay_or_none
from gcs.guest.splice import Direct, End, is_gone, move
from gcs.guest.tee import TeeLog
from gcs.guest.terminal import copy_input
from gcs.guest.transport import Transport

__all__ = ["Endpoints", "Pipes", "Stdio", "dial"]

#: Bytes per read of a terminal, whose buffer in the kernel holds 4096, or of a pipe (65,536).
_CHUNK = 65536
#: How long all dials of a process may take; a host that listens answers within milliseconds.
_DIAL_TIMEOUT_S = 3.0
#: How long the host's end-of-file is waited for after ours. Hosts that see a SHUT_WR close
#: within a round trip; where it is not passed on, this is what every stream's end costs.
_LINGER_S = 0.02


@dataclass(slots=True)
class Endpoints:
    """The host's ends of a process's streams; None where the host wants no stream."""

    stdin: trio.socket.SocketType | None = None
    stdout: trio.socket.SocketType | None = None
    stderr: trio.socket.SocketType | None = None

    def close(self) -> None:
        """Close all of them."""
        for sock in (self.stdin, self.stdout, self.stderr):
            if sock is not None:
                sock.close()


async def dial(
    transport: Transport, ports: tuple[int | None, int | None, int | None]
) -> Endpoints:
    """Connect to the host's ports of stdin, stdout and stderr at once; None is no stream.

    Raises OSError or DeadlineError for the first that fails; then none stays open.
    """
    endpoints, failures = Endpoints(), list[OSError | DeadlineError]()

    async def connect(name: str, port: int) -> None:
        try:
            setattr(endpoints, name, await transport.dial(port, _DIAL_TIMEOUT_S))
        except (OSError, DeadlineError) as error:
            error.add_note(f"connecting {name} of the process")
            failures.append(error)
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for name, port in zip(("stdin", "stdout", "stderr"), ports, strict=True):
                if port is not None:
                    nursery.start_soon(connect, name, port)
    except BaseException:
        endpoints.close()
        raise
    if failures:
        endpoints.close()
        raise failures[0]
    return endpoints


@dataclass(slots=True)
class Pipes:
    """Our ends of a process's pipes, and for as long as it is not started the process's."""

    stdin: int | None
    stdout: int | None
    stderr: int | None
    #: the process's ends, in the order of descriptors 0, 1, 2
    theirs: tuple[int | None, int | None, int | None]

    @classmethod
    def make(cls, *, stdin: bool, stdout: bool, stderr: bool) -> "Pipes":
        """Make the pipes that are asked for; our ends don't block, the process's do."""
        made = list[tuple[int | None, int | None]]()
        try:
            for is_wanted in (stdin, stdout, stderr):
                made.append(_pipe() if is_wanted else (None, None))
        except OSError as error:
            _close(*(end for ends in made for end in ends))
            number = error.errno or errno.EIO
            raise OSError(number, f"pipe2 for a process: {error.strerror}") from error
        (read_0, write_0), (read_1, write_1), (read_2, write_2) = made
        for ours in (write_0, read_1, read_2):
            if ours is not None:
                os.set_blocking(ours, False)
        return cls(write_0, read_1, read_2, (read_0, write_1, write_2))

    def close_theirs(self) -> None:
        """Close the process's ends: the process has them now, or never will."""
        theirs, self.theirs = self.theirs, (None, None, None)
        _close(*theirs)

    def keep_only(self, *, stdin: bool, stdout: bool, stderr: bool) -> None:
        """Close our ends of streams that the host does not want.

        The process then reads an end-of-file, and is told by SIGPIPE that nobody listens.
        """
        if not stdin:
            _close(self.stdin)
            self.stdin = None
        if not stdout:
            _close(self.stdout)
            self.stdout = None
        if not stderr:
            _close(self.stderr)
            self.stderr = None

    def close(self) -> None:
        """Close everything."""
        self.close_theirs()
        self.keep_only(stdin=False, stdout=False, stderr=False)


def _pipe() -> tuple[int, int]:
    return os.pipe2(os.O_CLOEXEC)


def _close(*descriptors: int | None) -> None:
    for descriptor in descriptors:
        if descriptor is not None:
            os.close(descriptor)


class Stdio:
    """The streams of one running process, relayed until they end or are given up.

    Owns its descriptors and sockets from the moment it is made. `run` must be started in a
    nursery that outlives the request.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        source: Pipes | int,
        threads: trio.CapacityLimiter | None = None,
        log: TeeLog | None = None,
        redial: Redial | None = None,
    ) -> None:
        self._endpoints = endpoints
        #: for connections that end because their host goes
        self._redial = redial
        #: gets a copy of all output, wanted by the host or not
        self._log = log
        #: for busy streams of pipes
        self._threads = threads
        self._pipes = source if isinstance(source, Pipes) else None
        #: the master side of the process's terminal, while it is open
        self.terminal = source if isinstance(source, int) else None
        self._scope = trio.CancelScope()
        self._input_scope = trio.CancelScope()
        #: everything has been relayed to its end, or given up, and is closed
        self.is_over = False
        self._outputs: list[Relay] = []
        sources = (self._pipes.stdout, self._pipes.stderr) if self._pipes else (self.terminal,)
        socks, ports = (endpoints.stdout, endpoints.stderr), redial.ports if redial else ()
        for descriptor, sock, port in zip_longest(sources, socks, ports):
            # A terminal is read in any case: the process would stop at some 4 KiB, and be hung
            # up on when nothing is relayed.
            is_read = sock is not None or log is not None or self._pipes is None
            if descriptor is not None and is_read:
                self._outputs.append(Relay(descriptor, sock, None if sock is None else port))

    async def run(self) -> None:
        """Relay all streams to their ends, then close everything."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._relay_input)
                    for relay in self._outputs:
                        nursery.start_soon(self._relay_output, relay)
        finally:
            for relay in self._outputs:
                relay.done.set()
                if relay.sock is not None:
                    relay.sock.close()
            self._endpoints.close()
            if self._pipes is not None:
                self._pipes.close()
            terminal, self.terminal = self.terminal, None
            _close(terminal)
            if self._log is not None:
                self._log.close()
            self.is_over = True

    async def drain(self) -> None:
        """Wait, after the process's exit, until its output has been handed over.

        Returns as well when a stream stays silent because somebody else holds it open, and when
        the host does not read; the stream itself goes on then.
        """
        self._input_scope.cancel()
        async with trio.open_nursery() as nursery:
            for relay in self._outputs:
                nursery.start_soon(relay.drained)

    def close(self) -> None:
        """Give up what still runs."""
        self._scope.cancel()

    async def _relay_input(self) -> None:
        sock = self._endpoints.stdin
        sink = self.terminal if self._pipes is None else self._pipes.stdin
        if sock is None or sink is None:
            return
        with self._input_scope:
            if self._pipes is None:
                await copy_input(sock, sink, self._is_host_lost)
            else:
                await move(Direct(sock.fileno(), sink), self._threads)
        sock.close()
        if self._pipes is not None:
            self._pipes.keep_only(stdin=False, stdout=True, stderr=True)

    def _is_host_lost(self) -> bool:
        return self._redial is not None and self._redial.is_host_lost()

    async def _relay_output(self, relay: Relay) -> None:
        if self._log is not None or relay.sock is None or self._pipes is None:
            await self._copy_output(relay)
        else:
            await self._splice_output(relay, relay.sock)
        self._close_output(relay)
        relay.done.set()
        if relay.sock is not None:
            await _end(relay.sock)

    async def _splice_output(self, relay: Relay, sock: trio.socket.SocketType | None) -> None:
        """Move a pipe's output to its end, or until the host has gone for good."""
        replay = None if relay.port is None else replay_or_none()
        passage = Passage(relay, replay)
        try:
            while sock is not None:
                passage.begin(sock)
                if await move(passage, self._threads) is End.SOURCE:
                    return
                sock = await self._dial_again(relay, b"" if replay is None else replay.recent())
        finally:
            passage.close()
            if replay is not None:
                replay.close()

    async def _copy_output(self, relay: Relay) -> None:
        """Copy a terminal's output, or output that is logged too, whether the host is there."""
        recent = bytearray()
        while data := await _read(relay.source):
            relay.in_hand = len(data)
            if self._log is not None:
                await self._log.append(data, self._threads)
            if relay.port is not None:
                recent += data
                del recent[:-REPLAY_BYTES]
            if relay.sock is not None and not await _passed_on(relay.sock, data):
                await self._dial_again(relay, bytes(recent))
            relay.hand_over(len(data))

    async def _dial_again(self, relay: Relay, recent: bytes) -> trio.socket.SocketType | None:
        """Connect to the host once more, and send the newest output again.

        Returns the new connection; None when the host has gone for good.
        """
        while relay.sock is not None:
            relay.sock.close()
            relay.sock = None
            if self._redial is not None and relay.port is not None:
                relay.sock = await self._redial.dial(relay.port, relay.since)
            relay.since = trio.current_time()
            if relay.sock is not None and await _passed_on(relay.sock, recent):
                break
        return relay.sock

    def _close_output(self, relay: Relay) -> None:
        """Close a pipe whose reader has gone, so that the process learns of it."""
        if self._pipes is not None:
            is_stdout = relay.source == self._pipes.stdout
            self._pipes.keep_only(stdin=True, stdout=not is_stdout, stderr=is_stdout)


async def _read(source: int) -> bytes:
    """Return the next bytes of a terminal or a pipe; none at the end."""
    while True:
        await trio.lowlevel.wait_readable(source)
        try:
            return os.read(source, _CHUNK)
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno == errno.EIO:  # every holder of the terminal's other side has closed
                return b""
            raise


async def _passed_on(sock: trio.socket.SocketType, data: bytes) -> bool:
    """Send bytes to the host; return whether it is still there."""
    try:
        await _send_all(sock, data)
    except OSError as error:
        if is_gone(error):
            return False
        raise
    return True


async def _send_all(sock: trio.socket.SocketType, data: bytes) -> None:
    with memoryview(data) as view:
        sent = 0
        while sent < len(data):
            sent += await sock.send(view[sent:])


async def _end(sock: trio.socket.SocketType) -> None:
    """End an output stream in the two steps that the module's text describes."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        with trio.move_on_after(_LINGER_S):
            while await sock.recv(_CHUNK):
                pass
    sock.close()
