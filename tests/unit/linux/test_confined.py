"""No name below a folder leads out of it, whatever containers have put there."""

import os
import stat
from pathlib import Path

import pytest

from gcs.linux import confined

LOG = os.O_WRONLY | os.O_APPEND | os.O_CREAT


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Return the folder that is trusted, with another beside it."""
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "top"
    folder.mkdir()
    return folder


def test_missing_folders_are_made_with_their_mode(top: Path) -> None:
    """Whatever the umask says, and without changing it; what is there stays as it is."""
    (top / "a").mkdir(mode=0o700)
    umask = os.umask(0o077)
    try:
        made = confined.make_folders(str(top), "a//b/./c/", 0o777)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(umask)
    assert made == (f"{top}/a/b", f"{top}/a/b/c")
    assert [mode_of(top / path) for path in ("a", "a/b", "a/b/c")] == [0o700, 0o777, 0o777]
    assert confined.make_folders(str(top), "a/b/c", 0o777) == ()
    assert confined.make_folders(str(top), "", 0o777) == ()


def test_the_last_name_may_be_a_file_that_is_there(top: Path) -> None:
    """Mounts of single files are fine; only folders are made."""
    (top / "f").write_text("x")
    assert confined.make_folders(str(top), "f", 0o777) == ()
    with pytest.raises(NotADirectoryError):
        confined.make_folders(str(top), "f/g", 0o777)


@pytest.mark.parametrize("path", ["..", "a/../../outside", "a/..", "../top/a", "a\0"])
def test_dots_lead_nowhere(top: Path, path: str) -> None:
    """A path that has them is refused before anything is made."""
    with pytest.raises(OSError, match="not a path below"):
        confined.make_folders(str(top), path, 0o777)
    with pytest.raises(OSError, match="not a path below"):
        confined.open_file(str(top), f"{path}/log", LOG, 0o666)
    assert list(top.iterdir()) == []


@pytest.mark.parametrize("path", ["link", "link/b", "x/y/link/z"])
def test_a_link_is_not_followed(top: Path, path: str) -> None:
    """Neither on the way nor at the end; what was made before it was met is removed."""
    (top / "link").symlink_to(top.parent / "outside")
    (top / "x").mkdir()
    (top / "x/y").mkdir()
    (top / "x/y/link").symlink_to("/")
    with pytest.raises(OSError, match="link"):
        confined.make_folders(str(top), path, 0o777)
    with pytest.raises(OSError, match="link"):
        confined.open_file(str(top), path, LOG, 0o666)
    assert list((top.parent / "outside").iterdir()) == []


def test_what_was_made_does_not_stay_after_a_failure(top: Path) -> None:
    """A name that is too long fails late."""
    with pytest.raises(OSError, match="File name too long"):
        confined.make_folders(str(top), f"a/b/{'c' * 256}", 0o777)
    assert list(top.iterdir()) == []


def test_a_file_is_made_with_its_mode_and_appended_to(top: Path) -> None:
    """One that is there keeps its mode and its content."""
    (top / "logs").mkdir()
    for text in (b"one", b"two"):
        descriptor = confined.open_file(str(top), "logs/a.log", LOG, 0o666)
        os.write(descriptor, text)
        os.close(descriptor)
        if text == b"one":
            assert mode_of(top / "logs/a.log") == 0o666
            (top / "logs/a.log").chmod(0o640)
    assert (top / "logs/a.log").read_bytes() == b"onetwo"
    assert mode_of(top / "logs/a.log") == 0o640


@pytest.mark.timeout(60)
def test_what_is_no_file_is_refused(top: Path) -> None:
    """A FIFO in place of a log would hold the agent until somebody reads it."""
    os.mkfifo(top / "fifo")
    (top / "folder").mkdir()
    with pytest.raises(OSError, match="fifo"):
        confined.open_file(str(top), "fifo", LOG, 0o666)
    with pytest.raises(IsADirectoryError):
        confined.open_file(str(top), "folder", LOG, 0o666)
    reader = os.open(top / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OSError, match="no regular file"):
            confined.open_file(str(top), "fifo", LOG, 0o666)
    finally:
        os.close(reader)


def test_refusals_leave_no_descriptor(top: Path) -> None:
    """Nor do successes, but for the one that is returned."""
    (top / "link").symlink_to("/")
    before = descriptors()
    for _ in range(3):
        confined.make_folders(str(top), "a/b", 0o777)
        with pytest.raises(OSError, match="link"):
            confined.make_folders(str(top), "link/b", 0o777)
        with pytest.raises(OSError, match="link"):
            confined.open_file(str(top), "link/b", LOG, 0o666)
        with confined.pinned(str(top), "a/b"), confined.pinned(str(top), ""):
            pass
        with pytest.raises(OSError, match="link"), confined.pinned(str(top), "link"):
            pass
        os.close(confined.open_file(str(top), "a/b/c", LOG, 0o666))
    assert descriptors() == before
