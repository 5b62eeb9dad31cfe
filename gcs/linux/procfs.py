"""What /proc says of processes, memory and networks.

psutil is imported with the first list of processes: few VMs are ever asked for one, and it
would cost a fifth of the agent's start. What is asked for all the time is read by hand.

Source: proc_pid_stat(5), proc_tid_children(5), proc_pid_net(5), proc_meminfo(5),
pid_namespaces(7).
Needs: CONFIG_PROC_CHILDREN, CONFIG_PID_NS
"""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gcs.linux.kept import KeptFiles

__all__ = [
    "Interface",
    "Memory",
    "Process",
    "arguments",
    "children",
    "clock_ticks",
    "interfaces",
    "memory",
    "own_interfaces",
    "pid_namespace",
    "processes",
    "set_core_pattern",
    "start_time",
]

PROC = Path("/proc")
#: The pids of a thousand children take less.
_READ_SIZE = 8192


def children(pid: int | None = None) -> tuple[int, ...]:
    """Return the pids of a process's children, zombies included; by default of this one's."""
    found: list[int] = []
    folder = f"{PROC}/{'self' if pid is None else pid}/task"
    for thread in os.listdir(folder):  # noqa: PTH208 - names are all that is needed
        with suppress(FileNotFoundError):  # the thread has just ended
            found += map(int, _content(f"{folder}/{thread}/children").split())
    return tuple(found)


def _content(path: str) -> bytes:
    """Read a file by the plain calls, which take half as long as an object for it does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = part = os.read(descriptor, _READ_SIZE)
        while part:
            part = os.read(descriptor, _READ_SIZE)
            content += part
        return content
    finally:
        os.close(descriptor)


def arguments(pid: int) -> tuple[str, ...]:
    """Return the words of a process's command line, none when it is gone."""
    try:
        text = (PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ()
    return tuple(word.decode(errors="replace") for word in text.split(b"\0")[:-1])


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when it is gone."""
    try:
        stat = _content(f"{PROC}/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold spaces and parentheses; starttime is field 22, and the
    # first field behind the name is number 3.
    return int(stat.rpartition(b")")[2].split()[22 - 3])


def pid_namespace(pid: int) -> str | None:
    """Return the name of the pid namespace that a process is in; None when it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115 - a name, and no path
    except (FileNotFoundError, ProcessLookupError):  # a zombie is in none any more
        return None


def clock_ticks() -> int:
    """Return the time since boot in the unit of `start_time`."""
    per_second = os.sysconf("SC_CLK_TCK")
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * per_second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process at one moment. Times are in seconds, sizes in bytes."""

    pid: int
    #: of the program, as far as the kernel or the command line has it; any characters
    name: str
    #: since the epoch
    created: float
    user: float
    system: float
    #: private memory that it may write, touched or not
    data: int
    resident: int
    #: of the resident memory, what others may have as well
    shared: int


def processes(pids: Iterable[int] | None = None) -> tuple[Process, ...]:
    """Return those of the processes that are still there; None asks for all of the VM.

    Kernel threads are left out of all: they have no memory of their own.
    """
    import psutil  # type: ignore[import-untyped] # it has none; what comes of it is converted

    found = []
    for pid in psutil.pids() if pids is None else pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            with process.oneshot():
                memory, times = process.memory_info(), process.cpu_times()
                if pids is None and not memory.vms and process.status() != "zombie":
                    continue
                found.append(
                    Process(
                        pid=int(pid),
                        name=str(process.name()),
                        created=float(process.create_time()),
                        user=float(times.user),
                        system=float(times.system),
                        data=int(memory.data),
                        resident=int(memory.rss),
                        shared=int(memory.shared),
                    )
                )
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory of the VM, in bytes."""

    total: int
    #: what a new program could have without anything being swapped out
    available: int
    free: int
    cached: int
    swap_total: int
    swap_free: int


def memory(kept: KeptFiles, proc: Path = PROC) -> Memory:
    """Return how the VM's memory is used now; it never blocks. Raises OSError."""
    text = kept.read(f"{proc}/meminfo")
    return Memory(
        total=_kibibytes(text, b"MemTotal:"),
        available=_kibibytes(text, b"MemAvailable:"),
        free=_kibibytes(text, b"MemFree:"),
        # The kernel's own caches are given up for programs just as those of files are.
        cached=_kibibytes(text, b"\nCached:") + _kibibytes(text, b"SReclaimable:"),
        swap_total=_kibibytes(text, b"SwapTotal:"),
        swap_free=_kibibytes(text, b"SwapFree:"),
    )


def _kibibytes(text: bytes, label: bytes) -> int:
    """Return the bytes of a line `label number kB`."""
    begin = text.index(label) + len(label)
    return int(text[begin : text.index(b" kB", begin)]) * 1024


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface and its counters: bytes, packets, errors and drops each way."""

    name: str
    received: tuple[int, int, int, int]
    sent: tuple[int, int, int, int]


def interfaces(pid: int, proc: Path = PROC) -> tuple[Interface, ...]:
    """Return a process's interfaces but loopback; none when it has exited."""
    try:
        text = (proc / str(pid) / "net/dev").read_bytes()
    except OSError:  # a zombie has no namespaces any more: EINVAL
        return ()
    return _interfaces(text)


def own_interfaces(kept: KeptFiles) -> tuple[Interface, ...]:
    """Return those of the namespace that this process is in; it never blocks."""
    return _interfaces(kept.read(f"{PROC}/self/net/dev"))


def _interfaces(text: bytes) -> tuple[Interface, ...]:
    found = []
    for line in text.splitlines()[2:]:
        name, _, counters = line.rpartition(b":")
        if name.strip() == b"lo":
            continue
        numbers = list(map(int, counters.split()))
        received = (numbers[0], numbers[1], numbers[2], numbers[3])
        sent = (numbers[8], numbers[9], numbers[10], numbers[11])
        found.append(Interface(name.strip().decode(errors="replace"), received, sent))
    return tuple(found)


def set_core_pattern(pattern: str, proc: Path = PROC) -> None:
    """Tell the kernel where to put the memory of programs that crash, for the whole VM."""
    (proc / "sys/kernel/core_pattern").write_text(pattern)
