"""How the output of a process gets from its pipe to the host's socket.

At rest it goes from one to the other by one splice(2). Of a busy stream that would be a turn of
Python for each 32 KiB that a vsock accepts at a time, while the host waits for more. So the
thread of a busy stream waits inside of splice(2), for all that the pipe had: the kernel then
sends packet after packet by itself.

A splice(2) that waits holds its pipe all the while: its writer could not go on, nor be killed,
and the event loop could not ask how much is in it. So the thread first takes what is there into
a pipe of our own, by references to the pages; the process fills its pipe again meanwhile.

Source: splice(2), pipe(7), SO_SNDTIMEO of socket(7).
"""

import fcntl
import logging
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from gcs.guest.log import fields
from gcs.guest.relay import Relay
from gcs.guest.replay import Replay
from gcs.guest.splice import FLAGS, THREAD_WAIT_MS, End, is_gone

__all__ = ["Passage"]

_log = logging.getLogger("gcs.passage")

#: What the two pipes of a busy stream hold, and is moved at a time: four times the default.
#: Smaller, the turns of the thread cost more; and all of it stays in memory when nobody reads.
_BYTES = 256 * 1024
#: struct timeval: how long a splice(2) waits for place, before it returns what it has moved.
_SEND_TIMEOUT = struct.pack("ll", 0, THREAD_WAIT_MS * 1000)


class Passage:
    """The way of one output stream, to one host's end after the other."""

    def __init__(self, relay: Relay, replay: Replay | None) -> None:
        """Begin at the pipe of `relay`; what is moved is remembered in `replay`."""
        self._source = relay.source
        self._relay = relay
        self._replay = replay
        self._sink = -1
        #: our pipe, both ends of it, with `relay.in_hand` bytes; made for a busy stream
        self._between: tuple[int, int] | None = None
        self._was_busy = False

    def begin(self, sock: trio.socket.SocketType) -> None:
        """Go on to this end of the host's."""
        self._sink = sock.fileno()
        # Python takes no options of a vsock's but such as are a number of 64 bits.
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=self._sink)
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
        finally:
            plain.detach()

    def close(self) -> None:
        """Forget what was not handed over."""
        between, self._between = self._between, None
        for end in between or ():
            os.close(end)

    def step(self) -> End | None:
        """Hand some bytes over: those in hand, else some from the source."""
        try:
            if self._between is not None and self._relay.in_hand:
                moved = self._splice(self._between[0])
                self._relay.hand_over(moved)
            else:
                moved = self._splice(self._source)
                self._relay.count += moved
        except OSError as error:
            if is_gone(error):
                return End.SINK
            raise
        return None if moved else End.SOURCE

    def _splice(self, source: int) -> int:
        if self._replay is not None:
            return self._replay.splice(source, self._sink)
        return os.splice(source, self._sink, _BYTES, flags=FLAGS)

    async def until_ready(self) -> None:
        """Wait for both sides, or while bytes are in hand for the host only."""
        if not self._relay.in_hand:
            await trio.lowlevel.wait_readable(self._source)
        await trio.lowlevel.wait_writable(self._sink)

    def move_busy(self) -> End | None:
        """Take what is there, and hand it over as a whole; wait for either only briefly."""
        if not self._is_prepared():
            return None
        readable = select.poll()
        readable.register(self._source, select.POLLIN)
        with _blocking(self._sink):
            while True:
                trio.from_thread.check_cancelled()
                try:
                    if not self._relay.in_hand and not self._take():
                        return End.SOURCE
                except BlockingIOError:
                    if not readable.poll(THREAD_WAIT_MS):
                        return None
                    continue
                try:
                    ended = self.step()
                except BlockingIOError:
                    return None
                if ended is not None:
                    return ended

    def _take(self) -> int:
        """Take what is there; return how much, 0 at the end. Raises BlockingIOError."""
        assert self._between is not None
        with self._relay.changing:
            taken = os.splice(self._source, self._between[1], _BYTES, flags=FLAGS)
            self._relay.in_hand += taken
        return taken

    def _is_prepared(self) -> bool:
        """Make our pipe and let the process's hold more, when the stream is busy first."""
        if not self._was_busy:
            self._was_busy = True
            try:
                self._between = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                for end in (self._between[1], self._source):
                    if fcntl.fcntl(end, fcntl.F_GETPIPE_SZ) < _BYTES:
                        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _BYTES)
            except OSError as error:
                _log.warning("a busy stream goes on slowly", extra=fields(error=error))
        return self._between is not None


@contextmanager
def _blocking(descriptor: int) -> Iterator[None]:
    os.set_blocking(descriptor, True)
    try:
        yield
    finally:
        os.set_blocking(descriptor, False)
