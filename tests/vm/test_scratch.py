"""What containers write to, through gcsctl as a user has it: each kind, and a power cut."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support import filecheck
from tests.support.stage import Stage, our_processes, services

IS_SOAK = bool(os.environ.get("GCS_SOAK"))
pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600 if IS_SOAK else 900)]

#: A boot under emulation on a machine that is busy with other VMs.
_RUN_S = 2400 if IS_SOAK else 300
_CALL_S = 120
_GONE_S = 60
#: Random operations; the second number is for every day.
_SEED, _OPERATIONS = 13, 10_000 if IS_SOAK else 400
#: Where ext4 has its first superblock.
_SUPERBLOCK = 1024


def run(gcsctl: Stage, *words: str) -> str:
    """Run a container to its end, which has to be a success; return what it printed."""
    done = gcsctl.run("run", *words, timeout_s=_RUN_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def sh(gcsctl: Stage, script: str) -> str:
    """Run a script in the container `cut`; return what it printed."""
    done = gcsctl.run("exec", "cut", "sh", "-ec", script, timeout_s=_CALL_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _GONE_S
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def cut_power(gcsctl: Stage, vm_id: str) -> None:
    """Kill a container's service, and QEMU with it."""
    (service,) = (pid for pid, words in services() if vm_id in words)
    os.kill(service, signal.SIGKILL)
    until(lambda: not our_processes(gcsctl.environment), "something lives on")


@pytest.mark.parametrize("kind", ["scsi", "pmem"])
def test_after_a_power_cut_a_kept_scratch_is_replayed(
    gcsctl: Stage, tmp_path: Path, kind: str
) -> None:
    """What was synced is there, the next container works on it, and its end is clean."""
    file = tmp_path / "scratch"
    scratch = ("--scratch", f"{kind},size=64M,path={file}")
    image = str(gcsctl.image)
    writing = "while :; do seq 20000 >/busy; mv /busy /busy2; done"
    words = ("-d", "--name", "cut", *scratch, image, "sh", "-c", writing)
    vm_id = run(gcsctl, *words)[:12]
    sh(
        gcsctl,
        "until [ -e /busy2 ]; do sleep 0.1; done; echo kept >/etc/kept; rm /etc/passwd; sync",
    )
    cut_power(gcsctl, vm_id)
    assert needs_replay(file)
    script = "cat /etc/kept; tail -n 1 /busy2; echo more >>/etc/kept; ls /etc/passwd || true"
    assert run(gcsctl, *scratch, image, "sh", "-exc", script) == "kept\n20000\n"
    assert not needs_replay(file)
    assert run(gcsctl, *scratch, image, "cat", "/etc/kept") == "kept\nmore\n"
    check = subprocess.run(["/sbin/e2fsck", "-fn", file], capture_output=True, check=False)
    assert check.returncode == 0, check.stdout


def needs_replay(file: Path) -> bool:
    """Return whether an ext4 was not unmounted."""
    shown = subprocess.run(["/sbin/dumpe2fs", "-h", file], capture_output=True, check=True)
    return b"needs_recovery" in shown.stdout


@pytest.mark.parametrize("kind", ["scsi", "pmem"])
def test_a_kept_scratch_that_is_damaged_is_refused_and_stays_as_it_is(
    gcsctl: Stage, tmp_path: Path, kind: str
) -> None:
    """It is never formatted: what is left of it may be what somebody wants."""
    file = tmp_path / "scratch"
    with file.open("wb") as scratch:
        scratch.truncate(32 * 1024**2)
    mkfs = ("/sbin/mkfs.ext4", "-q", "-b", "4096", file)
    subprocess.run(mkfs, check=True, capture_output=True)
    with file.open("r+b") as scratch:
        scratch.seek(_SUPERBLOCK)
        scratch.write(bytes(1024))
    before = sha256(file.read_bytes()).hexdigest()
    words = ("run", "--scratch", f"{kind},path={file}", str(gcsctl.image), "true")
    done = gcsctl.run(*words, timeout_s=_RUN_S)
    assert done.returncode == 125
    assert f"scratch {file}: /dev/".encode() in done.stderr
    assert b"not formatted" in done.stderr
    assert sha256(file.read_bytes()).hexdigest() == before
    assert gcsctl.leftovers() == []


def test_random_operations_make_no_difference_on_persistent_memory(
    gcsctl: Stage, tmp_path: Path
) -> None:
    """An overlay whose upper folder is on a pmem that may be written; it can do all."""
    filecheck.compile_filecheck(tmp_path)
    script = (
        "mkdir /check; /v/filecheck make /check; "
        f"/v/filecheck run /check {_SEED} {_OPERATIONS}; cat /proc/mounts"
    )
    options = ("--scratch", "pmem,size=128M", "-v", f"{tmp_path}:/v:ro")
    said = run(gcsctl, *options, str(gcsctl.image), "sh", "-ec", script)
    left = filecheck.parse(said)
    assert (left.operations, left.impossible) == (_OPERATIONS, frozenset())
    assert "upperdir=/run/mounts/pmem/scratch/" in said


def test_a_scratch_in_memory_is_as_large_as_asked(gcsctl: Stage) -> None:
    """More is an error of the container's, and nothing else."""
    script = "dd if=/dev/zero of=/big bs=1M count=20 2>&1 || rm /big; df -m / | tail -n 1"
    options = ("--scratch", "tmpfs,size=16M", str(gcsctl.image))
    said = run(gcsctl, *options, "sh", "-c", script)
    assert os.strerror(28) in said
    assert said.splitlines()[-1].split()[1] == "16"
