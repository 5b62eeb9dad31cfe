"""gcsctl's verbs for containers that run in the background, around stand-ins for a VM."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from gcs.errors import InvalidArgumentError
from gcs.host.connect import connect
from gcs.host.containers import describe, find
from gcs.host.signals import signal_number
from gcs.wire.control import Execute
from tests.support.stage import Stage, make_stage, services

#: A container that ends by SIGTERM, as `sleep` as a pid 1 would not.
SLEEP = ("sleep", "300")
#: One that does not hear it.
DEAF = ("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage whose containers are removed after the test."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as folder:
        made = make_stage(Path(folder))
        yield made
        ids = made.run("ps", "-aq").stdout.decode().split()
        if ids:
            made.run("rm", "-f", *ids)
        assert made.leftovers() == []


def start(stage: Stage, name: str, *command: str, rm: bool = False) -> str:
    """Start a container in the background and return its id."""
    options = ("--rm",) if rm else ()
    done = stage.run("run", "-d", *options, "--name", name, str(stage.image), *command)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rb"[0-9a-f]{64}\n", done.stdout)
    return done.stdout.decode().strip()


def said(stage: Stage, *words: str, status: int = 0) -> str:
    """Run a verb and return what it says, on stdout or, when it fails, on stderr."""
    done = stage.run(*words)
    assert done.returncode == status, done.stderr
    return (done.stderr if status else done.stdout).decode()


def listed(stage: Stage) -> list[dict[str, object]]:
    lines = said(stage, "ps", "-a", "--json").splitlines()
    return [json.loads(line) for line in lines]


def vm_folder(stage: Stage, container_id: str) -> Path:
    return stage.runtime / "gcs" / container_id[:12]


def test_a_detached_container_runs_on_and_is_listed(stage: Stage) -> None:
    """Its id is all that run prints; ps shows it until it is removed."""
    container_id = start(stage, "nyan", *SLEEP)
    header, row = said(stage, "ps").splitlines()
    assert header.split("  ")[0] == "CONTAINER ID"
    assert re.match(rf"{container_id[:12]} .* sleep 300 .* ago +Up .* nyan\s*$", row)
    assert said(stage, "ps", "-q") == f"{container_id[:12]}\n"
    assert said(stage, "rm", "-f", "nyan") == "nyan\n"
    assert stage.leftovers() == []
    assert len(said(stage, "ps", "-a").splitlines()) == 1


def test_stop_lets_a_container_end_and_its_status_stays(stage: Stage) -> None:
    """SIGTERM gives 143; wait and ps tell it until rm, and nothing of the VM is left."""
    container_id = start(stage, "nyan", *SLEEP)
    assert said(stage, "stop", "nyan") == "nyan\n"
    assert said(stage, "wait", "nyan", container_id[:3]) == "143\n143\n"
    (record,) = listed(stage)
    assert (record["State"], record["ExitStatus"]) == ("exited", 143)
    assert said(stage, "ps", "-q") == ""
    assert "Exited (143)" in said(stage, "ps", "-a")
    assert stage.leftovers() == [container_id[:12]]
    assert said(stage, "stop", "nyan") == "nyan\n"
    assert said(stage, "rm", "nyan") == "nyan\n"
    assert stage.leftovers() == []


def test_stop_kills_what_does_not_end(stage: Stage) -> None:
    """After the given time SIGKILL follows: 137."""
    start(stage, "deaf", *DEAF)
    said(stage, "stop", "-t", "0", "deaf")
    assert said(stage, "wait", "deaf") == "137\n"


def test_stop_sends_the_image_s_own_signal(tmp_path: Path) -> None:
    """StopSignal of the image's configuration takes SIGTERM's place."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as folder:
        stage = make_stage(Path(folder), StopSignal="SIGUSR1")
        start(stage, "nyan", *SLEEP)
        said(stage, "stop", "nyan")
        assert said(stage, "wait", "nyan") == f"{128 + signal.SIGUSR1}\n"
        said(stage, "rm", "nyan")


