"""Log records as JSON lines on stderr, and nothing else there.

Hosts decode the stream record by record and give up structured logging for the life of the VM
at the first thing that is not a JSON object, so tracebacks and warnings go into a record as
well.

Source: PROTOCOL.md, "Log stream": `time` is RFC 3339, `level` one of Go's logrus names.
"""

import logging
import os
import sys
import threading
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

import msgspec

from gcs.guest.logwriter import LineWriter

__all__ = ["LEVELS", "configure", "fields", "flush"]

#: Names of the `-loglevel` flag.
LEVELS: Final = {
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}

#: The lowest level of each name of Go's; hosts refuse Python's "critical", and with it the rest
#: of the stream.
_NAMES: Final = (
    (logging.CRITICAL, "fatal"),
    (logging.ERROR, "error"),
    (logging.WARNING, "warning"),
    (logging.INFO, "info"),
)
#: What JSON readers take for an integer: a signed 64-bit number.
_MAX_INT = 2**63 - 1

_STDERR = 2
#: Where the rest of what is printed there goes: the interpreter's or the C library's last words
#: are no JSON. The kernel keeps them, and they come back as a record of its own.
_KERNEL_LOG = "/dev/kmsg"
#: Characters of a record's text: an error that quotes a whole request would drown the others.
_MAX_TEXT = 8192


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Return the `extra=` argument that puts these members into the record."""
    return {"fields": values}


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return one line; a traceback becomes a member of it."""
        time = datetime.fromtimestamp(record.created, UTC)
        members: dict[str, object] = {
            "time": time.isoformat(timespec="microseconds"),
            "level": next((name for low, name in _NAMES if record.levelno >= low), "debug"),
            "msg": _plain(_message(record)[:_MAX_TEXT]),
        }
        for key, value in getattr(record, "fields", {}).items():
            members[f"fields.{key}" if key in members else key] = _member(value)
        if record.exc_info and record.exc_info[0]:
            stack = "".join(traceback.format_exception(*record.exc_info))
            members["stack"] = _plain(stack[-_MAX_TEXT:])
        return msgspec.json.encode(members).decode()


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # arguments that don't fit: a bug, but one to be read of
        return f"{record.msg} {record.args!r}"


def _member(value: object) -> object:
    if isinstance(value, int) and abs(value) <= _MAX_INT:
        return bool(value) if isinstance(value, bool) else int(value)
    return _plain(str(value)[:_MAX_TEXT])


def _plain(text: str) -> str:
    """Return the text with an escape for what UTF-8 can't hold: paths may have any bytes."""
    return text.encode(errors="backslashreplace").decode()


def _log_uncaught(
    kind: type[BaseException], error: BaseException, stack: TracebackType | None
) -> None:
    logging.getLogger("gcs").critical("uncaught exception", exc_info=(kind, error, stack))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    error = args.exc_value or args.exc_type()
    _log_uncaught(args.exc_type, error, args.exc_traceback)


def _log_unraisable(args: "sys.UnraisableHookArgs") -> None:
    error = args.exc_value or args.exc_type()
    what = fields(where=repr(args.object), what=args.err_msg or "")
    info = (args.exc_type, error, args.exc_traceback)
    logging.getLogger("gcs").error("exception ignored", exc_info=info, extra=what)


def configure(level: str, file: str = "") -> None:
    """Send every record, warning and uncaught exception as a JSON line to stderr, or a file.

    A file is emptied first. When it can't be opened stderr is used, and that is said. Whatever
    else prints to stderr from here on prints into the kernel's log, if that is possible.
    """
    stderr = _take_stderr()
    descriptor, why_not = _descriptor(file, stderr)
    handler = LineWriter(descriptor, _lost)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=LEVELS[level], handlers=[handler])
    logging.captureWarnings(capture=True)
    # It warns of a kernel without traffic control, which nothing here uses.
    logging.getLogger("pyroute2").setLevel(logging.ERROR)
    logging.raiseExceptions = False
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable
    if why_not is not None:
        logging.getLogger("gcs").error("no log file", extra=fields(error=why_not))


def flush() -> None:
    """Wait a moment for what was said until now to be written; it blocks."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def _take_stderr() -> int:
    """Return stderr under another number, and give the old one to the kernel's log."""
    try:
        kernel = os.open(_KERNEL_LOG, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return _STDERR
    try:
        own = os.dup(_STDERR)
        os.dup2(kernel, _STDERR)
        return own
    finally:
        os.close(kernel)


def _descriptor(file: str, stderr: int) -> tuple[int, OSError | None]:
    if not file:
        return stderr, None
    try:
        return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        return stderr, error if isinstance(error, OSError) else OSError(str(error))


def _lost(count: int) -> str:
    """Return the line that stands for lines that nobody read in time."""
    text = "lines of the log left out: the host did not read"
    record = logging.LogRecord("gcs", logging.WARNING, "", 0, text, (), None)
    record.__dict__.update(fields(count=count))
    return _JsonLines().format(record)
