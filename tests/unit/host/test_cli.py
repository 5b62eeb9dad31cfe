"""gcsctl and its service as processes, around a VM whose programs are stand-ins."""

import hashlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from gcs.host.cli import main
from gcs.host.connect import connect
from gcs.wire.control import Describe, DescribeReply
from tests.support.oci import tar_of
from tests.support.stage import Stage, interrupt_twice, make_stage, services


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage in a folder with a short name, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as folder:
        yield make_stage(Path(folder))


def wait_until_it_says(process: "subprocess.Popen[bytes]", word: bytes) -> None:
    assert process.stdout is not None
    said = b""
    while word not in said:
        data = os.read(process.stdout.fileno(), 4096)
        assert data, f"ended after {said!r}"
        said += data


def test_the_exit_status_is_the_containers(stage: Stage) -> None:
    """Output is the container's alone, and nothing is left behind."""
    done = stage.run("run", str(stage.image), "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert stage.leftovers() == []


def test_a_container_killed_by_a_signal_gives_128_plus_its_number(stage: Stage) -> None:
    """SIGTERM is 15."""
    done = stage.run("run", str(stage.image), "sh", "-c", "kill -TERM $$")
    assert done.returncode == 143


def test_a_container_with_a_network_leaves_nothing_of_it(stage: Stage) -> None:
    """Its NIC is taken off it, and unplugged, before the VM ends."""
    done = stage.run("run", "-p", "18080:80", str(stage.image), "true")
    assert (done.returncode, done.stderr) == (0, b"")
    assert stage.leftovers() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-p", "80"), b"'80': expected [IP:]PORT:CONTAINER-PORT[/udp]"),
        (("--network", "none", "-p", "80:80"), b"--network none has no such ports"),
        (("--network", "tap:t0", "-p", "80:80"), b"--network tap has no such ports"),
        (("--network", "tap:no-such-tap"), b"tap no-such-tap: no such device"),
        (("--network", "host"), b"'host': expected user, passt, none or tap:NAME"),
    ],
)
def test_a_network_that_can_not_be_is_refused_at_once(
    stage: Stage, options: tuple[str, ...], words: bytes
) -> None:
    """Before anything is started."""
    done = stage.run("run", *options, str(stage.image), "true")
    assert done.returncode != 0
    assert words in done.stderr
    assert stage.leftovers() == []


