import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from initramfs.recipes.steps import Progress, StepError, last_line


def test_a_command_is_logged_with_what_it_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Progress().step("one", log) as step:
        step.run(["sh", "-c", "echo out; echo err >&2"])
    assert log.read_text().splitlines() == ["$ sh -c 'echo out; echo err >&2'", "out", "err"]


def test_a_failure_names_the_step_the_reason_and_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        pytest.raises(StepError, match="one: sh ended with status 3: no space") as caught,
        Progress().step("one", log) as step,
    ):
        step.run(["sh", "-c", "echo no space; exit 3"])
    assert str(log) in str(caught.value)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(StepError, match="one: cannot start no-such-program"),
        Progress().step("one", tmp_path / "log") as step,
    ):
        step.run(["no-such-program"])


def test_stdout_can_go_to_a_file_of_its_own(tmp_path: Path) -> None:
    with Progress().step("one", tmp_path / "log") as step:
        step.run(["echo", "hello"], stdout=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "hello\n"
    assert (tmp_path / "log").read_text() == "$ echo hello\n"


def test_an_interrupt_ends_the_command_and_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 60 & echo $! >>{pids}; echo $$ >>{pids}; wait"

    def interrupt() -> None:
        while not pids.exists() or len(pids.read_text().split()) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    progress = Progress()
    with pytest.raises(KeyboardInterrupt), progress.step("one", tmp_path / "log") as step:
        step.run(["sh", "-c", script])
    assert "interrupted" in progress.table()
    # Killed they are by now; those that are not ours to wait for may take a moment to end.
    deadline = time.monotonic() + 60
    while any(map(_runs, pids.read_text().split())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [pid for pid in pids.read_text().split() if _runs(pid)] == []


def _runs(pid: str) -> bool:
    """Say whether a process still runs; one that nobody reaped yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_the_table_tells_what_each_step_took(tmp_path: Path) -> None:
    progress = Progress()
    progress.found("kernel")
    progress.found("kernel")
    with pytest.raises(StepError), progress.step("initrd", tmp_path / "log") as step:
        step.run([sys.executable, "-c", "raise SystemExit(1)"])
    first, second = progress.table().splitlines()
    assert first.split() == ["kernel", "0.0", "s", "there", "already"]
    assert second.split()[-1] == "failed"


def test_the_last_line_of_a_log_is_printable(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n 10%\r 20%\x1b[0m\n\n")
    assert last_line(log) == "20%[0m"
