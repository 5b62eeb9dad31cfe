"""Run the commands of a build step by step, and show where it stands.

It will not decide what is built. A step is shown while it runs (its name, the time so far
and the last line of its log on a terminal; a line at its start and end elsewhere); a failing
step says which command failed, why, and where its log is.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

#: Redraws per second: often enough to look alive, seldom enough to cost nothing.
REDRAW_S = 0.2
#: How long a killed command may take to tidy up before it is killed outright.
KILL_GRACE_S = 5.0
#: How much of the end of a log is searched for its last line.
LOG_TAIL_BYTES = 4096


class StepError(Exception):
    """A step of the build failed; the message is one sentence with a way out."""


def interrupt_on_sigterm() -> None:
    """Make SIGTERM and SIGHUP end the build as Ctrl-C does, so that it tidies up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)


@dataclass(slots=True, kw_only=True)
class Step:
    """One step that is running: what its commands are shown and logged as."""

    name: str
    log: Path
    terminal: bool
    started: float = field(default_factory=time.monotonic)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: Path | None = None,
        foreground: bool = False,
    ) -> None:
        """Run one command to its end, its output in the log (or its stdout in a file).

        In the foreground it keeps the terminal, so that sudo can ask for a password; its
        progress is not drawn then.

        Raises:
            StepError: when it cannot be started or its exit status is not 0.
        """
        words = [str(word) for word in argv]
        with self.log.open("ab") as log, contextlib.ExitStack() as files:
            log.write(f"$ {shlex.join(words)}\n".encode())
            log.flush()
            out = files.enter_context(stdout.open("wb")) if stdout else log
            try:
                # A group of its own: Ctrl-C reaches us alone, and we end the whole group.
                process = subprocess.Popen(
                    words,
                    cwd=cwd,
                    env=dict(os.environ) | dict(env or {}),
                    stdin=None if foreground else subprocess.DEVNULL,
                    stdout=out,
                    stderr=log,
                    start_new_session=not foreground,
                )
            except OSError as error:
                raise StepError(f"{self.name}: cannot start {words[0]}: {error}") from error
            try:
                self._wait(process, draw=self.terminal and not foreground)
            except BaseException:
                _end(process, whole_group=not foreground)
                raise
        if process.returncode != 0:
            raise StepError(
                f"{self.name}: {Path(words[0]).name} ended with status "
                f"{process.returncode}: {last_line(self.log) or 'no output'} (log: {self.log})"
            )

    def _wait(self, process: subprocess.Popen[bytes], *, draw: bool) -> None:
        while True:
            if draw:
                self._draw()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(REDRAW_S if draw else None)
                return

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        elapsed = time.monotonic() - self.started
        text = f"  … {self.name} {elapsed:5.0f} s  {last_line(self.log)}"
        print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)


def _end(process: subprocess.Popen[bytes], *, whole_group: bool) -> None:
    """End a command and, in a group of its own, everything it started."""
    send = os.killpg if whole_group else os.kill
    with contextlib.suppress(ProcessLookupError):
        send(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_GRACE_S)
    # Also for those of the group that outlived its leader.
    with contextlib.suppress(ProcessLookupError):
        send(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: Path) -> str:
    """Return the last printable line of a log, or nothing."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        tail = stream.read().decode(errors="replace")
    for line in reversed(tail.replace("\r", "\n").splitlines()):
        if line.strip():
            return "".join(c for c in line.strip() if c.isprintable())
    return ""


class Progress:
    """What the user sees of a build: one line a step, and a table of times at its end."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self._times: list[tuple[str, float, str]] = []

    def say(self, text: str) -> None:
        """Show one line, above the step that is running."""
        start = "\r\x1b[K" if self.terminal else ""
        print(f"{start}{text}", file=sys.stderr, flush=True)

    def found(self, name: str) -> None:
        """Note a step whose result was there already."""
        if name not in (known for known, _, _ in self._times):
            self._times.append((name, 0.0, "there already"))

    def note(self, name: str, took_s: float, outcome: str) -> None:
        """Note what was timed elsewhere."""
        self._times.append((name, took_s, outcome))

    @contextlib.contextmanager
    def step(self, name: str, log: Path) -> Iterator[Step]:
        """Show a step while the block runs, and note the time it took."""
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        step = Step(name=name, log=log, terminal=self.terminal)
        self.say(f"→ {name}")
        outcome = "failed"
        try:
            yield step
            outcome = "done"
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        finally:
            took = time.monotonic() - step.started
            self._times.append((name, took, outcome))
            self.say(f"{'✓' if outcome == 'done' else '✗'} {name}: {outcome}, {took:.1f} s")

    def table(self) -> str:
        """Return what each step took, as text."""
        width = max((len(name) for name, _, _ in self._times), default=0)
        return "\n".join(
            f"  {name:<{width}}  {took:7.1f} s  {outcome}"
            for name, took, outcome in self._times
        )
