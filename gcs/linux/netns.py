"""Network namespaces by file descriptor: a namespace lives as long as somebody holds one.

They have no names and no mounts, so nothing is left of one whose holders are gone. A thread
that has moved into a namespace would take whatever runs in it later along, and what it starts:
so each piece of work gets a thread of its own, which ends with it.

Source: network_namespaces(7), setns(2).
Needs: CONFIG_NET, CAP_SYS_ADMIN
"""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from gcs.linux import abi, syscall

__all__ = ["create", "enter", "of_process", "run"]

T = TypeVar("T")


def create() -> int:
    """Return a descriptor of a new namespace, in which even loopback is down."""
    return _in_own_thread(_unshared)


def _unshared() -> int:
    syscall.unshare(abi.CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def of_process(pid: int) -> int:
    """Return a descriptor of the namespace that a process is in."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def run(netns: int, work: Callable[[], T]) -> T:
    """Return what the work returns, done in a namespace; it raises what the work raises."""

    def inside() -> T:
        enter(netns)
        return work()

    return _in_own_thread(inside)


def enter(netns: int) -> None:
    """Move the thread that `run` has made on to another namespace."""
    syscall.setns(netns, abi.CLONE_NEWNET)


def _in_own_thread(work: Callable[[], T]) -> T:
    results, failures = list[T](), list[BaseException]()

    def keep_outcome() -> None:
        try:
            results.append(work())
        except BaseException as failure:  # noqa: BLE001 - raised in the thread that waits
            failures.append(failure)

    thread = threading.Thread(target=keep_outcome, name="namespace")
    thread.start()
    thread.join()
    for failure in failures:
        raise failure
    return results[0]
