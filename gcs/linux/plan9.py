"""Mount a host's folder over a connection that speaks 9P2000.L.

The kernel keeps the connection for as long as the mount is there; when it breaks, everything on
the mount fails with EIO and nothing waits.

Source: Documentation/filesystems/9p.rst; net/9p/trans_fd.c.
Needs: CONFIG_9P_FS, CONFIG_NET_9P, CONFIG_NET_9P_FD
"""

import errno
from typing import Final

from gcs.linux import abi, mounts, syscall
from gcs.linux.undo import Undo

__all__ = ["CACHES", "mount"]

_TARGET_MODE = 0o700
#: How the guest may cache, from not at all to without ever asking whether the host has changed
#: something. Source: 9p.rst, `cache`.
CACHES: Final = ("none", "readahead", "mmap", "loose")
#: The largest message: what the servers in use take at most.
_MESSAGE_SIZE = 65536


def mount(
    fd: int,
    target: str,
    share: str,
    *,
    readonly: bool,
    cache: str = CACHES[0],
    outer: Undo | None = None,
) -> None:
    """Mount what is served at the other end of a socket.

    Makes the target, and removes it again when it fails if it made it. The descriptor may be
    closed afterwards. Raises EINVAL for a share's name that options can't hold.
    """
    if "," in share or cache not in CACHES:
        raise OSError(errno.EINVAL, f"mount 9p {share} on {target}: cache={cache}")
    data = (
        f"trans=fd,rfdno={fd},wfdno={fd},version=9p2000.L,msize={_MESSAGE_SIZE},"
        f"cache={cache},access=any,uname=root"
    )
    if share:
        data += f",aname={share}"
    flags = abi.MountFlag.RDONLY if readonly else abi.MountFlag(0)
    with mounts.mounting(target, _TARGET_MODE, outer) as undo:
        syscall.mount(target, target, "9p", flags, data)
        undo.add(syscall.umount, target)
