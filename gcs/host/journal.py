"""The service's log: one JSON object a line, in its state folder, the newest of it.

Guests have a say in it (an error's text is theirs), so it is bounded as theirs are.

Source: the members are those of the agent's log, so that one reader serves both.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from gcs.host.logfile import LogFile

__all__ = ["open_journal"]

#: What every record has; the rest was given as `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Lines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
        }
        extra = {key: value for key, value in vars(record).items() if key not in _OWN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps({**extra, **line}, default=str)


class _Handler(logging.Handler):
    """Writes lines to a log file."""

    def __init__(self, file: LogFile) -> None:
        super().__init__()
        self._file = file
        self.setFormatter(_Lines())

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; what can't be formatted is told as logging does it, on stderr."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - an odd record must not end who logs it
            self.handleError(record)
        else:
            self._file.write(f"{line}\n".encode())


@contextmanager
def open_journal(path: Path) -> Iterator[None]:
    """Send the log of gcs.host to a file for the length of the block."""
    logger = logging.getLogger("gcs.host")
    file = LogFile(path)
    handler = _Handler(file)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        file.close()
