"""State folders: whose they are, and what becomes of those that nobody owns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from gcs.host.child import is_running, spawn, start_time
from gcs.host.state import StateError, StateFolder, keep_logs, remove_stale, root_folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return root_folder()


def test_the_root_is_ours_alone(root: Path) -> None:
    """Nobody else can enter it."""
    assert root.stat().st_mode & 0o777 == 0o700
    assert root_folder() == root


def test_a_root_that_lets_others_in_is_refused(root: Path) -> None:
    """Its control sockets would be theirs too."""
    root.chmod(0o755)
    with pytest.raises(StateError, match="mode 755 lets others in"):
        root_folder()


def test_a_root_that_is_a_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In /tmp somebody else may have made it first."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "gcs").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(StateError, match="belongs to"):
        root_folder()


def test_a_path_too_long_for_a_socket_is_refused(root: Path) -> None:
    """The error says what to set; nothing is made."""
    with pytest.raises(StateError, match="set XDG_RUNTIME_DIR"):
        StateFolder.create(root, "x" * 100)
    assert [path.name for path in root.iterdir()] == []


def test_an_id_can_not_be_taken_twice(root: Path) -> None:
    """The first owner keeps it."""
    folder = StateFolder.create(root, "vm")
    with pytest.raises(StateError, match="a VM of that id exists"):
        StateFolder.create(root, "vm")
    folder.remove()


def test_a_folder_in_use_is_left_alone(root: Path) -> None:
    """Its lock is held by a process that lives."""
    code = (
        "import sys; from pathlib import Path; from gcs.host.state import StateFolder; "
        "StateFolder.create(Path(sys.argv[1]), 'vm'); print('ready', flush=True); input()"
    )
    argv = [sys.executable, "-c", code, str(root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        assert trio.run(remove_stale, root) == ()
        assert (root / "vm").is_dir()
        owner.communicate(b"\n")
    assert trio.run(remove_stale, root) == ("vm",)
    assert not (root / "vm").exists()


def test_a_recorded_program_is_ended_and_the_logs_are_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pids.json names it by pid and start time."""
    # A machine that has other things to do may take more than a second to end it.
    monkeypatch.setattr("gcs.host.child.TERM_GRACE_S", 60.0)
    with subprocess.Popen(["sleep", "600"]) as orphan:
        folder = StateFolder.create(root, "vm")
        (folder.path / "serial.log").write_text("last words")
        (folder.path / "pids.json").write_text(
            f'[{{"name": "QEMU", "pid": {orphan.pid}, "start_time": {start_time(orphan.pid)}}}]'
        )
        os.close(folder._lock)
        assert trio.run(remove_stale, root) == ("vm",)
        assert orphan.wait(60) == -15
    assert (tmp_path / "state/gcs/failed/vm/serial.log").read_text() == "last words"


def test_a_pid_that_is_somebody_elses_by_now_is_left_alone(root: Path) -> None:
    """The start time tells: a recycled pid is not our program."""
    with subprocess.Popen(["sleep", "600"]) as stranger:
        folder = StateFolder.create(root, "vm")
        (folder.path / "pids.json").write_text(
            f'[{{"name": "QEMU", "pid": {stranger.pid}, "start_time": 1}}]'
        )
        os.close(folder._lock)
        assert trio.run(remove_stale, root) == ("vm",)
        assert stranger.poll() is None
        stranger.kill()


async def test_a_started_program_is_on_record(root: Path) -> None:
    """What is written down is what runs."""
    folder = StateFolder.create(root, "vm")
    with (root / "log").open("wb") as log:
        async with spawn("QEMU", ["sleep", "60"], output=log.fileno()) as child:
            folder.record(child)
            assert is_running(child.pid, child.start_time)
            text = (folder.path / "pids.json").read_text()
            expected = f'"pid":{child.pid},"start_time":{child.start_time}'
            assert expected in text
    assert not is_running(child.pid, child.start_time)
    folder.remove()


def test_only_the_newest_ten_failures_are_kept(root: Path, tmp_path: Path) -> None:
    """Logs do not pile up."""
    for number in range(12):
        folder = tmp_path / f"vm{number:02}"
        folder.mkdir()
        (folder / "qemu.log").write_text("x")
        os.utime(keep_logs(folder), (number, number))
    names = sorted(path.name for path in (tmp_path / "state/gcs/failed").iterdir())
    assert names == [f"vm{number:02}" for number in range(2, 12)]
