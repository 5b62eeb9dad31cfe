"""/proc, asked about processes of our own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gcs.linux import procfs
from gcs.linux.kept import KeptFiles


@contextmanager
def _cat(program: Path) -> Iterator[int]:
    """Run a copy of cat under a name of its own, until the block ends; yield its pid."""
    process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        assert process.stdout.read(1) == b"x"  # now it runs under its name
        yield process.pid
    finally:
        process.communicate()


@pytest.mark.parametrize(
    "name", ["a b", "a) R 1 (b", ")))", "1 2 3", "x\ny", "\udcff", "(sd-pam)"]
)
def test_the_name_of_a_process_does_not_matter(tmp_path: Path, name: str) -> None:
    """It may hold what looks like the rest of the line."""
    program = tmp_path / name
    program.write_bytes(Path("/bin/cat").read_bytes())
    program.chmod(0o755)
    before = procfs.clock_ticks()
    with _cat(program) as pid:
        assert (
            name[:15].encode(errors="surrogateescape") in Path(f"/proc/{pid}/stat").read_bytes()
        )
        started = procfs.start_time(pid)
        assert started is not None
        assert before <= started <= procfs.clock_ticks()


def test_a_process_that_is_gone_has_no_start_time() -> None:
    """Nor has one that never was."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert procfs.start_time(process.pid) is None
    assert procfs.start_time(2**22 + 1) is None


def test_children_are_listed_with_the_zombies() -> None:
    """A child stays one until it is waited for."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process.pid in procfs.children()
    process.wait()
    assert process.pid not in procfs.children()


def test_the_pattern_of_core_dumps_is_written_where_the_kernel_reads_it(tmp_path: Path) -> None:
    """A kernel without core dumps has no such file, and that is said."""
    with pytest.raises(FileNotFoundError, match="core_pattern"):
        procfs.set_core_pattern("/run/%e", tmp_path)
    (tmp_path / "sys/kernel").mkdir(parents=True)
    procfs.set_core_pattern("/run/%e", tmp_path)
    assert (tmp_path / "sys/kernel/core_pattern").read_text() == "/run/%e"


def test_interfaces_are_read_whatever_their_names(tmp_path: Path) -> None:
    """All but loopback: any bytes but a slash and spaces; the counters are in columns."""
    folder = tmp_path / "7/net"
    folder.mkdir(parents=True)
    numbers = " ".join(map(str, range(1, 17)))
    names = (b"  lo", b"a:b", b"\xff")
    lines = [b"head", b"head", *(b"%s: %s" % (name, numbers.encode()) for name in names)]
    (folder / "dev").write_bytes(b"\n".join(lines) + b"\n")
    assert procfs.interfaces(7, tmp_path) == (
        procfs.Interface("a:b", (1, 2, 3, 4), (9, 10, 11, 12)),
        procfs.Interface("\ufffd", (1, 2, 3, 4), (9, 10, 11, 12)),
    )
    assert procfs.interfaces(8, tmp_path) == ()


def test_memory_is_told_in_bytes_and_free_can_be_got(tmp_path: Path) -> None:
    """What the kernel counts in KiB; its slabs that can be reclaimed are caches as well."""
    names = ("MemTotal", "MemFree", "MemAvailable", "Cached", "SwapTotal", "SwapFree")
    lines = [f"{name}:   {number} kB" for number, name in enumerate(names, 1)]
    lines += ["SReclaimable:  10 kB", "HugePages_Total:   0", "Hugepagesize:   2048 kB"]
    lines.insert(2, "SwapCached:   7 kB")
    (tmp_path / "meminfo").write_text("\n".join(lines) + "\n")
    kept = KeptFiles()
    found = procfs.memory(kept, tmp_path)
    kept.close()
    assert found == procfs.Memory(
        total=1024,
        free=2048,
        available=3072,
        cached=(4 + 10) * 1024,
        swap_total=5 * 1024,
        swap_free=6 * 1024,
    )
