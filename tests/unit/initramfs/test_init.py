import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from initramfs.recipes import images

SOURCES = Path(__file__).resolve().parents[3] / "initramfs" / "init"
#: A file stays short enough to be read before it is trusted as PID 1.
MAX_LINES = 300


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("init"), "init")


@pytest.fixture(scope="module")
def vsockexec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("vsockexec"), "bin/vsockexec")


def build(folder: Path, place: str) -> Path:
    sources, linking = images.PROGRAMS[place]
    out = folder / "program"
    files = [SOURCES / source for source in sources]
    subprocess.run(["gcc", *images.C_FLAGS, *linking, "-o", out, *files], check=True)
    return out


def test_what_it_says_is_one_line_of_json(program: Path) -> None:
    ran = subprocess.run(
        [program], executable=program, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    message = json.loads(line)
    assert message["level"] == "error"
    assert "not PID 1" in message["msg"]


def test_strange_names_stay_valid_json(program: Path) -> None:
    name = 'a"b\\c\n\x7f\xe9'
    ran = subprocess.run(
        [name], executable=program, capture_output=True, text=True, check=False
    )
    assert 'a"b\\c???' in json.loads(ran.stderr)["msg"]


def test_it_needs_no_library(program: Path) -> None:
    ran = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    assert "not a dynamic executable" in ran.stderr


@pytest.mark.parametrize("path", sorted(SOURCES.glob("*.[ch]")), ids=lambda path: path.name)
def test_each_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_a_program_without_ports_keeps_its_streams_and_arguments(vsockexec: Path) -> None:
    ran = subprocess.run(
        [vsockexec, "-r", "/bin/echo", "-x", "7"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "-x 7\n", "")


@pytest.mark.parametrize("arguments", [[], ["-r"], ["-e", "109"]])
def test_vsockexec_wants_a_program(vsockexec: Path, arguments: list[str]) -> None:
    ran = subprocess.run([vsockexec, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "no program to run" in json.loads(ran.stderr)["msg"]


def test_a_program_that_is_not_there_is_named(vsockexec: Path) -> None:
    ran = subprocess.run(
        [vsockexec, "no-such-program"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    said = json.loads(ran.stderr)
    assert "no-such-program: No such file or directory" in said["msg"]
    assert datetime.fromisoformat(said["time"]).tzinfo is not None


@dataclass
class Host:
    """PID 1's store as a program inherits it, with a connection to port 109 in it."""

    log: socket.socket
    kept: socket.socket
    store: socket.socket
    inherited: socket.socket
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        store = f"{self.inherited.fileno()} 109={self.kept.fileno()}"
        self.environment = {"PATH": os.environ["PATH"], "GCS_STORE": store}

    def run(self, *argv: str | Path) -> "subprocess.CompletedProcess[bytes]":
        """Run vsockexec with what is inherited; from then on only it has the connection."""
        ran = subprocess.run(
            argv,
            env=self.environment,
            pass_fds=(self.inherited.fileno(), self.kept.fileno()),
            capture_output=True,
            timeout=20,
            check=False,
        )
        self.kept.close()
        return ran

    def read_all(self) -> bytes:
        return b"".join(iter(lambda: self.log.recv(65536), b""))


@pytest.fixture
def host() -> Iterator[Host]:
    kept = socket.socketpair()
    store = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kept[0], kept[1], store[0], store[1]:
        kept[0].settimeout(60)
        yield Host(kept[0], kept[1], store[0], store[1])


def test_a_kept_connection_is_used_again(vsockexec: Path, host: Host) -> None:
    """Equal ports are one connection, and what was inherited is not the program's."""
    script = 'echo out; echo err >&2; echo "<$GCS_STORE>"; ls /proc/self/fd | wc -l'
    ran = host.run(vsockexec, "-o", "109", "-e", "109", "sh", "-c", script)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    # Of ls itself: 0, 1, 2 and the folder that it reads.
    assert host.read_all() == b"out\nerr\n<>\n4\n"


def test_a_stream_that_was_not_asked_for_stays(vsockexec: Path, host: Host) -> None:
    ran = host.run(vsockexec, "-e", "109", "sh", "-c", "echo out; echo err >&2")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"out\n", b"")
    assert host.read_all() == b"err\n"


@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("kill -KILL $$", 128 + signal.SIGKILL), ("true", 0)]
)
def test_a_relay_exits_as_its_program_does(
    vsockexec: Path, host: Host, script: str, status: int
) -> None:
    """All that the program has said is there by then, both streams in one."""
    said = f"echo out; echo err >&2; cat /dev/stdin; {script}"
    ran = host.run(vsockexec, "-r", "-i", "5", "-o", "109", "-e", "109", "sh", "-c", said)
    assert (ran.returncode, ran.stdout, ran.stderr) == (status, b"", b"")
    assert host.read_all() == b"out\nerr\n"


def test_a_relay_carries_more_than_a_pipe_holds(vsockexec: Path, host: Host) -> None:
    """Whole and in order, though the reader is slow to begin."""
    argv = [str(vsockexec), "-r", "-o", "109", "seq", "100000"]
    fds = (host.inherited.fileno(), host.kept.fileno())
    with subprocess.Popen(argv, env=host.environment, pass_fds=fds) as running:
        host.kept.close()
        assert host.read_all() == b"".join(b"%d\n" % n for n in range(1, 100_001))
        assert running.wait(60) == 0


def test_a_relay_does_not_wait_for_who_else_has_its_pipe(vsockexec: Path, host: Host) -> None:
    """What the program leaves behind would keep PID 1 from starting it again."""
    ran = host.run(
        vsockexec, "-r", "-e", "109", "sh", "-c", "sleep 15 >/dev/null & echo x >&2; exit 3"
    )
    assert ran.returncode == 3
    assert host.read_all() == b"x\n"


def test_a_relay_without_a_reader_ends_with_its_program(vsockexec: Path, host: Host) -> None:
    """A host that reads nothing keeps the VM from nothing."""
    # The program ends while there is more in the pipe than the connection takes.
    ran = host.run(vsockexec, "-r", "-e", "109", "sh", "-c", "seq 60000 >&2 & sleep 1; exit 4")
    assert ran.returncode == 4


def test_a_relay_has_one_connection(vsockexec: Path) -> None:
    ran = subprocess.run(
        [vsockexec, "-r", "-o", "1", "-e", "2", "true"], capture_output=True, check=False
    )
    assert ran.returncode == 1
    assert "two ports" in json.loads(ran.stderr)["msg"]


def test_an_agent_that_cannot_be_loaded_says_so_in_json() -> None:
    """Outside of the guest its modules are not where it looks for them."""
    script = SOURCES.parent / "agent" / "gcs"
    ran = subprocess.run([sys.executable, "-ISB", script], capture_output=True, check=False)
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    said = json.loads(line)
    assert said["level"] == "fatal"
    assert "No module named 'finder'" in said["stack"]
