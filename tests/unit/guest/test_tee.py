"""The copy of a container's output: all of it while it fits, the newest when it does not."""

import os
from pathlib import Path

import pytest
import trio

from gcs.guest import tee
from gcs.guest.stdio import Endpoints, Pipes, Stdio
from gcs.guest.tee import TeeLog


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def append(log: TeeLog, *chunks: bytes) -> None:
    for chunk in chunks:
        await log.append(chunk, None)


async def test_output_is_appended_below_the_folder(tmp_path: Path) -> None:
    """Folders on the way are made, for anybody; what a file has stays in front."""
    for chunk in (b"one\n", b"two\n"):
        log = TeeLog.open(str(tmp_path), "a/b.log")
        await append(log, chunk)
        log.close()
    assert (tmp_path / "a/b.log").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o777
    assert (tmp_path / "a/b.log").stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("path", ["../b.log", "a/../../b.log", "link/b.log", "", ".", "/.."])
async def test_a_file_elsewhere_is_refused(tmp_path: Path, path: str) -> None:
    """Whether dots lead there or a link that a container has made."""
    top = tmp_path / "logs"
    top.mkdir()
    (top / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"logs|not a path"):
        TeeLog.open(str(top), path)
    assert names_in(tmp_path) == {"logs"}


async def test_the_newest_output_is_kept_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files of half the limit each; what is in neither is counted."""
    monkeypatch.setattr(tee, "_MAX_BYTES", 20)
    log = TeeLog.open(str(tmp_path), "x")
    chunks = [b"%06d" % number for number in range(10)]
    await append(log, *chunks)
    log.close()
    kept = (tmp_path / "x.1").read_bytes() + (tmp_path / "x").read_bytes()
    assert b"".join(chunks).endswith(kept)
    assert len(kept) <= 20
    assert len(kept) + log.lost == 60
    assert names_in(tmp_path) == {"x", "x.1"}


async def test_a_file_that_a_container_has_removed_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the latest when the removed one is full."""
    monkeypatch.setattr(tee, "_MAX_BYTES", 20)
    log = TeeLog.open(str(tmp_path), "x")
    await append(log, b"1" * 10)
    (tmp_path / "x").unlink()
    await append(log, b"2" * 10)
    log.close()
    assert (tmp_path / "x").read_bytes() == b"2" * 10


async def test_what_can_not_be_written_is_counted_and_ends_nothing(tmp_path: Path) -> None:
    """As on a disk that is full."""
    log = TeeLog(str(tmp_path), "full", os.open("/dev/full", os.O_WRONLY))
    await append(log, b"123", b"45")
    assert log.lost == 5
    log.close()


async def run_logged(log: TeeLog, endpoints: Endpoints) -> tuple[int, int]:
    """Relay what a process prints on both streams; return how much the host could not get."""
    pipes = Pipes.make(stdin=False, stdout=True, stderr=True)
    _, stdout, stderr = pipes.theirs
    assert stdout is not None
    assert stderr is not None
    relays = Stdio(endpoints, pipes, None, log)
    os.write(stdout, b"out\n")
    os.write(stderr, b"err\n")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relays.run)
        await trio.testing.wait_all_tasks_blocked()
        os.write(stdout, b"more\n")
        pipes.close_theirs()
    return stdout, stderr


async def test_both_streams_are_logged_and_still_passed_on(tmp_path: Path) -> None:
    """Each chunk as a whole, in the order in which they came."""
    ours, theirs = trio.socket.socketpair()
    log = TeeLog.open(str(tmp_path), "x")
    await run_logged(log, Endpoints(stdout=ours))
    assert await theirs.recv(100) == b"out\nmore\n"
    assert sorted((tmp_path / "x").read_bytes().splitlines()) == [b"err", b"more", b"out"]
    theirs.close()


async def test_a_host_that_wants_no_stream_or_has_gone_stops_no_log(tmp_path: Path) -> None:
    """The process does not get a SIGPIPE for it either."""
    ours, theirs = trio.socket.socketpair()
    theirs.close()
    log = TeeLog.open(str(tmp_path), "x")
    await run_logged(log, Endpoints(stdout=ours))
    assert sorted((tmp_path / "x").read_bytes().splitlines()) == [b"err", b"more", b"out"]
