"""Memory of processes by what backs it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gcs.host.smaps import ANONYMOUS, Backing, Usage, by_backing, parse, total

_MIB = 1024 * 1024

_TEXT = """\
7f0000000000-7f0000200000 r--s 00000000 fd:01 4711       /var/lib/a layer.img (deleted)
Size:               2048 kB
KernelPageSize:        4 kB
Rss:                1024 kB
Pss:                 512 kB
Pss_Dirty:            12 kB
VmFlags: rd sh mr mw me ms
7f0000200000-7f0000300000 rw-s 00000000 00:01 99         /memfd:memory-backend-memfd (deleted)
Rss:                 100 kB
Pss:                  50 kB
7f0000400000-7f0000500000 r--s 00200000 fd:01 4711       /var/lib/a layer.img (deleted)
Rss:                  40 kB
Pss:                  20 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0          [stack]
Rss:                   8 kB
Pss:                   8 kB
7f0000600000-7f0000700000 rw-p 00000000 00:00 0
Rss:                   4 kB
Pss:                   4 kB
"""


def test_mappings_are_told_by_what_backs_them() -> None:
    """Files have their name and identity, whatever has no file is anonymous."""
    layer = Backing(os.makedev(0xFD, 1), 4711)
    ram = Backing(os.makedev(0, 1), 99)
    assert list(parse(_TEXT)) == [
        (layer, Usage("/var/lib/a layer.img", 1024 * 1024, 512 * 1024)),
        (ram, Usage("/memfd:memory-backend-memfd", 100 * 1024, 50 * 1024)),
        (layer, Usage("/var/lib/a layer.img", 40 * 1024, 20 * 1024)),
        (ANONYMOUS, Usage("", 8 * 1024, 8 * 1024)),
        (ANONYMOUS, Usage("", 4 * 1024, 4 * 1024)),
    ]


#: Reads every page of a file through a mapping, says so, and stays until its stdin ends.
_READER = """
import mmap, sys
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(mapped[offset] for offset in range(0, len(mapped), mmap.PAGESIZE))
print("mapped", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def two_readers(tmp_path: Path) -> Iterator[tuple[Path, list[int]]]:
    """Two processes that have read the same 4 MiB file through mappings of it."""
    path = tmp_path / "layer.img"
    path.write_bytes(os.urandom(4 * _MIB))
    with ExitStack() as stack:
        readers = [stack.enter_context(_reader(path)) for _ in range(2)]
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"mapped\n"
        yield path, [reader.pid for reader in readers]


def _reader(path: Path) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-c", _READER, str(path)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_file_that_two_processes_have_mapped_is_there_once(
    two_readers: tuple[Path, list[int]],
) -> None:
    """The kernel's own figures: each has all of it, and both together have it once."""
    path, pids = two_readers
    layer = Backing.of(path)
    for pid in pids:
        alone = by_backing([pid])[layer]
        assert (alone.name, alone.rss, alone.pss) == (str(path), 4 * _MIB, 2 * _MIB)
    both = by_backing(pids)
    assert (both[layer].rss, both[layer].pss) == (8 * _MIB, 4 * _MIB)
    assert total(both, str(path)) == 4 * _MIB
    assert both[ANONYMOUS].pss > 0


def test_a_process_that_is_gone_is_an_error() -> None:
    """It is not taken for one that uses nothing."""
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    with pytest.raises(OSError, match=f"/proc/{child}/smaps"):
        by_backing([child])
