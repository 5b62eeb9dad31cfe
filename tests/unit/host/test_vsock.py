"""Ports of the host and of the guest, over the unix sockets of vhost-device-vsock."""

import itertools
import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import trio
import trio.testing

from gcs.host.vsock import BRIDGE_PORT, HybridVsock, KernelVsock, Listener, Ports, VsockError

PORT = BRIDGE_PORT + 1


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_listener_accepts_one_connection_and_is_gone(tmp_path: Path) -> None:
    """The second dialler finds nobody, and no socket file stays."""
    vsock = HybridVsock(tmp_path / "v", os.getpid())
    with await vsock.listen(PORT) as listener:
        guest = await trio.open_unix_socket(str(tmp_path / f"v_{PORT}"))
        host = await listener.accept()
        await guest.send_all(b"hello")
        assert await host.receive_some() == b"hello"
        with pytest.raises(OSError, match="No such file"):
            await trio.open_unix_socket(str(tmp_path / f"v_{PORT}"))
        await guest.aclose()
        await host.aclose()
    assert names(tmp_path) == []


async def test_a_listener_that_nobody_dialled_leaves_no_file(tmp_path: Path) -> None:
    """Leaving the block removes the socket."""
    vsock = HybridVsock(tmp_path / "v", os.getpid())
    with await vsock.listen(PORT):
        assert names(tmp_path) == [f"v_{PORT}"]
    assert names(tmp_path) == []


async def test_only_the_device_program_may_speak_for_the_guest(tmp_path: Path) -> None:
    """Another process that dials is turned away, and the guest still gets through."""
    path = tmp_path / f"v_{PORT}"
    stranger = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "sys.exit(0 if s.recv(1) == b'' else 1)"
    )
    vsock = HybridVsock(tmp_path / "v", os.getpid())
    with await vsock.listen(PORT) as listener:
        accepted: list[trio.SocketStream] = []

        async def accept() -> None:
            accepted.append(await listener.accept())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            await trio.run_process([sys.executable, "-c", stranger, str(path)])
            assert accepted == []
            guest = await trio.open_unix_socket(str(path))
        await guest.aclose()
        await accepted[0].aclose()


async def test_two_that_come_at_once_are_both_turned_away(tmp_path: Path) -> None:
    """Which of them is the agent's can't be told: a stolen stream is an error, not a stream."""
    path = str(tmp_path / f"v_{PORT}")
    with await HybridVsock(tmp_path / "v", os.getpid()).listen(PORT) as listener:
        guests = [await trio.open_unix_socket(path) for _ in range(3)]
        with pytest.raises(VsockError, match=f"port {PORT}: 3 connections came instead of one"):
            await listener.accept()
        for guest in guests:
            async with guest:
                assert await guest.receive_some() == b""
    assert names(tmp_path) == []


async def test_a_dial_that_was_given_up_and_made_again_is_one(tmp_path: Path) -> None:
    """A guest under load loses patience with its own dial; the second one is it."""
    path = str(tmp_path / f"v_{PORT}")
    with await HybridVsock(tmp_path / "v", os.getpid()).listen(PORT) as listener:
        for _ in range(2):
            await (await trio.open_unix_socket(path)).aclose()
        async with await trio.open_unix_socket(path) as guest:
            await guest.send_all(b"hello")
            async with await listener.accept() as host:
                assert await host.receive_some() == b"hello"


async def test_a_short_stream_that_ended_before_it_was_accepted_is_whole(
    tmp_path: Path,
) -> None:
    """Bytes and end of a process that has exited already are no dial that was given up."""
    path = str(tmp_path / f"v_{PORT}")
    with await HybridVsock(tmp_path / "v", os.getpid()).listen(PORT) as listener:
        await (await trio.open_unix_socket(path)).aclose()
        async with await trio.open_unix_socket(path) as guest:
            await guest.send_all(b"all")
        async with await listener.accept() as host:
            assert [bytes(data) async for data in host] == [b"all"]
    with await HybridVsock(tmp_path / "v", os.getpid()).listen(PORT) as listener:
        await (await trio.open_unix_socket(path)).aclose()
        async with await listener.accept() as host:
            assert await host.receive_some() == b""


async def test_more_dials_than_can_wait_do_no_harm(tmp_path: Path) -> None:
    """Nobody but the device program's own thread waits, until the listener goes."""
    path = tmp_path / f"v_{PORT}"
    with await HybridVsock(tmp_path / "v", os.getpid()).listen(PORT) as listener:
        dials = [socket.socket(socket.AF_UNIX) for _ in range(50)]
        for dial in dials:
            dial.setblocking(False)
        results = [dial.connect_ex(str(path)) for dial in dials]
        assert results.count(0) < 20
        with pytest.raises(VsockError, match="instead of one"):
            await listener.accept()
        for dial in dials:
            dial.close()
    assert names(tmp_path) == []


