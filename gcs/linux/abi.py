"""Numbers of the kernel's interface that the standard library lacks.

Only what is used here. Each block names the header that it is from.
"""

from enum import IntEnum, IntFlag
from typing import Final

__all__ = [
    "CLONE_NEWNET",
    "FSCONFIG_VALUE_MAX",
    "FSMOUNT_CLOEXEC",
    "FSOPEN_CLOEXEC",
    "MNT_DETACH",
    "MOUNT_ATTR_RDONLY",
    "MOVE_MOUNT_F_EMPTY_PATH",
    "NETLINK_KOBJECT_UEVENT",
    "OVERLAY_OPTIONS_MAX",
    "PR_SET_CHILD_SUBREAPER",
    "SPLICE_F_MOVE",
    "SPLICE_F_NONBLOCK",
    "STATX_ATTR_DAX",
    "UMOUNT_NOFOLLOW",
    "FsConfig",
    "MountFlag",
]


class MountFlag(IntFlag):
    """Flags of mount(2). Source: linux/mount.h."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    SYNCHRONOUS = 16
    REMOUNT = 32
    DIRSYNC = 128
    NOATIME = 1024
    NODIRATIME = 2048
    BIND = 4096
    REC = 16384
    UNBINDABLE = 1 << 17
    PRIVATE = 1 << 18
    SLAVE = 1 << 19
    SHARED = 1 << 20
    RELATIME = 1 << 21
    STRICTATIME = 1 << 24
    LAZYTIME = 1 << 25


class FsConfig(IntEnum):
    """Commands of fsconfig(2). Source: enum fsconfig_command in linux/mount.h."""

    SET_FLAG = 0
    SET_STRING = 1
    CREATE = 6


# linux/mount.h
FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
MOUNT_ATTR_RDONLY: Final = 1
MOVE_MOUNT_F_EMPTY_PATH: Final = 4

#: Bytes of one option's value. Source: strndup_user(_value, 256) in fsconfig(), fs/fsopen.c,
#: which counts the terminating zero.
FSCONFIG_VALUE_MAX: Final = 256 - 1


# linux/fs.h
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

# linux/splice.h
SPLICE_F_MOVE: Final = 1
SPLICE_F_NONBLOCK: Final = 2

# linux/sched.h
CLONE_NEWNET: Final = 0x40000000

# linux/prctl.h
PR_SET_CHILD_SUBREAPER: Final = 36

# linux/netlink.h
NETLINK_KOBJECT_UEVENT: Final = 15

# linux/stat.h
STATX_ATTR_DAX: Final = 0x00200000

#: mount(2) copies one page of options and cuts the rest off without a word. Source:
#: copy_mount_options() in fs/namespace.c; the last byte is its terminating zero.
OVERLAY_OPTIONS_MAX: Final = 4096 - 1
