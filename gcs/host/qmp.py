"""The QEMU machine protocol, as much of it as a VM needs: commands, replies, events.

One JSON object a line. Commands are answered in order; events come in between. The socket is
one half of a pair that QEMU inherited: no path, nobody else can connect, and QEMU's death is
its end.

Source: QEMU's docs/interop/qmp-spec.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import msgspec
import trio

from gcs.errors import DisconnectedError, GcsError, RemoteProtocolError
from gcs.host.background import open_background
from gcs.host.deadline import deadline

__all__ = ["Qmp", "QmpError", "QmpEvent", "open_qmp"]

#: QEMU greets within 0.2 s; most of it is loading its libraries.
_READY_S = 30.0
#: QEMU answers what is asked here in milliseconds. Its main loop may stand still while it waits
#: for the program behind its vsock device, and a machine under load may be slow; a minute is
#: for both.
_ANSWER_S = 60.0
#: The longest line taken; the longest of what is asked here and of the events has a few hundred
#: bytes.
_MAX_LINE = 64 * 1024
#: Events kept for those who come to wait for one; older ones are dropped. A VM that is set up
#: and taken down has about two dozen. A guest can cause some (RTC_CHANGE): at the longest line
#: they take 16 MiB.
_EVENTS = 256
#: What an error shows of a line that makes no sense.
_SHOWN = 200


class QmpError(GcsError):
    """QEMU refused a command; holds what was asked and what was answered."""

    def __init__(self, command: str, arguments: Mapping[str, object], text: str) -> None:
        super().__init__(f"QEMU {command}: {text}")
        self.command = command
        self.arguments = arguments
        self.text = text


class _Greeting(msgspec.Struct):
    """The first line of QEMU."""

    QMP: dict[str, object]


class _Error(msgspec.Struct):
    """Why a command was refused."""

    desc: str
    error_class: str = msgspec.field(name="class", default="")


class _Line(msgspec.Struct):
    """Any later line: a reply (return or error) or an event."""

    result: object = msgspec.field(name="return", default=msgspec.UNSET)
    error: _Error | None = None
    event: str = ""
    data: dict[str, object] = {}


@dataclass(frozen=True, slots=True)
class QmpEvent:
    """Something that QEMU says unasked."""

    name: str
    data: Mapping[str, object]


@dataclass(slots=True)
class _Command:
    """A command that waits for its answer."""

    answered: trio.Event = field(default_factory=trio.Event)
    line: _Line | None = None


class Qmp:
    """The asking side of a monitor; made by `open_qmp`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._lock = trio.Lock()
        self._buffer = bytearray()
        self._waiting: list[_Command] = []
        self._events: list[QmpEvent] = []
        self._news = trio.Condition()
        self._cause = "QEMU closed the monitor"
        #: set when the monitor has ended
        self.ended = trio.Event()

    async def execute(self, command: str, **arguments: object) -> object:
        """Run a command and return its answer; `_` in an argument's name stands for `-`.

        Raises QmpError when QEMU refuses it, DisconnectedError when QEMU ends before the
        answer, DeadlineError when no answer comes. Cancelling is safe: the answer is dropped
        when it comes.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        request = msgspec.json.encode({"execute": command, "arguments": named}) + b"\n"
        waiting = _Command()
        async with self._lock:
            if self.ended.is_set():
                raise DisconnectedError(f"QEMU {command}: {self._cause}")
            self._waiting.append(waiting)
            # A cut command would spoil the stream for all others. It is short, the socket's
            # buffer is not, so this shield holds for no longer than QEMU needs to read.
            with trio.move_on_after(_ANSWER_S, shield=True) as sending:
                await self._send(request)
            if sending.cancelled_caught:
                # Half a command is on its way, so nothing can be said after it.
                await trio.aclose_forcefully(self._stream)
        with deadline(_ANSWER_S, f"QEMU {command}: its answer"):
            await waiting.answered.wait()
        if waiting.line is None:
            raise DisconnectedError(f"QEMU {command}: {self._cause}")
        if waiting.line.error is not None:
            raise QmpError(command, named, waiting.line.error.desc)
        return waiting.line.result

    async def _send(self, request: bytes) -> None:
        # The reader sees the same end, and tells everybody.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.send_all(request)

    async def wait_event(self, name: str, **data: object) -> QmpEvent:
        """Take the first event of that name whose data has these members, waiting for it.

        Raises DisconnectedError when QEMU ends first.
        """
        async with self._news:
            while True:
                for event in self._events:
                    if event.name == name and data.items() <= event.data.items():
                        self._events.remove(event)
                        return event
                if self.ended.is_set():
                    raise DisconnectedError(f"QEMU event {name}: {self._cause}")
                await self._news.wait()

    async def read(self) -> None:
        """Read until QEMU ends, then let go of everybody who waits."""
        try:
            while line := await self._read_line():
                await self._take(_decode(line, _Line))
        except (
            RemoteProtocolError,
            trio.BrokenResourceError,
            trio.ClosedResourceError,
        ) as error:
            self._cause = str(error) or self._cause
        self.ended.set()
        for waiting in self._waiting:
            waiting.answered.set()
        async with self._news:
            self._news.notify_all()

    async def greet(self) -> None:
        """Take the greeting and leave negotiation mode; before anything else, once.

        Raises RemoteProtocolError when it is not QEMU that speaks, DisconnectedError when QEMU
        ends first.
        """
        line = await self._read_line()
        if not line:
            raise DisconnectedError(f"QEMU greeting: {self._cause}")
        _decode(line, _Greeting)

    async def _read_line(self) -> bytes:
        """Return the next line, or nothing at the end."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _MAX_LINE:
                raise RemoteProtocolError(f"QEMU sent a line of more than {_MAX_LINE} bytes")
            data = await self._stream.receive_some()
            if not data:
                return b""
            self._buffer += data
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    async def _take(self, line: _Line) -> None:
        if line.event:
            async with self._news:
                self._events = [*self._events[1 - _EVENTS :], QmpEvent(line.event, line.data)]
                self._news.notify_all()
        elif not self._waiting:
            raise RemoteProtocolError("QEMU answered what was not asked")
        else:
            waiting = self._waiting.pop(0)
            waiting.line = line
            waiting.answered.set()


def _decode(line: bytes, kind: type[_Line] | type[_Greeting]) -> _Line:
    try:
        decoded = msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"QEMU sent {line[:_SHOWN]!r}: {error}") from error
    return decoded if isinstance(decoded, _Line) else _Line()


@asynccontextmanager
async def open_qmp(stream: trio.abc.Stream) -> AsyncIterator[Qmp]:
    """Serve a monitor for the length of the block; the stream is closed after it."""
    qmp = Qmp(stream)
    try:
        with deadline(_READY_S, "QEMU greeting"):
            await qmp.greet()
        async with open_background() as nursery:
            nursery.start_soon(qmp.read)
            with deadline(_READY_S, "QEMU qmp_capabilities"):
                await qmp.execute("qmp_capabilities")
            yield qmp
    finally:
        await trio.aclose_forcefully(stream)