def test_stdin_is_connected_on_request_and_ends(stage: Stage) -> None:
    """-i passes stdin through to its end; every byte comes back."""
    data = os.urandom(3_000_000)
    done = stage.run("run", "-i", str(stage.image), "cat", stdin=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    assert done.returncode == 0


def test_without_i_stdin_is_empty(stage: Stage) -> None:
    """The container does not get our stdin by accident."""
    done = stage.run("run", str(stage.image), "cat", stdin=b"secret")
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize(
    ("command", "status", "sentence"),
    [("no-such-command", 127, b"executable file not found"), ("/etc", 126, b"permission")],
)
def test_a_command_that_can_not_be_run_is_told_in_the_runtimes_words(
    stage: Stage, command: str, status: int, sentence: bytes
) -> None:
    """127 for a missing command, 126 for one that is none, and no logs are kept for either."""
    done = stage.run("run", str(stage.image), command)
    assert done.returncode == status
    assert done.stderr.startswith(b"gcsctl: runc create failed: exec: ")
    assert sentence in done.stderr
    assert stage.leftovers() == []
    assert list(stage.state.rglob("*.log")) == []


def test_a_signal_goes_to_the_container(stage: Stage) -> None:
    """The container decides what SIGTERM means."""
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with stage.start("run", str(stage.image), "sh", "-c", script) as process:
        wait_until_it_says(process, b"ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 9
    assert stage.leftovers() == []


def test_a_second_interrupt_ends_everything(stage: Stage) -> None:
    """A container that ignores Ctrl-C does not keep its VM."""
    script = "trap '' INT; echo ready; while :; do sleep 0.05; done"
    with stage.start("run", str(stage.image), "sh", "-c", script) as process:
        wait_until_it_says(process, b"ready")
        assert interrupt_twice(process) == 130
    assert stage.leftovers() == []


def test_impatience_does_not_cut_the_clean_up_short(stage: Stage) -> None:
    """Whoever goes on pressing Ctrl-C gets 130, no traceback, and nothing is left behind."""
    with stage.start("run", "--verbose", str(stage.image), "sleep", "60") as process:
        assert process.stderr is not None
        assert b"read the image" in process.stderr.readline()
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        # The interpreter's own end is all that a signal can cut short.
        assert process.returncode in (130, -signal.SIGINT)
        assert b"Traceback" not in process.stderr.read()
    assert stage.leftovers() == []


@pytest.mark.parametrize("moment_s", [0.3, 0.6, 0.9, 1.2])
def test_an_interrupt_at_any_moment_leaves_nothing(stage: Stage, moment_s: float) -> None:
    """Before, while and after the VM comes up: no process, no folder."""
    with stage.start("run", str(stage.image), "sleep", "60") as process:
        time.sleep(moment_s)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) in (129, -signal.SIGHUP)
    assert stage.leftovers() == []


def test_a_closed_stdout_ends_the_run_as_sigpipe_does(stage: Stage) -> None:
    """`gcsctl run IMAGE … | head -1` ends, without a word of ours on stderr."""
    words = ("sh", "-c", "exec 2>/dev/null; exec yes")
    with stage.start("run", str(stage.image), *words) as process:
        wait_until_it_says(process, b"y\n")
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert stage.leftovers() == []


def test_a_full_disk_is_told(stage: Stage) -> None:
    """Output that can't be written is a failure of ours, with the reason."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            stage.command("run", str(stage.image), "echo", "x"),
            env=stage.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
    assert done.returncode == 125
    assert done.stderr == b"gcsctl: write to stdout: No space left on device\n"
    assert stage.leftovers() == []


def test_closed_standard_streams_do_no_harm(stage: Stage) -> None:
    """No socket of ours takes the number of a closed stdin or stdout."""
    words = " ".join(stage.command("run", "-i", str(stage.image), "cat"))
    done = subprocess.run(
        ["sh", "-c", f"exec {words} <&- >&-"],
        env=stage.environment,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_dead_client_takes_the_vm_with_it(stage: Stage) -> None:
    """SIGKILL of gcsctl ends the service, which ends the rest."""
    with stage.start("run", str(stage.image), "sh", "-c", "echo ready; sleep 60") as process:
        wait_until_it_says(process, b"ready")
        process.kill()
    deadline = time.monotonic() + 60
    while stage.leftovers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert stage.leftovers() == []


def test_a_killed_service_leaves_nothing_and_is_told(stage: Stage) -> None:
    """Its programs die with it, and gcsctl removes the folder and keeps the logs."""
    with stage.start("run", str(stage.image), "sh", "-c", "echo ready; sleep 60") as process:
        wait_until_it_says(process, b"ready")
        folder, service = _only_vm(stage)
        os.kill(service, signal.SIGKILL)
        assert process.wait(60) == 125
        assert process.stderr is not None
        assert b"the service was killed by SIGKILL" in process.stderr.read()
    assert stage.leftovers() == []
    assert (stage.state / "gcs" / "failed" / folder.name / "serial.log").exists()


def test_what_a_killed_pair_leaves_is_removed_by_the_next_gcsctl(stage: Stage) -> None:
    """When nobody is left to clean up, a later run does it, and says so."""
    with stage.start("run", str(stage.image), "sh", "-c", "echo ready; sleep 60") as process:
        wait_until_it_says(process, b"ready")
        folder, service = _only_vm(stage)
        process.kill()
        os.kill(service, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(pid == service for pid, _ in services()):
        assert time.monotonic() < deadline, "the service lives on"
        time.sleep(0.02)
    assert folder.name in stage.leftovers()
    done = stage.run("run", str(stage.image), "true")
    assert done.returncode == 0
    assert folder.name.encode() in done.stderr
    assert stage.leftovers() == []


def test_a_vm_that_dies_under_a_container_is_told(stage: Stage) -> None:
    """The end of QEMU is the reason, not the lost connection that it caused."""
    with stage.start("run", str(stage.image), "sh", "-c", "echo ready; sleep 60") as process:
        wait_until_it_says(process, b"ready")
        folder, _ = _only_vm(stage)
        pids = {one["name"]: one["pid"] for one in json.loads(_read(folder / "pids.json"))}
        os.kill(pids["QEMU"], signal.SIGKILL)
        assert process.wait(60) == 125
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert said.startswith("gcsctl: QEMU was killed by SIGKILL; the guest's console ends:")
    assert stage.leftovers() == []


def _read(path: Path) -> str:
    return path.read_text()


def _only_vm(stage: Stage) -> tuple[Path, int]:
    (folder,) = (path for path in (stage.runtime / "gcs").iterdir() if path.name[0] != ".")
    return folder, next(pid for pid, words in services() if folder.name in words)


def test_every_step_is_told_on_request_to_the_last(stage: Stage) -> None:
    """With --verbose each step has a line on stderr with its time, in the order of the ends."""
    done = stage.run("run", "--verbose", str(stage.image), "echo", "x")
    assert (done.returncode, done.stdout) == (0, b"x\n")
    told = re.findall(r"^(.*): \d+\.\d\d s$", done.stderr.decode(), re.MULTILINE)
    assert told[0] == "read the image"
    assert told[-4:] == [
        "mount the layers",
        "create the container",
        "start the container",
        "take the container down",
    ]


def test_a_failure_is_one_sentence_and_keeps_the_logs(stage: Stage) -> None:
    """The reason is the program's own, and the folder with the logs is named."""
    program = Path(stage.environment["GCS_VHOST_DEVICE_VSOCK"])
    program.write_text("#!/bin/sh\nprintf 'no \\033[31mluck\\n' >&2\nexit 4\n")
    done = stage.run("run", str(stage.image), "true")
    assert done.returncode == 125
    text = done.stderr.decode()
    assert text.startswith("gcsctl: vhost-device-vsock ended with status 4; it printed: no")
    assert "\x1b" not in text
    kept = Path(text.rstrip().rpartition("logs are in ")[2])
    assert (kept / "vsock.log").read_bytes().startswith(b"no ")
    assert stage.leftovers() == []


async def describe(path: Path) -> DescribeReply:
    async with connect(path) as service:
        return await service.client.call(Describe())


def test_the_control_socket_tells_what_the_service_owns(stage: Stage) -> None:
    """It is in a folder that only its owner can enter."""
    words = ("--name", "cat", str(stage.image), "sh", "-c", "echo ready; sleep 60")
    with stage.start("run", *words) as process:
        wait_until_it_says(process, b"ready")
        (folder,) = (path for path in (stage.runtime / "gcs").iterdir() if path.name[0] != ".")
        assert folder.stat().st_mode & 0o777 == 0o700
        told = trio.run(describe, folder)
        assert (told.container_id[:12], told.name, told.state) == (
            folder.name,
            "cat",
            "running",
        )
        assert told.image == str(stage.image)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 129


def test_a_terminal_is_raw_meanwhile_and_restored(stage: Stage) -> None:
    """With -it our terminal's settings are the same after as before."""
    master, slave = pty.openpty()
    before = subprocess.run(["stty", "-g"], stdin=slave, capture_output=True, check=True).stdout
    with stage.start(
        *("run", "-it", str(stage.image), "sh", "-c", "echo ready; cat"),
        terminal=slave,
    ) as process:
        said = b""
        while b"ready" not in said:
            said += os.read(master, 4096)
        during = subprocess.run(["stty", "-a"], stdin=slave, capture_output=True, check=True)
        assert b"-icanon" in during.stdout
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 129
    after = subprocess.run(["stty", "-g"], stdin=slave, capture_output=True, check=True).stdout
    assert after == before
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "--memory", "12", "x"), "expected a size such as 256M"),
        (("run", "--memory", "0M", "x"), "expected a size such as 256M"),
        (("run", "--memory", "1025G", "x"), "the most is 1024G"),
        (("run", "--cpus", "0", "x"), "expected a number from 1"),
        (("run", "-e", "=x", "x"), "expected KEY=VALUE"),
        ((), "VERB"),
    ],
)
def test_bad_words_are_refused_with_a_reason(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is started for a command line that can't be meant."""
    with pytest.raises(SystemExit):
        main(arguments)
    assert sentence in capsys.readouterr().err


def test_an_image_that_is_not_there_is_said_before_anything_starts(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is in the sentence, made printable."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(stage.runtime))
    assert main(["run", "/no/such\x1bimage"]) == 125
    sentence = "image /no/such\\x1bimage: no such file or folder, and no imported image"
    assert capsys.readouterr().err == f"gcsctl: {sentence}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "mem-path={0}/root-image,size=0"),
        (("--boot", "initrd"), "-initrd {0}/initrd"),
        (("--boot", "pmem"), "mem-path={0}/root-image,size=0"),
        (("--initrd", "{0}/kernel"), "-initrd {0}/kernel"),
        (("--root-image", "{0}/kernel"), "mem-path={0}/kernel,size=0"),
    ],
)
def test_the_vm_boots_from_what_was_asked_for(
    stage: Stage, arguments: tuple[str, ...], words: str
) -> None:
    """A form that is not named is that of the image that is."""
    folder = Path(stage.environment["GCS_INITRD"]).parent
    given = [word.format(folder) for word in arguments]
    said = folder / "argv"
    environment = {**stage.environment, "GCS_TEST_ARGV": str(said)}
    done = replace(stage, environment=environment).run("run", *given, str(stage.image))
    assert (done.returncode, done.stderr) == (0, b"")
    assert words.format(folder) in said.read_text()


