"""Logs of those who print without end: bounded files that keep the newest."""

import os
import re
import resource
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from gcs.host.child import spawn
from gcs.host.logfile import LogFile, open_log

LIMIT = 64 * 1024
MARK = re.compile(rb"\[(\d+) bytes before this were dropped\]\n")


def read(path: Path) -> bytes:
    return path.read_bytes()


def test_what_fits_is_kept_as_it_came(tmp_path: Path) -> None:
    """Bytes that are no text, too; the folder has no other file."""
    file = LogFile(tmp_path / "log", LIMIT)
    for number in range(256):
        file.write(bytes([number]))
    file.close()
    assert read(tmp_path / "log") == bytes(range(256))
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_full_file_loses_its_older_half_and_says_how_much(tmp_path: Path) -> None:
    """At any moment it is within its bound; mark and rest make up all that was written."""
    path = tmp_path / "log"
    file = LogFile(path, LIMIT)
    written = b""
    for number in range(20_000):
        line = b"line %d\n" % number
        file.write(line)
        written += line
        if number % 1000 == 0:
            assert path.stat().st_size <= LIMIT
    file.close()
    found = MARK.match(read(path))
    assert found is not None
    rest = read(path)[found.end() :]
    assert written.endswith(rest)
    assert len(written) - len(rest) == int(found[1])
    assert rest.startswith(b"line ")
    assert len(rest) >= LIMIT // 2 - 4096


@given(st.lists(st.integers(0, 3 * 1024), max_size=40))
def test_any_cut_of_what_is_printed_keeps_the_bound_and_the_count(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    """Pieces larger than the file, too."""
    path = tmp_path_factory.mktemp("log") / "log"
    file, total = LogFile(path, 2048), 0
    for size in sizes:
        file.write(b"x" * size)
        total += size
        kept = read(path)
        found = MARK.match(kept)
        lost, mark = (int(found[1]), found.end()) if found else (0, 0)
        assert len(kept) - mark + lost == total
        assert len(kept) <= 2048
    file.close()


def test_a_full_disk_costs_the_log_only(tmp_path: Path) -> None:
    """Nothing is raised, and the mark counts what could not be written."""
    file = LogFile(tmp_path / "log", LIMIT)
    file.write(b"first\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file that may not grow: EFBIG, since Python ignores SIGXFSZ.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        file.write(b"0123456789")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read(tmp_path / "log") == b"first\n0123"
    file.write(b"y" * LIMIT)
    file.close()
    found = MARK.match(read(tmp_path / "log"))
    assert found is not None
    assert int(found[1]) == 16 + LIMIT - LIMIT // 2


async def test_a_program_that_prints_without_end_has_a_log_with_one(tmp_path: Path) -> None:
    """It is never held up for good, the file stays bounded, and its last words are there."""
    path = tmp_path / "log"
    script = "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo last words >&2"
    async with open_log(path) as log:
        program = spawn("a program", ["sh", "-c", script], output=log.writer.fileno())
        async with program as child:
            log.writer.close()
            with trio.fail_after(60):
                assert await child.wait() == 0
                await log.ended.wait()
            assert path.stat().st_size <= 512 * 1024
            assert log.tail().endswith("last words")
    assert MARK.match(read(path))


async def test_of_a_panic_its_reason_is_repeated(tmp_path: Path) -> None:
    """Not the calls that are listed below it."""
    async with open_log(tmp_path / "log") as log:
        log.writer.send(
            b"booting\nKernel panic - not syncing: no memory\nCall Trace:\n a\n b\n"
        )
        log.writer.close()
        with trio.fail_after(10):
            await log.ended.wait()
        assert log.tail() == "Kernel panic - not syncing: no memory"


async def test_what_is_on_its_way_at_the_end_is_kept(tmp_path: Path) -> None:
    """The block may end at any time after the writer."""
    async with open_log(tmp_path / "log") as log:
        log.writer.send(b"last words")
    assert read(tmp_path / "log") == b"last words"


async def test_a_writer_that_stays_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Somebody else still has a copy of the descriptor."""
    async with open_log(tmp_path / "log") as log:
        copy = os.dup(log.writer.fileno())
    os.close(copy)
    assert not log.ended.is_set()
