"""Mount options as hosts write them: words that are flags, words of propagation, and the rest.

Source: mount(8), "filesystem-independent mount options"; the list is the OCI runtime spec's,
"Mounts". What is no word of these goes to the file system as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gcs.linux.abi import MountFlag

__all__ = ["Options", "parse"]

_NONE = MountFlag(0)
#: word: (flags that it sets, flags that it clears)
_FLAGS: Final[Mapping[str, tuple[MountFlag, MountFlag]]] = MappingProxyType(
    {
        "ro": (MountFlag.RDONLY, _NONE),
        "rw": (_NONE, MountFlag.RDONLY),
        "nosuid": (MountFlag.NOSUID, _NONE),
        "suid": (_NONE, MountFlag.NOSUID),
        "nodev": (MountFlag.NODEV, _NONE),
        "dev": (_NONE, MountFlag.NODEV),
        "noexec": (MountFlag.NOEXEC, _NONE),
        "exec": (_NONE, MountFlag.NOEXEC),
        "sync": (MountFlag.SYNCHRONOUS, _NONE),
        "async": (_NONE, MountFlag.SYNCHRONOUS),
        "dirsync": (MountFlag.DIRSYNC, _NONE),
        "noatime": (MountFlag.NOATIME, MountFlag.RELATIME | MountFlag.STRICTATIME),
        "atime": (_NONE, MountFlag.NOATIME),
        "nodiratime": (MountFlag.NODIRATIME, _NONE),
        "diratime": (_NONE, MountFlag.NODIRATIME),
        "relatime": (MountFlag.RELATIME, MountFlag.NOATIME | MountFlag.STRICTATIME),
        "norelatime": (_NONE, MountFlag.RELATIME),
        "strictatime": (MountFlag.STRICTATIME, MountFlag.NOATIME | MountFlag.RELATIME),
        "nostrictatime": (_NONE, MountFlag.STRICTATIME),
        "lazytime": (MountFlag.LAZYTIME, _NONE),
        "nolazytime": (_NONE, MountFlag.LAZYTIME),
    }
)
_PROPAGATION: Final[Mapping[str, MountFlag]] = MappingProxyType(
    {
        prefix + name: flag | deep
        for prefix, deep in (("", _NONE), ("r", MountFlag.REC))
        for name, flag in (
            ("private", MountFlag.PRIVATE),
            ("shared", MountFlag.SHARED),
            ("slave", MountFlag.SLAVE),
            ("unbindable", MountFlag.UNBINDABLE),
        )
    }
)
#: Hosts pass on what stands in an OCI mount: there a disk is bound into the container, and here
#: it is mounted for that.
_MEANINGLESS = frozenset({"", "defaults", "bind", "rbind"})


@dataclass(frozen=True, slots=True)
class Options:
    """What the words of a mount come to."""

    flags: MountFlag = _NONE
    #: changes of propagation, each a call of its own after the mount
    propagation: tuple[MountFlag, ...] = ()
    #: for the file system, joined by commas
    data: str = ""


def parse(words: Sequence[str]) -> Options:
    """Sort the words; of two that contradict each other the later one counts."""
    flags, propagation, data = _NONE, list[MountFlag](), list[str]()
    for word in words:
        if word in _FLAGS:
            sets, clears = _FLAGS[word]
            flags = flags & ~clears | sets
        elif word in _PROPAGATION:
            propagation.append(_PROPAGATION[word])
        elif word not in _MEANINGLESS:
            data.append(word)
    return Options(flags, tuple(propagation), ",".join(data))
