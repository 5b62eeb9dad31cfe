"""Find a Go and a Rust that are new enough: in PATH, or else Debian's.

It will not install anything that PATH already has in a sufficient version, and never one
from outside Debian.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from initramfs.recipes import system
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step, StepError

#: Where apt reads the backports from, once added; removed by deleting this one file.
BACKPORTS = Path("/etc/apt/sources.list.d/gcs-backports.list")


@dataclass(frozen=True, slots=True)
class Tool:
    """One compiler: what it is called and where Debian has it."""

    command: str
    #: Its own way to say its version.
    version_argument: str
    least: tuple[int, int]
    why: str
    #: Debian packages that bring it, best first, and where their command then is.
    packages: tuple[tuple[str, str], ...]
    #: Whether those packages are in Debian's backports.
    backports: bool = False


GO = Tool(
    "go",
    "version",
    # LinuxKit's go.mod says 1.21.
    (1, 21),
    "builds LinuxKit",
    (
        ("golang-1.24-go", "/usr/lib/go-1.24/bin/go"),
        ("golang-1.23-go", "/usr/lib/go-1.23/bin/go"),
        ("golang-1.22-go", "/usr/lib/go-1.22/bin/go"),
    ),
    backports=True,
)
CARGO = Tool(
    "cargo",
    "--version",
    # vhost-device-vsock 0.3.0 and what it locks: edition 2021, stabilised APIs up to 1.77.
    (1, 77),
    "builds vhost-device-vsock",
    (("cargo-web", "/usr/bin/cargo"),),
)


def find(engine: Engine, tool: Tool) -> Path:
    """Return a compiler of at least the version needed, installing Debian's if need be.

    Raises:
        StepError: when neither PATH nor Debian has one.
    """
    places = [shutil.which(tool.command), *(place for _, place in tool.packages)]
    for place in places:
        if place and _version(place, tool) >= tool.least:
            return Path(place)
    name = f"install-{tool.command}"
    with engine.progress.step(name, engine.cache.log(name)) as step:
        return _install(engine, step, tool)


def _version(place: str, tool: Tool) -> tuple[int, int]:
    try:
        argv = [place, tool.version_argument]
        text = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    except OSError:
        return (0, 0)
    return parse_version(text)


def parse_version(text: str) -> tuple[int, int]:
    """Return the first ``major.minor`` in a compiler's own words, or (0, 0)."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _install(engine: Engine, step: Step, tool: Tool) -> Path:
    least = ".".join(str(part) for part in tool.least)
    engine.progress.say(f"  installing {tool.command}, {least} or newer: {tool.why}")
    if tool.backports:
        _add_backports(step)
    for package, place in tool.packages:
        try:
            system.install(step, package)
        except StepError:
            continue
        if _version(place, tool) >= tool.least:
            return Path(place)
    raise StepError(
        f"{tool.command} {least} or newer is needed ({tool.why}) and Debian has none here: "
        f"put one into PATH (log: {step.log})"
    )


def _add_backports(step: Step) -> None:
    if BACKPORTS.exists():
        return
    line = "deb http://deb.debian.org/debian bookworm-backports main"
    script = f"echo '{line}' >{BACKPORTS}"
    step.run(system.as_root("sh", "-c", script), foreground=True)
    system.refresh_lists(step)