@pytest.mark.parametrize(("form", "option"), [("pmem", "--initrd"), ("initrd", "--root-image")])
def test_an_image_of_the_other_boot_form_is_refused(
    stage: Stage, form: str, option: str
) -> None:
    """It would be ignored otherwise."""
    done = stage.run("run", "--boot", form, option, "/some/file", str(stage.image))
    assert done.returncode == 125
    assert f"{option} /some/file: --boot {form} has no " in done.stderr.decode()
    assert stage.leftovers() == []


@pytest.mark.parametrize(
    ("form", "size", "words"),
    [
        ("pmem", "63M", "a root image is 64M\n"),
        ("initrd", "64M", "an initrd is 96M, and 64M with --boot pmem\n"),
    ],
)
def test_a_vm_that_would_not_come_up_for_want_of_memory_is_refused(
    stage: Stage, form: str, size: str, words: str
) -> None:
    """Before anything is started; tests/vm/test_root.py runs the smallest ones."""
    done = stage.run("run", "--boot", form, "--memory", size, str(stage.image))
    assert done.returncode == 125
    sentence = f"gcsctl: --memory {size}: the least for a VM that boots from {words}"
    assert done.stderr.decode() == sentence
    assert stage.leftovers() == []


def test_no_way_out_is_named_that_would_be_refused(stage: Stage) -> None:
    """Who names an initrd can't have --boot pmem with it."""
    options = ("--initrd", str(stage.image / "oci-layout"), "--memory", "64M")
    done = stage.run("run", *options, str(stage.image))
    sentence = "the least for a VM that boots from an initrd is 96M\n"
    assert done.stderr.decode() == f"gcsctl: --memory 64M: {sentence}"


def test_a_tar_of_a_layout_is_an_image_too(stage: Stage) -> None:
    """It is read where it lies."""
    tar = tar_of(stage.image, stage.state / "image.tar")
    done = stage.run("run", str(tar), "echo", "from a tar")
    assert (done.returncode, done.stdout) == (0, b"from a tar\n")


def test_no_scratch_file_is_left_in_tmpdir(stage: Stage) -> None:
    """The scratch disk has no name."""
    folder = Path(stage.environment["TMPDIR"])
    assert stage.run("run", str(stage.image)).returncode == 0
    assert list(folder.iterdir()) == []
    shutil.rmtree(folder)
