"""What gcsctl shows: progress and failures on stderr, lists on stdout.

All that comes from a guest, an image or another program is made printable first.
"""

import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gcs.host.terminal import printable
from gcs.wire.control import DescribeReply, Progress, ProgressState, ServiceState

if TYPE_CHECKING:
    from rich.status import Status

__all__ = [
    "ProgressDisplay",
    "ago",
    "say_failure",
    "show_containers",
    "show_table",
    "size_text",
    "write_line",
]

_COLUMNS = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES")
#: Last, and only where there is something to show in it.
_POD_COLUMN = "POD"
#: Of an id, as everywhere.
_SHORT = 12
#: Of a command in a list.
_COMMAND = 24
#: Wide enough for any line where there is no terminal to fit.
_PIPE_WIDTH = 10_000
#: Seconds in a unit, largest first.
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


def say_failure(text: str) -> None:
    """Say on stderr what went wrong, in one line."""
    print(f"gcsctl: {printable(text)}", file=sys.stderr)


def write_line(text: str) -> None:
    """Write a line that programs may read, at once."""
    print(text, flush=True)


class ProgressDisplay:
    """Progress on stderr: one live line on a terminal, plain lines with -v, else nothing."""

    def __init__(self, *, verbose: bool) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._verbose = verbose
        self._live: Status | None = None
        self._open: list[str] = []
        self._is_over = False

    def say(self, text: str) -> None:
        """Say something that stays."""
        self._console.print(escape(printable(text)), style="dim")

    def show(self, progress: Progress | None) -> None:
        """Show a step; None: the container speaks from now on."""
        if progress is None:
            self._is_over = True
            self.stop()
            return
        if progress.state is ProgressState.BEGUN:
            self._open.append(progress.step)
        elif progress.state is ProgressState.DONE and progress.step in self._open:
            self._open.remove(progress.step)
        if self._verbose:
            self._print(progress)
        elif self._console.is_terminal and not self._is_over:
            self._update(progress.detail)

    def _print(self, progress: Progress) -> None:
        if progress.state is ProgressState.DONE:
            self.say(f"{progress.step}: {progress.milliseconds / 1000:.2f} s")
        elif progress.detail:
            self.say(f"{progress.step}: {progress.detail}")

    def _update(self, detail: str) -> None:
        text = escape(printable(", ".join(self._open) + (f" ({detail})" if detail else "")))
        if self._live is None:
            self._live = self._console.status(text)
            self._live.start()
        else:
            self._live.update(text)

    def stop(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


# -- lists -------------------------------------------------------------------------------------


def show_containers(containers: Sequence[DescribeReply], form: str) -> None:
    """Write a list to stdout, newest first; `form` is "table", "ids" or "json"."""
    newest_first = sorted(containers, key=lambda each: -each.created_at)
    if form == "ids":
        for each in newest_first:
            write_line(each.container_id[:_SHORT])
    elif form == "json":
        for each in newest_first:
            write_line(msgspec.json.encode(each).decode())
    else:
        _show_containers(newest_first)


def _show_containers(containers: Sequence[DescribeReply]) -> None:
    if any(each.pod for each in containers):
        rows = [(*_cells(each), each.pod) for each in containers]
        show_table((*_COLUMNS, _POD_COLUMN), rows)
    else:
        show_table(_COLUMNS, map(_cells, containers))


def _cells(each: DescribeReply) -> Sequence[str]:
    return (
        each.container_id[:_SHORT],
        each.image,
        _shortened(shlex.join(each.command)),
        ago(each.created_at),
        _status(each, round(time.time())),
        each.name,
    )


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write rows to stdout below a header, made printable."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="")
    for name in columns:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    console.print(table)


def size_text(size: int) -> str:
    """Return a number of bytes for a person, as "12.3 MB"."""
    for exponent, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if size >= 10**exponent:
            return f"{size / 10**exponent:.1f} {unit}"
    return f"{size} B"


def ago(moment: int) -> str:
    """Return how long ago something was, of a second of the Unix epoch."""
    return f"{_duration(round(time.time()) - moment)} ago"


def _shortened(command: str) -> str:
    return command if len(command) <= _COMMAND else f"{command[: _COMMAND - 1]}…"


def _status(each: DescribeReply, now: int) -> str:
    ago = f"{_duration(now - each.finished_at)} ago"
    match each.state:
        case ServiceState.STARTING:
            return "Starting"
        case ServiceState.RUNNING:
            return f"Up {_duration(now - each.started_at)}"
        case ServiceState.EXITED:
            return f"Exited ({each.exit_status}) {ago}"
        case ServiceState.FAILED:
            return f"Failed {ago}: {each.error}" if each.finished_at else each.error


def _duration(seconds: int) -> str:
    """Return a time span in its largest unit, as "5 minutes"."""
    for name, size in _UNITS:
        count = max(seconds, 0) // size
        if count:
            return f"{count} {name}{'' if count == 1 else 's'}"
    return "less than a second"