def test_kill_sends_any_signal(stage: Stage) -> None:
    """By name or number; afterwards there is nothing to send one to."""
    start(stage, "nyan", *SLEEP)
    assert said(stage, "kill", "-s", "hup", "nyan") == "nyan\n"
    assert said(stage, "wait", "nyan") == "129\n"
    assert said(stage, "kill", "nyan", status=1) == "gcsctl: container nyan is not running\n"


def test_a_wait_that_began_before_the_end_is_answered(stage: Stage) -> None:
    """And so are several."""
    start(stage, "nyan", *SLEEP)
    with stage.start("wait", "nyan") as first, stage.start("wait", "nyan") as second:
        said(stage, "kill", "nyan")
        assert [first.wait(60), second.wait(60)] == [0, 0]
        assert first.stdout is not None
        assert second.stdout is not None
        assert first.stdout.read() + second.stdout.read() == b"137\n137\n"


def test_with_rm_nothing_is_left_of_the_end(stage: Stage) -> None:
    """A detached container with --rm removes itself."""
    container_id = start(stage, "nyan", *SLEEP, rm=True)
    with stage.start("wait", "nyan") as waiting:
        time.sleep(0.5)  # the wait may as well come too late: then there is no such container
        said(stage, "stop", "nyan")
        assert waiting.wait(60) in (0, 1)
    deadline = time.monotonic() + 60
    while vm_folder(stage, container_id).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert listed(stage) == []


def test_a_name_is_taken_until_its_container_is_removed(stage: Stage) -> None:
    """Running or ended; then it is free at once."""
    container_id = start(stage, "nyan", *SLEEP)
    again = ("run", "-d", "--name", "nyan", str(stage.image), *SLEEP)
    assert f"container {container_id} has it" in said(stage, *again, status=125)
    said(stage, "stop", "nyan")
    assert "remove that one" in said(stage, *again, status=125)
    said(stage, "rm", "nyan")
    assert said(stage, *again) != ""


def test_rm_does_not_remove_what_runs_unless_forced(stage: Stage) -> None:
    """The others are removed all the same; a missing one is a failure, unless forced."""
    start(stage, "one", *SLEEP)
    start(stage, "two", "true")
    said(stage, "wait", "two")
    text = said(stage, "rm", "one", "two", "three", status=1)
    assert text == (
        "gcsctl: container one is running: stop it first, or force the removal\n"
        "gcsctl: no such container: three\n"
    )
    assert [each["Name"] for each in listed(stage)] == ["one"]
    assert said(stage, "rm", "-f", "one", "three") == "one\n"


def test_a_named_container_in_the_foreground_keeps_its_record(stage: Stage) -> None:
    """One without a name, or with --rm, leaves nothing: nobody could ask for it."""
    words = ("run", "--name", "kept", str(stage.image), "sh", "-c", "exit 5")
    assert stage.run(*words).returncode == 5
    assert stage.run("run", "--name", "gone", "--rm", str(stage.image)).returncode == 0
    assert stage.run("run", str(stage.image)).returncode == 0
    assert [(each["Name"], each["ExitStatus"]) for each in listed(stage)] == [("kept", 5)]


def test_exec_runs_a_command_in_the_container(stage: Stage) -> None:
    """Its streams, its environment, its folder and its exit status are the command's."""
    words = ("run", "-d", "--name", "nyan", "-e", "COLOUR=pink", str(stage.image), *SLEEP)
    assert stage.run(*words).returncode == 0
    script = 'read -r line; echo "$line $COLOUR $EXTRA $PWD"; echo err >&2; exit 6'
    options = ("-i", "-e", "EXTRA=x", "-w", "/usr")
    done = stage.run("exec", *options, "nyan", "sh", "-c", script, stdin=b"hello\n")
    assert (done.returncode, done.stdout) == (6, b"hello pink x /usr\n")
    assert done.stderr == b"err\n"


