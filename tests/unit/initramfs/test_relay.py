"""vsockexec -r over connections that are lost, with unix sockets for those of the host."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from initramfs.recipes import images

SOURCES = Path(__file__).resolve().parents[3] / "initramfs" / "init"

#: In the place of dial.c: a port is a socket in the folder that GCS_TEST_PORTS names.
_DIAL = r"""
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "dial.h"

int dial(unsigned int port, long ms)
{
	struct sockaddr_un host = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(host.sun_path, sizeof(host.sun_path), "%s/%u", getenv("GCS_TEST_PORTS"), port);
	if (!connect(fd, (struct sockaddr *)&host, sizeof(host)))
		return fd;
	close(fd);
	poll(NULL, 0, ms < 20 ? ms : 20);
	return -1;
}
"""
#: Lines of odd lengths, some longer than a pipe, written without regard to their ends.
_PROGRAM = """
import json, os, sys
data = b"".join(
    json.dumps({"n": n, "x": "." * (n * 37 % 300 if n % 500 else 150000)}).encode() + b"\\n"
    for n in range(int(sys.argv[1]))
)
while data:
    data = data[os.write(2, data[:70001]):]
"""


@pytest.fixture(scope="module")
def vsockexec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("relay")
    (folder / "dial.c").write_text(_DIAL)
    names = ("vsockexec.c", "relay.c", "store.c")
    files = [*(SOURCES / name for name in names), folder / "dial.c"]
    out = folder / "vsockexec"
    argv = ["gcc", *images.C_FLAGS, "-I", str(SOURCES), "-o", str(out), *map(str, files)]
    subprocess.run(argv, check=True)
    return out


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """Listen on port 109 of the host."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(tmp_path / "109"))
        sock.listen(4)
        sock.settimeout(60)
        yield sock


def start(vsockexec: Path, folder: Path, count: int) -> "subprocess.Popen[bytes]":
    argv = (str(vsockexec), "-r", "-e", "109", sys.executable, "-c", _PROGRAM, str(count))
    environment = {"PATH": os.environ["PATH"], "GCS_TEST_PORTS": str(folder)}
    return subprocess.Popen(argv, env=environment)


def numbers(data: bytes) -> list[int]:
    """Return the numbers of the lines; each is whole."""
    assert data.endswith(b"\n")
    return [json.loads(line)["n"] for line in data.splitlines()]


@pytest.mark.parametrize("taken", [0, 1, 999, 65_536, 160_000, 500_001])
def test_each_connection_begins_and_goes_on_with_whole_lines(
    vsockexec: Path, listener: socket.socket, tmp_path: Path, taken: int
) -> None:
    """Three are lost in the middle; the last has everything from some line on to the end."""
    count = 6000
    with start(vsockexec, tmp_path, count) as running:
        for _ in range(3):
            connection, _ = listener.accept()
            with connection:
                first = b""
                while len(first) < taken and (data := connection.recv(65_536)):
                    first += data
            for line in first.splitlines()[:-1]:
                json.loads(line)
        connection, _ = listener.accept()
        with connection:
            rest = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert running.wait(60) == 0
    found = numbers(rest)
    assert found == list(range(found[0], count))


def test_a_host_that_comes_late_gets_everything(vsockexec: Path, tmp_path: Path) -> None:
    """The program runs meanwhile; its first lines wait in the pipe."""
    with start(vsockexec, tmp_path, 50) as running, socket.socket(socket.AF_UNIX) as late:
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.3)
        late.bind(str(tmp_path / "109"))
        late.listen(1)
        late.settimeout(60)
        connection, _ = late.accept()
        with connection:
            data = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert running.wait(60) == 0
    assert numbers(data) == list(range(50))


def test_a_program_that_ends_while_nobody_listens_ends_its_relay(
    vsockexec: Path, tmp_path: Path
) -> None:
    """It would be dialled for ever, and never started again."""
    argv = (str(vsockexec), "-r", "-e", "109", "sh", "-c", "exit 6")
    environment = {"PATH": os.environ["PATH"], "GCS_TEST_PORTS": str(tmp_path)}
    assert subprocess.run(argv, env=environment, timeout=20, check=False).returncode == 6
