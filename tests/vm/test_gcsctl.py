"""gcsctl run, from the command line to the exit status, each time in a VM of its own."""

import hashlib
import os
import pty
import re
import signal
import subprocess
import time

import pytest

from tests.support.stage import Stage

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

MIB = 1024 * 1024


def read_until(fd: int, pattern: bytes) -> bytes:
    """Read until the pattern has been seen; the test's own timeout bounds it."""
    said = b""
    while not re.search(pattern, said):
        data = os.read(fd, 65536)
        assert data, f"ended after {said!r}"
        said += data
    return said


def test_output_and_exit_status_are_the_containers(gcsctl: Stage) -> None:
    """Both streams arrive apart, the status is 7, and nothing is left behind."""
    script = "echo x >/dev/stdout; echo y >/dev/stderr; exit 7"
    done = gcsctl.run("run", str(gcsctl.image), "sh", "-c", script, timeout_s=240)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"x\n", b"y\n")
    assert gcsctl.leftovers() == []


def test_64_mib_through_cat_arrive_whole(gcsctl: Stage) -> None:
    """stdin reaches the container, its end too, and every byte comes back."""
    data = os.urandom(64 * MIB)
    done = gcsctl.run("run", "-i", str(gcsctl.image), "cat", stdin=data, timeout_s=280)
    assert done.returncode == 0
    assert len(done.stdout) == len(data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize(
    ("command", "status", "sentence"),
    [
        ("no-such-command", 127, b"executable file not found"),
        ("/etc/passwd", 126, b"permission denied"),
    ],
)
def test_a_command_that_can_not_be_run_is_told_in_the_runtimes_words(
    gcsctl: Stage, command: str, status: int, sentence: bytes
) -> None:
    """127 for a missing command and 126 for a file that is none, in one sentence."""
    done = gcsctl.run("run", str(gcsctl.image), command, timeout_s=240)
    assert done.returncode == status
    assert sentence in done.stderr
    assert done.stderr.startswith(b"gcsctl: ")
    assert done.stderr.count(b"\n") == 1
    assert gcsctl.leftovers() == []


def test_sigterm_reaches_the_container(gcsctl: Stage) -> None:
    """A program that is ended by it gives 143."""
    script = "trap 'exit 143' TERM; echo ready; while :; do sleep 0.1; done"
    with gcsctl.start("run", str(gcsctl.image), "sh", "-c", script) as process:
        assert process.stdout is not None
        read_until(process.stdout.fileno(), b"ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert gcsctl.leftovers() == []


@pytest.mark.parametrize(
    "step", ["boot the VM", "mount the layers", "create the container", "start the container"]
)
def test_an_interrupt_after_any_step_leaves_nothing(gcsctl: Stage, step: str) -> None:
    """Ctrl-C while a VM is being set up ends with 130 and leaves no process and no folder."""
    previous = {
        "boot the VM": b"read the image: ",
        "mount the layers": b"boot the VM: ",
        "create the container": b"mount the layers: ",
        "start the container": b"create the container: ",
    }[step]
    # Should the step be over sooner than we are: it may be interrupted as well.
    words = ("sh", "-c", "trap 'exit 130' INT; sleep 600 & wait")
    with gcsctl.start("run", "--verbose", str(gcsctl.image), *words) as process:
        assert process.stderr is not None
        read_until(process.stderr.fileno(), previous)
        # Somewhere in the middle of the step.
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)  # of two that are there at once it sees one
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert gcsctl.leftovers() == []


def test_a_terminal_has_our_size_and_follows_it(gcsctl: Stage) -> None:
    """With -it the container sees a terminal of our size, and Ctrl-C is a byte to it."""
    master, slave = pty.openpty()
    os.set_inheritable(slave, True)
    subprocess.run(["stty", "rows", "33", "cols", "101"], stdin=slave, check=True)
    # Ctrl-C means nothing to a pid 1, so it is a child of it that speaks and then sleeps.
    script = 'stty size; read -r line; sh -c "echo got $line; exec sleep 1000"'
    words = ("run", "-it", str(gcsctl.image), "sh", "-c", script)
    with gcsctl.start(*words, terminal=slave) as process:
        read_until(master, rb"33 101\r")
        os.write(master, b"nyan\r")
        read_until(master, rb"got nyan\r")
        os.write(master, b"\x03")
        assert process.wait(60) == 130
    os.close(master)
    os.close(slave)
    assert gcsctl.leftovers() == []