def test_exec_of_what_is_not_there(stage: Stage) -> None:
    """127 for a command, 1 for a container, in one sentence each."""
    start(stage, "nyan", *SLEEP)
    text = said(stage, "exec", "nyan", "no-such-command", status=127)
    assert (
        text == 'gcsctl: runc exec failed: exec: "no-such-command": executable file not found\n'
    )
    assert said(stage, "exec", "no", "true", status=1) == "gcsctl: no such container: no\n"
    said(stage, "stop", "nyan")
    text = said(stage, "exec", "nyan", "true", status=1)
    assert text == "gcsctl: container nyan is not running\n"
    text = said(stage, "exec", "--vm", "-u", "root", "nyan", "true", status=1)
    assert text == "gcsctl: container nyan is not running\n"


def test_exec_in_the_vm_has_the_vm_s_environment(stage: Stage) -> None:
    """Not the container's; and there is only one user."""
    start(stage, "nyan", *SLEEP)
    done = stage.run("exec", "--vm", "-e", "A=b", "nyan", "sh", "-c", "echo $HOME $A; exit 3")
    assert (done.returncode, done.stdout) == (3, b"/root b\n")
    assert "no such program" in said(stage, "exec", "--vm", "nyan", "no-such", status=127)
    text = said(stage, "exec", "--vm", "-u", "neko", "nyan", "true", status=1)
    assert text == "gcsctl: user 'neko': in the VM there is only root\n"


def test_a_signal_goes_to_the_exec_and_not_to_the_container(stage: Stage) -> None:
    """SIGTERM to gcsctl exec ends its command with 143; the container runs on."""
    start(stage, "nyan", *SLEEP)
    with stage.start("exec", "nyan", "sh", "-c", "echo ready; exec sleep 300") as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert listed(stage)[0]["State"] == "running"


def test_a_wait_forgets_an_exec(stage: Stage) -> None:
    """The process that asked has its status; another wait is refused in words."""
    container_id = start(stage, "nyan", *SLEEP)

    async def ask() -> None:
        async with connect(vm_folder(stage, container_id)) as service:
            reply = await service.client.call(Execute(arguments=("true",)))
            for stream in service.take_streams(reply.streams).values():
                await stream.aclose()
            assert reply.process_id

    trio.run(ask)


def test_a_container_whose_vm_dies_has_no_exit_status(stage: Stage) -> None:
    """It is kept as failed, with the reason; wait says that, and fails."""
    container_id = start(stage, "nyan", *SLEEP)
    programs = json.loads((vm_folder(stage, container_id) / "pids.json").read_text())
    with stage.start("wait", "nyan") as waiting:
        pids = {one["name"]: one["pid"] for one in programs}
        os.kill(pids["QEMU"], signal.SIGKILL)
        assert waiting.wait(60) == 1
    text = said(stage, "wait", "nyan", status=1)
    assert text.startswith("gcsctl: container nyan: no exit status: QEMU was killed by SIGKILL")
    (record,) = listed(stage)
    assert record["State"] == "failed"
    assert "Failed" in said(stage, "ps", "-a")


def test_a_service_that_was_killed_is_cleared_away_by_the_next_verb(stage: Stage) -> None:
    """No verb waits for it, and its name is free."""
    container_id = start(stage, "nyan", *SLEEP)
    (service,) = (pid for pid, words in services() if container_id[:12] in words)
    os.kill(service, signal.SIGKILL)
    text = said(stage, "wait", "nyan", status=1)
    assert "no such container: nyan" in text
    start(stage, "nyan", *SLEEP)


