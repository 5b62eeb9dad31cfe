"""Programs that live no longer than who started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from gcs.host.child import ChildError, is_running, spawn, start_time


async def test_output_goes_to_the_descriptor_that_was_given(tmp_path: Path) -> None:
    """stdout and stderr alike; stdin is empty."""
    with (tmp_path / "log").open("w+b") as log:
        async with spawn(
            "a shell", ["sh", "-c", "echo out; echo err >&2; cat"], output=log.fileno()
        ) as child:
            assert await child.wait() == 0
        log.seek(0)
        assert log.read() == b"out\nerr\n"


async def test_the_end_is_told_to_all_who_wait(tmp_path: Path) -> None:
    """Several tasks can wait for one program, and late ones too."""
    seen: list[int] = []
    with (tmp_path / "log").open("wb") as log:
        async with spawn("a shell", ["sh", "-c", "exit 3"], output=log.fileno()) as child:

            async def wait() -> None:
                seen.append(await child.wait())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                nursery.start_soon(wait)
            await wait()
            assert child.describe_end() == "ended with status 3"
    assert seen == [3, 3, 3]


async def test_leaving_the_block_ends_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SIGTERM, and by SIGKILL when it does not listen; both are bounded."""
    for script, status, grace_s in (("", -15, 60.0), ("trap '' TERM; echo x;", -9, 1.0)):
        # A machine that has other things to do may take more than a second to end it.
        monkeypatch.setattr("gcs.host.child.TERM_GRACE_S", grace_s)
        argv = ["sh", "-c", f"{script} exec sleep 600"]
        with (tmp_path / "log").open("wb") as log:
            async with spawn("it", argv, output=log.fileno()) as child:
                # Until it has set its trap.
                while status == -9 and not _size(log.fileno()):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            assert child.exit_status == status
        assert not is_running(child.pid, child.start_time)


def _size(fd: int) -> int:
    return os.fstat(fd).st_size


async def test_a_cancelled_block_ends_the_program_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancellation does not skip the end."""
    monkeypatch.setattr("gcs.host.child.TERM_GRACE_S", 60.0)
    with (tmp_path / "log").open("wb") as log, trio.CancelScope() as scope:
        async with spawn("it", ["sleep", "60"], output=log.fileno()) as child:
            scope.cancel()
            await trio.sleep_forever()
    assert child.exit_status == -15


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The error has the name that was looked for."""
    refused = pytest.raises(ChildError, match="start QEMU: no-such-program: not found")
    with (tmp_path / "log").open("wb") as log, refused:
        async with spawn("QEMU", ["no-such-program"], output=log.fileno()):
            pass


async def test_descriptors_are_inherited_by_request_only(tmp_path: Path) -> None:
    """The program has those that it was given, under their numbers, and no others."""
    given, kept = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
    with (tmp_path / "log").open("w+b") as log:
        listing = ["sh", "-c", "ls /proc/$$/fd"]
        async with spawn("ls", listing, output=log.fileno(), inherit=[given]) as child:
            await child.wait()
        log.seek(0)
        found = set(log.read().decode().split())
    assert str(given) in found
    assert str(kept) not in found
    os.close(given)
    os.close(kept)


def test_a_program_dies_with_a_parent_that_is_killed() -> None:
    """SIGKILL of the parent leaves nothing: the kernel ends the program at once."""
    code = (
        "import os, trio\n"
        "from gcs.host.child import spawn\n"
        "async def main():\n"
        "    async with spawn('it', ['sleep', '600'], output=2) as child:\n"
        "        print(child.pid, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        started = start_time(pid)
        # setpriv has asked for the signal once it has become the program.
        while b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
            time.sleep(0.01)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_running(pid, started) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(pid, started)