async def test_a_port_that_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    """There is no socket by that name before, beside and after a listener."""
    vsock = HybridVsock(tmp_path / "v", os.getpid())
    for listens in (False, True, False):
        with await vsock.listen(PORT) if listens else nullcontext():
            for port in (PORT - 1, PORT + 1, 1, 109, 564):
                with pytest.raises(OSError, match="No such file"):
                    await trio.open_unix_socket(str(tmp_path / f"v_{port}"))


async def test_a_listener_that_is_closed_ends_who_accepts(tmp_path: Path) -> None:
    """A step that is taken back does not hang."""
    listener = await HybridVsock(tmp_path / "v", os.getpid()).listen(PORT)

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            listener.close()


def test_ports_of_streams_are_never_used_twice_and_not_to_be_guessed() -> None:
    """They lie above all ports with a meaning, and one tells nothing about the next."""
    ports = Ports()
    taken = [ports.take() for _ in range(1000)]
    assert len(set(taken)) == 1000
    assert all(BRIDGE_PORT < port < socket.VMADDR_PORT_ANY for port in taken)
    gaps = {after - before for before, after in itertools.pairwise(taken)}
    assert len(gaps) > 990
    assert max(taken) - min(taken) > 2**30


async def test_a_taken_port_is_named_in_the_error(tmp_path: Path) -> None:
    """Listening twice on one port says which."""
    vsock = HybridVsock(tmp_path / "v", os.getpid())
    taken = pytest.raises(VsockError, match=f"vsock port {PORT}: .*in use")
    with await vsock.listen(PORT), taken:
        await vsock.listen(PORT)


async def serve_once(path: Path, answer: bytes, task_status: trio.TaskStatus[None]) -> bytes:
    """Answer one greeting as vhost-device-vsock does, and return what came after it."""
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        await listener.bind(str(path))
        listener.listen(1)
        task_status.started()
        connection, _ = await listener.accept()
        async with trio.SocketStream(connection) as stream:
            assert await stream.receive_some() == b"CONNECT 1024\n"
            if not answer:
                return b""
            await stream.send_all(answer)
            return bytes(await stream.receive_some())


async def test_a_connection_to_the_guest_starts_after_the_greeting(tmp_path: Path) -> None:
    """The answer's line is taken, and what follows it at once is the guest's."""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_once, tmp_path / "v", b"OK 1024\nhello")
        async with await HybridVsock(tmp_path / "v", 0).connect(1024) as stream:
            assert await stream.receive_some() == b"hello"


async def test_a_port_where_nobody_listens_is_said(tmp_path: Path) -> None:
    """The device program closes the connection, and the error names the port."""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_once, tmp_path / "v", b"")
        with pytest.raises(VsockError, match="port 1024 of the guest: nobody listens"):
            await HybridVsock(tmp_path / "v", 0).connect(1024)


async def test_a_missing_device_program_is_said(tmp_path: Path) -> None:
    """Without its socket there is a reason, and no hang."""
    with pytest.raises(VsockError, match="No such file"):
        await HybridVsock(tmp_path / "v", 0).connect(1024)


async def test_the_kernels_ports_are_listened_on_by_number() -> None:
    """AF_VSOCK needs no device to listen; a port is free again after the block."""
    vsock = KernelVsock(3)
    for _ in range(2):
        with (
            await vsock.listen(PORT),
            socket.socket(socket.AF_VSOCK) as other,
            pytest.raises(OSError, match="in use"),
        ):
            other.bind((socket.VMADDR_CID_ANY, PORT))


class Kernel:
    """The kernel's vsock as far as a listener sees it, without a device: peers have a cid."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        self.sock.bind(str(path))
        self.sock.listen(8)

    def dial(self, name: Path) -> socket.socket:
        dialler = socket.socket(socket.AF_UNIX)
        dialler.bind(str(name))
        dialler.connect(str(self.path))
        return dialler


async def test_who_is_not_the_guest_is_turned_away_and_the_guest_gets_through(
    tmp_path: Path,
) -> None:
    """On a kernel's vsock every VM of the machine can dial; the one with our cid is it."""
    kernel = Kernel(tmp_path / "kernel")

    def is_guest(connection: socket.socket) -> bool:
        return str(connection.getpeername()) == str(tmp_path / "3")

    with (
        Listener(kernel.sock, PORT, is_guest) as listener,
        kernel.dial(tmp_path / "4") as other,
        kernel.dial(tmp_path / "3") as guest,
    ):
        async with await listener.accept() as host:
            await host.send_all(b"yours")
            assert guest.recv(10) == b"yours"
            assert other.recv(10) == b""
        with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
            late.connect(str(kernel.path))


def test_the_peers_pid_is_that_of_the_process_that_connected(tmp_path: Path) -> None:
    """SO_PEERCRED, on which the check rests, tells processes apart."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({path!r}); input()"
        argv = [sys.executable, "-c", code]
        with subprocess.Popen(argv, stdin=subprocess.PIPE) as child:
            connection, _ = listener.accept()
            with connection:
                raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                assert int.from_bytes(raw[:4], sys.byteorder) == child.pid
            child.communicate(b"\n")
