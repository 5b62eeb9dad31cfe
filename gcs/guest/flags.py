"""The agent's command line.

Hosts in use pass the flags in Go's style (`-flag`, `-flag=value`, `-flag value`, one dash or
two). No command line ends the agent, because an agent that exits takes its VM with it: flags
that are not known are ignored, values that can't be read are replaced by the default, and both
are said.

Source: PROTOCOL.md, "Flags of the agent".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gcs.guest import log

__all__ = ["DEFAULTS", "Options", "parse"]

#: Every flag and its default, a text. argparse would take a thirtieth of the agent's start.
DEFAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # version 4 is always on
        "v4": "true",
        # panic, fatal, error, warning, info, debug or trace
        "loglevel": "info",
        # there is no other
        "log-format": "json",
        # log into this file, not to stderr
        "logfile": "",
        # not possible
        "use-inouterr": "false",
        # the kernel's core_pattern
        "core-dump-location": "",
        # log the kernel's messages up to this priority
        "kmsgLogLevel": "4",
        # memory that is kept away from containers
        "root-mem-reserve-bytes": "",
        # warn when the agent has more memory
        "gcs-mem-limit-bytes": "52428800",
        # leave the clock alone
        "disable-time-sync": "false",
        # messages are never logged
        "scrub-logs": "true",
        # allow, or deny: refuse every request
        "initial-policy-stance": "allow",
        # power off after so many seconds without a bridge
        "power-off-after": "0",
        # runc or crun
        "runtime": "runc",
        # dial unix sockets in this folder, not vsock
        "unix": "",
    }
)
#: Flags that turn something on by themselves; any other without a value has its default.
_SWITCHES = frozenset({"use-inouterr", "disable-time-sync"})

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


def parse(argv: Sequence[str]) -> Options:
    """Read the flags; nothing is refused."""
    texts, unknown = _texts(argv)
    read = _Reader(texts)
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


def _texts(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the value of each flag, and the words that belong to none."""
    texts, unknown = dict(DEFAULTS), list[str]()
    #: the flag that the next word may be the value of
    open_flag = ""
    for word in argv:
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--" if flag.startswith("--") else "-")
        if open_flag and not word.startswith("-"):
            texts[open_flag], open_flag = word, ""
        elif name == flag or name not in DEFAULTS:
            unknown.append(word)
            open_flag = ""
        else:
            bare = "true" if name in _SWITCHES else DEFAULTS[name]
            texts[name], open_flag = (value, "") if equals else (bare, name)
    return texts, unknown


class _Reader:
    """The flags' texts, read as what they should be; `complaints` collects what was not."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
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
        used = otherwise or DEFAULTS[name]
        self.complaints.append(
            f"-{name}: {self._texts[name]!r} is not possible, {used!r} is used"
        )
        return used
