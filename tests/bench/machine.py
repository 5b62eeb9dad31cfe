"""What a figure was measured on: enough to judge it by, and no name of a host."""

import os
import platform
import re
import subprocess
from pathlib import Path

import msgspec

__all__ = ["ROOT", "Machine", "describe"]

ROOT = Path(__file__).resolve().parents[2]


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine, and the versions of what ran on it."""

    processor: str
    cores: int
    memory_gib: int
    #: kvm or tcg
    accelerator: str
    host_kernel: str
    qemu: str
    #: of this repository, "-dirty" when it was changed, or "unknown"
    commit: str

    def line(self) -> str:
        """Return it in one line, for below a picture's title."""
        how = "KVM" if self.accelerator == "kvm" else "TCG (no KVM)"
        return (
            f"{self.processor}, {self.cores} cores, {self.memory_gib} GiB; QEMU {self.qemu}, "
            f"{how}; Linux {self.host_kernel}; commit {self.commit}"
        )


def describe(accelerator: str) -> Machine:
    """Return this machine. Raises OSError or CalledProcessError when QEMU or git is missing."""
    names = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    version = re.search(r"version (\S+)", _said("qemu-system-x86_64", "--version"))
    return Machine(
        processor=names[1] if names else platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gib=round(memory / 2**30),
        accelerator=accelerator,
        host_kernel=platform.release(),
        qemu=version[1] if version else "unknown",
        commit=_commit(ROOT),
    )


def _commit(tree: Path) -> str:
    """Return what is measured; a tree that was unpacked from an archive can't tell."""
    if not (tree / ".git").exists():
        return "unknown"
    # The tree of another user's is as good to describe.
    git = ("git", "-c", "safe.directory=*", "-C", str(tree))
    return _said(*git, "describe", "--always", "--dirty", "--exclude=*")


def _said(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
