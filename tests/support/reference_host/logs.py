"""The log stream of a guest, as hosts read it: JSON objects, and an end at anything else."""

import json
from datetime import datetime

from tests.support.reference_host.frames import BridgeKilledError

__all__ = ["decode_log"]

_LEVELS = {"panic", "fatal", "error", "warning", "warn", "info", "debug", "trace"}


def decode_log(stream: bytes) -> list[dict[str, object]]:
    """Return the records of a whole stream; a last line may be cut."""
    whole, _, _ = stream.rpartition(b"\n")
    return [_record(line) for line in whole.splitlines()]


def _record(line: bytes) -> dict[str, object]:
    try:
        record = json.loads(line.decode())
        datetime.fromisoformat(record["time"])
    except (ValueError, KeyError, TypeError) as error:
        raise BridgeKilledError(f"structured logging ends at {line!r}") from error
    if record.get("level", "info") not in _LEVELS or not isinstance(record.get("msg"), str):
        raise BridgeKilledError(f"no record: {line!r}")
    return {str(name): value for name, value in record.items()}
