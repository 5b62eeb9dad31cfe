"""Mount a host's folder, or a file, over a connection that speaks 9P2000.L.

The kernel keeps the connection for as long as the mount is there; when it breaks, everything on
the mount fails with EIO and nothing waits. Since 6.9 what is mounted may be a file.

Source: Documentation/filesystems/9p.rst; net/9p/trans_fd.c.
Needs: CONFIG_9P_FS, CONFIG_NET_9P, CONFIG_NET_9P_FD
"""

import errno
from dataclasses import dataclass
from typing import Final

from gcs.linux import abi, mounts, syscall
from gcs.linux.undo import Undo

__all__ = ["CACHES", "Share", "mount"]

_TARGET_MODE = 0o700
#: How the guest may cache, from not at all to without ever asking whether the host has changed
#: something. Source: 9p.rst, `cache`.
CACHES: Final = ("none", "readahead", "mmap", "loose")
#: The largest message: what the servers in use take at most.
_MESSAGE_SIZE = 65536


@dataclass(frozen=True, slots=True)
class Share:
    """What a server has, and how it is mounted."""

    #: the server's name for it
    name: str
    readonly: bool = False
    cache: str = CACHES[0]
    #: whether it is no folder
    is_file: bool = False


def mount(fd: int, target: str, share: Share, outer: Undo | None = None) -> None:
    """Mount what is served at the other end of a socket.

    Makes the target, and removes it again when it fails if it made it. The descriptor may be
    closed afterwards. Raises EINVAL for a share's name that options can't hold, EEXIST when
    there is anything where a file is to be mounted.
    """
    if "," in share.name or share.cache not in CACHES:
        text = f"mount 9p {share.name} on {target}: cache={share.cache}"
        raise OSError(errno.EINVAL, text)
    data = (
        f"trans=fd,rfdno={fd},wfdno={fd},version=9p2000.L,msize={_MESSAGE_SIZE},"
        f"cache={share.cache},access=any,uname=root"
    )
    if share.name:
        data += f",aname={share.name}"
    flags = abi.MountFlag.RDONLY if share.readonly else abi.MountFlag(0)
    with mounts.mounting(target, _TARGET_MODE, outer, is_file=share.is_file) as undo:
        syscall.mount(target, target, "9p", flags, data)
        undo.add(syscall.umount, target)
