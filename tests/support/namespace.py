"""A namespace of its own for a block of a test, in the same process.

What is mounted in the block is gone with it. Only the calling thread moves, and the threads
that it starts meanwhile; so the test can look at everything with plain assertions.

Needs: CAP_SYS_ADMIN
"""

import ctypes
import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gcs.linux import abi, netns, syscall
from gcs.linux.abi import MountFlag

__all__ = ["private_mounts", "private_network"]

#: Source: linux/sched.h
_CLONE_NEWNS = 0x00020000
_GONE_S, _RETRY_S = 5.0, 0.001


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = getattr(libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name} {arguments}: {os.strerror(number)}")


def _return(outer: int) -> None:
    """Move back to a mount namespace.

    The kernel refuses while a thread shares our working folder, and one that has been joined
    takes a moment to be gone there too.
    """
    deadline = time.monotonic() + _GONE_S
    while True:
        try:
            _call("setns", outer, _CLONE_NEWNS)
        except OSError as error:
            if error.errno != errno.EINVAL or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)
        else:
            return


@contextmanager
def private_mounts() -> Iterator[None]:
    """Run the block in a mount namespace from which nothing gets out."""
    folder = Path.cwd()
    outer = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("unshare", _CLONE_NEWNS)
        try:
            syscall.mount("none", "/", None, MountFlag.REC | MountFlag.PRIVATE)
            yield
        finally:
            _return(outer)
            os.chdir(folder)
    finally:
        os.close(outer)


@contextmanager
def private_network() -> Iterator[None]:
    """Run the block in a network namespace that has nothing but loopback, which is down."""
    outer = netns.of_process(os.getpid())
    try:
        syscall.unshare(abi.CLONE_NEWNET)
        try:
            yield
        finally:
            netns.enter(outer)
    finally:
        os.close(outer)
