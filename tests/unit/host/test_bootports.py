"""What a guest finds behind the ports that it dials before its bridge."""

import os
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from gcs.host.bootports import LOG_NAME, open_boot_ports, start_words
from gcs.host.logfile import MAX_LOG_SIZE
from gcs.host.vsock import HybridVsock, VsockError


async def dial(folder: Path, port: int) -> trio.SocketStream:
    return await trio.open_unix_socket(f"{folder}/v_{port}")


@pytest.fixture
def vsock(tmp_path: Path) -> HybridVsock:
    """Return the ports of a guest that this process itself plays."""
    return HybridVsock(tmp_path / "v", os.getpid())


async def test_a_guest_gets_512_random_bytes_and_an_end(
    tmp_path: Path, vsock: HybridVsock
) -> None:
    """Others every time."""
    seen = []
    for _ in range(2):
        async with open_boot_ports(vsock, tmp_path), await dial(tmp_path, 1) as stream:
            seen.append(b"".join([bytes(data) async for data in stream]))
    assert [len(data) for data in seen] == [512, 512]
    assert seen[0] != seen[1]


async def test_the_log_is_kept_and_bounded(tmp_path: Path, vsock: HybridVsock) -> None:
    """Its end stays, whatever a guest says."""
    async with open_boot_ports(vsock, tmp_path):
        async with await dial(tmp_path, 109) as stream:
            for _ in range(40):
                await stream.send_all(b'{"msg":"x"}\n' * 4096)
            await stream.send_all(b'{"msg":"last"}\n')
        # All that was sent is read once nothing moves any more.
        await trio.testing.wait_all_tasks_blocked(0.2)
    log = (tmp_path / LOG_NAME).read_bytes()
    assert len(log) <= MAX_LOG_SIZE
    assert log.endswith(b'{"msg":"last"}\n')


async def test_what_a_guest_said_last_is_in_the_log(tmp_path: Path, vsock: HybridVsock) -> None:
    """Its VM has ended, and with it the block, before anybody could read it."""
    line = b'{"msg":"powering off"}\n'
    with socket.socket(socket.AF_UNIX) as guest:
        async with open_boot_ports(vsock, tmp_path):
            guest.connect(f"{tmp_path}/v_109")
            await trio.testing.wait_all_tasks_blocked(0.02)
            guest.send(line)
    assert (tmp_path / LOG_NAME).read_bytes() == line


async def test_each_port_takes_one_connection(tmp_path: Path, vsock: HybridVsock) -> None:
    """A container that comes later finds nobody."""
    async with (
        open_boot_ports(vsock, tmp_path),
        await dial(tmp_path, 1),
        await dial(tmp_path, 109),
    ):
        await trio.testing.wait_all_tasks_blocked(0.02)
        for port in (1, 109):
            with pytest.raises(OSError, match=r"No such file|refused"):
                await dial(tmp_path, port)


async def test_a_port_that_two_have_dialled_gives_neither_anything(
    tmp_path: Path, vsock: HybridVsock
) -> None:
    """Which of them is PID 1's can't be told; the host goes on."""
    async with open_boot_ports(vsock, tmp_path):
        for port in (1, 109):
            dials = [socket.socket(socket.AF_UNIX) for _ in range(2)]
            for sock in dials:
                sock.connect(f"{tmp_path}/v_{port}")
            await trio.testing.wait_all_tasks_blocked(0.02)
            for sock in dials:
                sock.settimeout(5)
                assert sock.recv(1) == b""
                sock.close()
    assert (tmp_path / LOG_NAME).read_bytes() == b""


async def test_a_guest_that_never_dials_delays_nothing(
    tmp_path: Path, vsock: HybridVsock
) -> None:
    """The ports are closed with the block, and can be opened again; not twice at once."""
    for _ in range(2):
        async with open_boot_ports(vsock, tmp_path):
            with pytest.raises(VsockError, match="port 1"):
                async with open_boot_ports(vsock, tmp_path):
                    pytest.fail("the port is taken")
    assert not any(path.name.startswith("v_") for path in tmp_path.iterdir())  # noqa: ASYNC240


def test_the_words_are_those_of_hosts_in_use() -> None:
    """After the kernel's own, and `--`."""
    assert " ".join(start_words("debug", "-runtime", "crun")) == (
        "-e 1 /bin/vsockexec -e 109 /bin/gcs -v4 -log-format json -loglevel debug -runtime crun"
    )
