"""A stage for gcsctl: folders of its own, stand-ins for QEMU and its helper, a small image."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.oci import layer_tar, member, write_layout

__all__ = ["Stage", "interrupt_twice", "make_stage", "our_processes", "services"]

ROOT = Path(__file__).resolve().parents[2]
#: How long the kernel may take to end what has lost its parent.
_KERNEL_S = 10.0
#: How long gcsctl may take to end everything.
_END_S, _TRIES = 25.0, 3
#: Names of the programs that a VM is made of.
_PROGRAMS = ("qemu-system", "vhost-device-vsock", "gcs.host.service", "diod")


@dataclass(frozen=True)
class Stage:
    """Where gcsctl runs, and what it is to find there."""

    environment: Mapping[str, str]
    image: Path
    runtime: Path
    state: Path
    #: what gcsctl is started by, as in another network
    prefix: Sequence[str] = ()

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a gcsctl."""
        return [*self.prefix, sys.executable, "-m", "gcs.host.cli", *arguments]

    def start(
        self, *arguments: str, terminal: int = subprocess.PIPE
    ) -> "subprocess.Popen[bytes]":
        """Start gcsctl; its streams are pipes, or all of them the terminal."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            cwd=ROOT,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )

    def run(
        self, *arguments: str, stdin: bytes = b"", timeout_s: float = 120
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run gcsctl to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )

    def attacked(self, attack: str) -> "Stage":
        """Return this stage with a guest that does its worst (tests.support.hostile_guest)."""
        hostile = {"GCS_TEST_GUEST": "tests.support.hostile_guest", "GCS_TEST_ATTACK": attack}
        return replace(self, environment={**self.environment, **hostile})

    def leftovers(self) -> list[str]:
        """Return what is still there of any VM: processes, and entries of the state folder.

        The inner process of a 9p server is waited for: nobody but the kernel ends it, once the
        outer one is gone.
        """
        folder, until = self.runtime / "gcs", time.monotonic() + _KERNEL_S
        left = our_processes(self.environment)
        while left and all("diod" in each for each in left) and time.monotonic() < until:
            time.sleep(0.05)
            left = our_processes(self.environment)
        folders = [path.name for path in folder.iterdir()] if folder.exists() else []
        return [*left, *(n for n in folders if n[0] != ".")]


def interrupt_twice(process: "subprocess.Popen[bytes]") -> int:
    """Press Ctrl-C, and once more because it was not enough; return the exit status.

    Two belong together if they come soon after each other: when we have been too slow for
    that, they do so again.
    """
    for _ in range(_TRIES):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two at the same moment are one
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_END_S)
    raise AssertionError("it goes on")


def our_processes(environment: Mapping[str, str]) -> list[str]:
    """Return the programs of VMs that run with the XDG_RUNTIME_DIR of this environment."""
    mark = f"XDG_RUNTIME_DIR={environment['XDG_RUNTIME_DIR']}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        # Both are empty for a zombie.
        if mark in variables and any(name in words for name in _PROGRAMS):
            found.append(words)
    return found


def make_stage(folder: Path, **config: object) -> Stage:
    """Make a stage whose programs are those of tests.support.vm.

    Args:
        folder: Short: sockets lie below it.
        config: Of the image, over a command that does nothing.
    """
    programs = folder / "bin"
    for name in ("bin", "run", "state", "cache", "tmp"):
        (folder / name).mkdir(mode=0o700)
    _write_program(programs / "qemu-system-x86_64", "qemu")
    _write_program(programs / "vhost-device-vsock", "vsock")
    _write_server(programs)
    for name in ("kernel", "initrd", "root-image"):
        (folder / name).write_bytes(b"")
    tar = layer_tar([member("etc/passwd", b"root:x:0:0::/:/bin/sh\nneko:x:77:88::/:/bin/sh\n")])
    image = write_layout(folder / "image", [tar], config={"Cmd": ["true"], **config})
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(folder / "tmp"),
        "GCS_KERNEL": str(folder / "kernel"),
        "GCS_INITRD": str(folder / "initrd"),
        "GCS_ROOT_IMAGE": str(folder / "root-image"),
        "GCS_VHOST_DEVICE_VSOCK": str(programs / "vhost-device-vsock"),
    }
    return Stage(environment, image, folder / "run", folder / "state")


def _write_program(path: Path, role: str) -> None:
    """Write a program that runs in this interpreter and finds this checkout."""
    # A guest under KVM can't be run, which the probe is to find out, and soon.
    path.write_text(
        "#!/bin/sh\n"
        'case "$*" in *accel=kvm*) echo "no KVM in a test" >&2; exit 1;; esac\n'
        f"PYTHONPATH={ROOT} exec {sys.executable} "
        f'-m "${{GCS_TEST_GUEST:-tests.support.vm}}" {role} "$@"\n'
    )
    path.chmod(0o755)


def _write_server(programs: Path) -> None:
    """Write a bwrap that stands in for the diod in it: it answers until its connection ends.

    Told to in GCS_TEST_SERVER, it fails in those words, which are seen a moment after its end.
    """
    (programs / "diod").symlink_to("/bin/true")
    (programs / "bwrap").write_text(
        f"#!{sys.executable}\n"
        "import os, sys, time\n"
        'fd = int(sys.argv[sys.argv.index("--rfdno") + 1])\n'
        'if words := os.environ.get("GCS_TEST_SERVER"):\n'
        "    if os.fork():\n"
        "        os._exit(1)\n"
        "    os.close(fd)\n"
        "    time.sleep(0.1)\n"
        "    sys.exit(words)\n"
        "while os.read(fd, 1):\n"
        '    os.write(fd, b"!")\n'
    )
    (programs / "bwrap").chmod(0o755)


def services() -> list[tuple[int, str]]:
    """Return the services that run, each with its pid and its command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since it was listed
        if "gcs.host.service" in words:
            found.append((int(path.parent.name), words))
    return found
