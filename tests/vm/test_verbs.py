"""gcsctl's verbs on one container in the background, in a VM of its own."""

import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.stage import Stage

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def nyan(gcsctl_for_module: Stage) -> Iterator[Stage]:
    """A stage with the container "nyan" in it, which only SIGKILL ends."""
    stage = gcsctl_for_module
    script = "trap '' TERM; while :; do sleep 0.2; done"
    words = ("run", "-d", "--name", "nyan", "-e", "COLOUR=pink", str(stage.image))
    done = stage.run(*words, "sh", "-c", script, timeout_s=240)
    assert done.returncode == 0, done.stderr
    yield stage
    stage.run("rm", "-f", "nyan")
    assert stage.leftovers() == []


def test_exec_runs_in_the_container(nyan: Stage) -> None:
    """Its environment and its processes are the container's; the exit status is its own."""
    script = 'read -r line; echo "$line $COLOUR"; cat /proc/1/cmdline; echo e >&2; exit 6'
    done = nyan.run("exec", "-i", "nyan", "sh", "-c", script, stdin=b"hi\n")
    assert done.returncode == 6
    assert done.stdout.startswith(b"hi pink\nsh\0-c\0trap")
    assert done.stderr == b"e\n"


def test_exec_has_a_terminal_if_asked(nyan: Stage) -> None:
    """Of our size, and Ctrl-C is a byte to it."""
    master, slave = pty.openpty()
    os.set_inheritable(slave, True)
    subprocess.run(["stty", "rows", "31", "cols", "99"], stdin=slave, check=True)
    words = ("exec", "-it", "nyan", "sh", "-c", "stty size; exec sleep 1000")
    with nyan.start(*words, terminal=slave) as process:
        said = b""
        while b"31 99\r" not in said:
            said += os.read(master, 4096)
        os.write(master, b"\x03")
        assert process.wait(60) == 130
    os.close(master)
    os.close(slave)


def test_a_missing_command_is_told_in_the_runtime_s_words(nyan: Stage) -> None:
    """127, and the container runs on."""
    done = nyan.run("exec", "nyan", "no-such-command")
    assert done.returncode == 127
    assert b"no-such-command" in done.stderr
    assert nyan.run("exec", "nyan", "true").returncode == 0


def test_exec_in_the_vm_sees_the_vm(nyan: Stage) -> None:
    """The layers' mounts are there, which no container sees; its streams and status too."""
    done = nyan.run("exec", "--vm", "nyan", "cat", "/proc/mounts")
    assert done.returncode == 0, done.stderr
    layers = re.findall(rb"/dev/pmem\d+ /run/layers/p\d+ ext4 ro\S*dax=always", done.stdout)
    assert len(layers) == 7
    done = nyan.run("exec", "--vm", "nyan", "no-such-command")
    assert done.returncode == 127
    words = ("exec", "--vm", "nyan", "sh", "-c", "echo ready; exec sleep 1000")
    with nyan.start(*words) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


def test_stop_kills_and_the_end_is_known_until_rm(nyan: Stage) -> None:
    """137 after SIGKILL; ps -a shows it, and nothing of the VM is left. Runs last."""
    assert b" nyan" in nyan.run("ps").stdout
    assert nyan.run("stop", "-t", "1", "nyan").stdout == b"nyan\n"
    assert nyan.run("wait", "nyan").stdout == b"137\n"
    assert b"Exited (137)" in nyan.run("ps", "-a").stdout
    assert nyan.run("rm", "nyan").returncode == 0
    assert nyan.leftovers() == []