def test_what_a_detached_container_says_is_kept_bounded(stage: Stage) -> None:
    """Its output goes to the state folder, and can't fill it."""
    script = "echo hello; head -c 3000000 /dev/zero | tr '\\0' x; echo bye"
    container_id = start(stage, "nyan", "sh", "-c", script)
    said(stage, "wait", "nyan")
    path = vm_folder(stage, container_id) / "stdout.log"
    deadline = time.monotonic() + 60
    while not path.read_bytes().endswith(b"bye\n") and time.monotonic() < deadline:
        time.sleep(0.05)
    kept = path.read_bytes()
    assert kept.endswith(b"bye\n")
    assert b"were dropped" in kept[:100]
    assert len(kept) <= 512 * 1024


def test_a_detached_stdin_stays_open(stage: Stage) -> None:
    """A shell that is started with -di waits for input instead of ending."""
    words = ("run", "-di", "--name", "nyan", str(stage.image), "sh", "-c", "read x; exit 9")
    assert stage.run(*words).returncode == 0
    assert listed(stage)[0]["State"] == "running"


def test_a_refused_command_leaves_no_container(stage: Stage) -> None:
    """Detached or not, with a name or without."""
    words = ("run", "-d", "--name", "nyan", str(stage.image), "no-such-command")
    assert "executable file not found" in said(stage, *words, status=127)
    assert listed(stage) == []


@pytest.mark.parametrize("verb", [("stop",), ("rm", "-f")])
def test_a_container_that_is_still_starting_can_be_ended(
    stage: Stage, verb: tuple[str, ...]
) -> None:
    """Whoever has started it is told so, or gets its exit status if it has made it."""
    words = ("run", "--name", "nyan", "--rm", str(stage.image), *SLEEP)
    with stage.start(*words) as process:
        while not listed(stage):
            assert process.poll() is None
        said(stage, *verb, "nyan")
        assert process.wait(60) in (125, 137, 143)
        assert process.stderr is not None
        told = process.stderr.read().decode()
    if process.returncode == 125:
        assert told == "gcsctl: container nyan was ended before it started\n"
    assert stage.leftovers() == []


#: What a service does at its end: it is not to be reached, and then leaves a record.
_ENDING = """
import fcntl, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
lock = open(folder / "lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(0.5)
record = '{"Result":0,"ContainerId":"a1","State":"exited","ExitStatus":7}'
(folder / "exited.json").write_text(record)
"""


def test_a_container_whose_service_is_just_ending_is_listed(tmp_path: Path) -> None:
    """Between its last answer and its record it is waited for, and does not vanish."""
    folder = tmp_path / "a1"
    folder.mkdir()
    (folder / "claim.json").write_text('{"container_id": "a1", "name": "nyan"}')
    argv = [sys.executable, "-c", _ENDING, str(folder)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as ending:
        assert ending.stdout is not None
        assert ending.stdout.readline() == b"held\n"
        told = trio.run(describe, find(tmp_path, "nyan"))
    assert told is not None
    assert (told.state, told.exit_status) == ("exited", 7)


def test_a_beginning_that_several_ids_have_is_refused(tmp_path: Path) -> None:
    """A name wins over the beginning of an id."""
    for container_id, name in (("a1" * 32, "x"), ("a2" * 32, "a1")):
        folder = tmp_path / container_id[:12]
        folder.mkdir()
        claim = {"container_id": container_id, "name": name}
        (folder / "claim.json").write_text(json.dumps(claim))
    with pytest.raises(InvalidArgumentError, match="2 containers"):
        find(tmp_path, "a")
    assert find(tmp_path, "a1").claim.name == "a1"
    assert find(tmp_path, "a1a").claim.name == "x"


@pytest.mark.parametrize(
    ("text", "number"),
    [("15", 15), ("TERM", 15), ("sigterm", 15), ("SIGRTMIN+3", 37), ("rtmin+0", 34)],
)
def test_signals_have_names_and_numbers(text: str, number: int) -> None:
    """As people and images write them."""
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "SIG", "NO", "RTMIN+99", "-1", "_", "9" * 5000]
)
def test_what_is_no_signal_is_refused(text: str) -> None:
    """In words, whatever it is."""
    with pytest.raises(InvalidArgumentError, match="there is none of that name"):
        signal_number(text)
