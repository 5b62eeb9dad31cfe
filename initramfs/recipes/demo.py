"""``make run``: everything from a fresh machine to a cat in a utility VM.

It will not know how a VM is run: ``gcsctl`` does.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from initramfs.recipes.engine import Engine

IMAGE = "build/nyancat"
#: Without a terminal nyancat has no size to go by and no key that ends it: so many frames, of
#: a size that fits a log. The other flags keep its clock and its title out of it.
FRAMES = ("nyancat", "-n", "-s", "-e", "-f", "20", "-W", "64", "-H", "24")


def command(repo: Path, *, terminal: bool) -> list[str]:
    """Return what shows the cat: animated in a terminal, or a fixed number of frames."""
    gcsctl = [str(repo / ".venv/bin/gcsctl"), "run", "--rm"]
    image = str(repo / IMAGE)
    return [*gcsctl, "-it", image] if terminal else [*gcsctl, image, *FRAMES]


def run(engine: Engine) -> int:
    """Run the image; return the container's exit status."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    argv = command(engine.repo, terminal=terminal)
    engine.progress.say(f"→ {' '.join(argv)}")
    started = time.monotonic()
    process = subprocess.Popen(argv)

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.terminate()

    def leave(number: int, frame: FrameType | None) -> None:
        """Do nothing: the terminal has told the program itself, which then tidies up."""

    # Handlers, not SIG_IGN, which the program would have inherited.
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, leave),
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
        signal.SIGHUP: signal.signal(signal.SIGHUP, pass_on),
    }
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    engine.progress.note("run", time.monotonic() - started, f"exit status {status}")
    # A program that a signal ended has a negative status; shells say 128 + its number.
    return status if status >= 0 else 128 - status
