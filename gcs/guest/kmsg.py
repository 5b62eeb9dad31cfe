"""Pass the kernel's own messages on into the log, at a bounded rate.

Source: Documentation/ABI/testing/dev-kmsg: a read is one record,
`priority,sequence,microseconds,flags[,…];text`, with lines of ` KEY=value` behind.
Needs: CONFIG_PRINTK
"""

import errno
import logging
import os
from dataclasses import dataclass

import trio

from gcs.guest.log import fields

__all__ = ["Record", "parse", "relay", "run"]

_log = logging.getLogger("gcs.kmsg")

_DEVICE = "/dev/kmsg"
#: The kernel's own bound of a record, PRINTK_MESSAGE_MAX and its prefix; less gives EINVAL.
_RECORD_SIZE = 16 * 1024
_LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_ERR, _WARNING = 3, 4
#: A container can make the kernel talk. Of a flood a host gets the first 200 messages, as many
#: as an OOM kill or a crash has, and then 20 a second.
_BURST, _PER_SECOND = 200.0, 20.0


@dataclass(frozen=True, slots=True)
class Record:
    """One message of the kernel."""

    level: int
    facility: int
    sequence: int
    #: since the kernel started
    microseconds: int
    flags: str
    text: str


def parse(data: bytes) -> Record | None:
    """Return the record; None when it is none."""
    prefix, mark, rest = data.decode(errors="replace").partition(";")
    words = prefix.split(",")
    numbers = [int(word) for word in words[:3] if word.isascii() and word.isdigit()]
    if not mark or len(words) < 4 or len(numbers) < 3:
        return None
    priority, sequence, microseconds = numbers
    text = rest.partition("\n")[0]
    return Record(priority & 7, priority >> 3, sequence, microseconds, words[3], text)


@dataclass(slots=True)
class _Allowance:
    """How many records may go out now; it grows with time."""

    left: float = _BURST
    since: float = 0.0
    lost: int = 0

    def take(self, now: float) -> bool:
        self.left = min(_BURST, self.left + (now - self.since) * _PER_SECOND)
        self.since = now
        if self.left < 1:
            self.lost += 1
            return False
        self.left -= 1
        return True


async def run(level: int) -> None:
    """Log the kernel's messages of this priority and above, from the oldest on."""
    try:
        descriptor = os.open(_DEVICE, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        _log.warning("no messages of the kernel", extra=fields(error=error))
        return
    try:
        await relay(descriptor, level)
    finally:
        os.close(descriptor)


async def relay(descriptor: int, level: int) -> None:
    """Log the records that are read from a descriptor, until it ends or fails."""
    allowance = _Allowance(since=trio.current_time())
    while True:
        try:
            data = os.read(descriptor, _RECORD_SIZE)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(descriptor)
            continue
        except OSError as error:
            if error.errno == errno.EPIPE:  # overwritten before it was read
                continue
            _log.warning("no more messages of the kernel", extra=fields(error=error))
            return
        if not data:
            return
        _pass_on(data, level, allowance)
        await trio.lowlevel.checkpoint()


def _pass_on(data: bytes, level: int, allowance: _Allowance) -> None:
    record = parse(data)
    if record is not None and record.level > level:
        return
    if not allowance.take(trio.current_time()):
        return
    if allowance.lost:
        _log.warning("messages of the kernel left out", extra=fields(count=allowance.lost))
        allowance.lost = 0
    if record is None:
        _log.warning(
            "odd message of the kernel", extra=fields(message=data.decode(errors="replace"))
        )
        return
    _log.log(
        _python_level(record.level),
        "kmsg read",
        extra=fields(
            priority=_LEVELS[record.level],
            facility=record.facility,
            seq=record.sequence,
            timesincebootmicro=record.microseconds,
            flags=record.flags,
            message=record.text,
        ),
    )


def _python_level(level: int) -> int:
    if level <= _ERR:
        return logging.ERROR
    return logging.WARNING if level == _WARNING else logging.INFO
