"""Make one step of a running agent fail, by its number, without the agent's knowing.

The steps are what Python's audit events announce: the mount calls of gcs.linux.syscall, folders
and links that are made and removed, programs that are started, devices that are opened. Nothing
lists them, so a new step is one more that a test goes through.

In the agent: `install(folder)`. In the test: `Faults(folder)`.
"""

import errno
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

__all__ = ["INJECTED", "Faults", "install"]

INJECTED = "made to fail"
_STEPS = {
    "gcs.ioctl",
    "gcs.mount",
    "open",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "socket.connect",
    "subprocess.Popen",
}
#: Of these, only steps on files that are the host's business.
_OF_PATHS = {"open", "os.mkdir", "os.remove", "os.rmdir"}
_PATHS = ("/dev/", "/proc/self/mountinfo", "/run/")


def _armed(folder: Path) -> Path:
    return folder / "armed"


def _log(folder: Path) -> Path:
    return folder / "steps"


@dataclass(frozen=True)
class Faults:
    """The test's end."""

    folder: Path

    def arm(self, number: int) -> None:
        """Let the step of that number fail, from 0."""
        _log(self.folder).write_text("")
        _armed(self.folder).write_text(str(number))

    def disarm(self) -> list[str]:
        """Let nothing fail; return the steps since `arm`."""
        _armed(self.folder).unlink(missing_ok=True)
        return _log(self.folder).read_text().splitlines()


def install(folder: str) -> None:
    """Watch this process from here on."""
    here = threading.local()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in _STEPS or getattr(here, "is_watching", False):
            return
        is_ours = event not in _OF_PATHS or str(arguments[0]).startswith(_PATHS)
        if not is_ours:
            return
        here.is_watching = True
        try:
            _step(Path(folder), f"{event} {arguments[:2]}")
        finally:
            here.is_watching = False

    sys.addaudithook(hook)


def _step(folder: Path, what: str) -> None:
    armed = _armed(folder)
    if not armed.exists():
        return
    with _log(folder).open("a") as log:
        log.write(f"{what}\n")
    left = int(armed.read_text())
    if left > 0:
        armed.write_text(str(left - 1))
        return
    armed.unlink()
    raise OSError(errno.EIO, f"{what}: {INJECTED}")
