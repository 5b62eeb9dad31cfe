"""The agent's command line.

Hosts in use pass the flags in Go's style (`-flag`, `-flag=value`, `-flag value`, one dash or
two). No command line ends the agent, because an agent that exits takes its VM with it: flags
that are not known are ignored, values that can't be read are replaced by the default, and both
are said.

Source: PROTOCOL.md, "Flags of the agent".
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gcs.guest import log

__all__ = ["Options", "parse", "parser"]

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
#: The largest number that a flag can mean: a signed one of 64 bits, as Go reads it.
_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the flags say."""

    loglevel: str
    logfile: str
    core_dump_location: str
    kmsg_level: int
    #: bytes, or None when the host leaves it to the agent
    root_reserve: int | None
    #: bytes; 0 is off
    agent_threshold: int
    has_time_sync: bool
    #: refuse every request
    denies: bool
    #: seconds without a bridge after which the VM is powered off; 0 is never
    power_off_after: int
    runtime: str
    unix: str
    #: what could not be understood or has no effect, for the log
    complaints: tuple[str, ...]


class _GoFlags(argparse.ArgumentParser):
    """Flags with one dash or two that can't be used wrongly: an error would end the agent."""

    def add(self, name: str, default: str, text: str, const: str | None = None) -> None:
        """Add a flag; without a value it has its default, or `const`."""
        names = (f"-{name}", f"--{name}")
        bare = default if const is None else const
        self.add_argument(*names, nargs="?", const=bare, default=default, help=text, dest=name)

    def _get_option_tuples(
        self, option_string: str
    ) -> list[tuple[argparse.Action, str, str | None]]:
        """Take no abbreviation for a flag; `allow_abbrev` is for two dashes only."""
        return []


def parser() -> argparse.ArgumentParser:
    """Return the parser; every flag is a string, with its default."""
    flags = _GoFlags("gcs", add_help=False, allow_abbrev=False)
    flags.add("v4", "true", "version 4 is always on")
    flags.add("loglevel", "info", "panic, fatal, error, warning, info, debug or trace")
    flags.add("log-format", "json", "there is no other")
    flags.add("logfile", "", "log into this file, not to stderr")
    flags.add("use-inouterr", "false", "not possible", "true")
    flags.add("core-dump-location", "", "the kernel's core_pattern")
    flags.add("kmsgLogLevel", "4", "log the kernel's messages up to this priority")
    flags.add("root-mem-reserve-bytes", "", "memory that is kept away from containers")
    flags.add("gcs-mem-limit-bytes", "52428800", "warn when the agent has more memory")
    flags.add("disable-time-sync", "false", "leave the clock alone", "true")
    flags.add("scrub-logs", "true", "messages are never logged")
    flags.add("initial-policy-stance", "allow", "allow, or deny: refuse every request")
    flags.add("power-off-after", "0", "power off after so many seconds without a bridge")
    flags.add("runtime", "runc", "runc or crun")
    flags.add("unix", "", "dial unix sockets in this folder, not vsock")
    return flags


def parse(argv: Sequence[str]) -> Options:
    """Read the flags; nothing is refused."""
    namespace, unknown = parser().parse_known_args(list(argv))
    read = _Reader({str(name): str(value) for name, value in vars(namespace).items()})
    if unknown:
        read.complaints.append(f"flags without effect here: {' '.join(unknown)}")
    return Options(
        loglevel=read.one_of("loglevel", (*log.LEVELS,)),
        logfile=read.text("logfile"),
        core_dump_location=read.text("core-dump-location"),
        kmsg_level=read.number("kmsgLogLevel"),
        root_reserve=read.optional_number("root-mem-reserve-bytes"),
        agent_threshold=read.number("gcs-mem-limit-bytes"),
        has_time_sync=not read.boolean("disable-time-sync"),
        # A word that is not known must not open what was to be closed.
        denies=read.one_of("initial-policy-stance", ("allow", "deny"), "deny") == "deny",
        power_off_after=read.number("power-off-after"),
        runtime=read.text("runtime") or "runc",
        unix=read.text("unix"),
        complaints=(*read.complaints, *read.without_effect()),
    )


class _Reader:
    """The flags' texts, read as what they should be; `complaints` collects what was not."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._defaults = {name: str(parser().get_default(name)) for name in texts}
        self.complaints: list[str] = []

    def text(self, name: str) -> str:
        return self._texts[name]

    def one_of(self, name: str, words: Sequence[str], otherwise: str = "") -> str:
        """Return the word if it is one of those, else the default or `otherwise`."""
        text = self._texts[name]
        return text if text in words else self._replaced(name, otherwise)

    def number(self, name: str) -> int:
        """Return a number from 0 on; 0 if there is neither one nor a default."""
        text = self._texts[name]
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _MAX):
            text = self._replaced(name)
        return int(text or 0)

    def optional_number(self, name: str) -> int | None:
        """Return a number from 0 on, or None when there is none that can be used."""
        before = len(self.complaints)
        number = self.number(name) if self._texts[name] else None
        return number if len(self.complaints) == before else None

    def boolean(self, name: str) -> bool:
        text = self._texts[name]
        if text not in _TRUE | _FALSE:
            text = self._replaced(name)
        return text in _TRUE

    def without_effect(self) -> Iterator[str]:
        """Yield what was asked for and is not possible."""
        if self._texts["log-format"] != "json":
            yield "-log-format: the log is always JSON lines"
        if self.boolean("use-inouterr"):
            yield "-use-inouterr: the bridge is always dialled"
        if not self.boolean("v4"):
            yield "-v4=false: version 4 is always on"

    def _replaced(self, name: str, otherwise: str = "") -> str:
        used = otherwise or self._defaults[name]
        self.complaints.append(
            f"-{name}: {self._texts[name]!r} is not possible, {used!r} is used"
        )
        return used
