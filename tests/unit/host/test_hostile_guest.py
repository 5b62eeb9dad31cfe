"""A guest that does its worst: its host loses that VM, within bounded memory, and says why.

First the client by itself, over a unix socket and plain bytes; then gcsctl and its service as
processes, around stand-ins for a VM's programs.
"""

import json
import os
import signal
import socket
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from gcs.errors import CallError, DeadlineError, DisconnectedError
from gcs.host.client import Client, open_client
from gcs.host.logfile import MAX_LOG_SIZE
from gcs.host.process import start_process
from gcs.host.terminal import printable
from gcs.host.vsock import HybridVsock, Ports
from gcs.wire.control import StreamName
from gcs.wire.messages import (
    BRIDGE,
    GetProperties,
    ProcessParameters,
    Start,
    WaitForProcess,
    WaitForProcessReply,
)
from tests.support.hostile_guest import ESCAPES, exited, frame
from tests.support.stage import Stage, interrupt_twice, make_stage, services

if TYPE_CHECKING:
    import subprocess

MIB = 1024 * 1024
#: A service or gcsctl that does nothing has 32 MiB; what they may hold of a guest's is a few
#: buffers, and notifications of 16 MiB.
MAX_RSS = 64 * MIB
START, EXECUTE, WAIT, PROPERTIES = 0x20100201, 0x20100501, 0x20100601, 0x20100901


# -- the client --------------------------------------------------------------------------------


async def answer(guest: trio.SocketStream, data: bytes) -> None:
    """Wait for a request, and answer it with these bytes."""
    await guest.receive_some()
    await guest.send_all(data)


@asynccontextmanager
async def bridge() -> AsyncIterator[tuple[Client, trio.SocketStream]]:
    """A client, and the guest's end of its connection."""
    ours, theirs = (_stream(sock) for sock in socket.socketpair())
    async with theirs, open_client(ours, BRIDGE) as client:
        yield client, theirs


def _stream(sock: socket.socket) -> trio.SocketStream:
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


#: What a guest may answer to a Start, and the reason that is told. The bridge is over then.
BREAKS = {
    "size 4": (frame(START, b"", size=4), "frame header says 4 bytes"),
    "size 2 GiB": (frame(START, b"", size=2**31), "frame header says 2147483648 bytes"),
    "a byte too many": (frame(START, b"", size=65_537), "frame header says 65537 bytes"),
    "an unknown id": (frame(START, b"{}", 77), "no request 77 waits"),
    "an id twice": (frame(START, b"{}", 99), "no request 99 waits"),
    "another type": (frame(WAIT, b"{}"), "instead of 0x20100201"),
    "another version": (frame(START + 1, b"{}"), "instead of 0x20100201"),
    "another category": (frame(0x20F10201, b"{}"), "instead of 0x20100201"),
    "a request": (frame(0x10100201, b"{}"), "unexpected message of type 0x10100201"),
    "a fourth kind": (frame(0x40100201, b"{}"), "unexpected message of type 0x40100201"),
    "an unknown notification": (frame(0x30100201, b"{}"), "unexpected message of type"),
    "no payload": (frame(START, b""), "not JSON"),
    "broken JSON": (frame(START, b'{"Result":0'), "not JSON"),
    "no map": (frame(START, b"[]"), "expected a map"),
    "no text": (frame(START, b'{"ErrorMessage":"\xff"}'), "not JSON"),
    "broken CBOR": (frame(START, b"\xa1\x66Result"), "not CBOR"),
    "endless CBOR": (frame(START, b"\xa1\x7f\x61x\xff\x00"), "indefinite length"),
    "CBOR that lies": (frame(START, b"\xbb" + b"\xff" * 8), "not CBOR"),
    "a result out of range": (frame(START, b'{"Result":2147483648}'), r"\$.Result"),
    "a result of text": (frame(START, b'{"Result":"0"}'), r"\$.Result"),
    "deep JSON": (frame(START, b'{"a":' * 10_000), "not JSON"),
    "deep CBOR": (frame(START, b"\xa1\x61a" + b"\x81" * 60_000), "not CBOR"),
    "many items": (frame(START, b'{"ErrorRecords":[' + b"0," * 30_000 + b"0]}"), "object"),
    "a long quotation": (exited("c", "t" * 60_000), "Invalid enum value"),
    "a torn frame": (frame(START, b"{}")[:-1], "the peer closed the connection"),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_what_breaks_the_protocol_ends_the_bridge_in_a_sentence(name: str) -> None:
    """Who waits gets the reason at once, and so does who comes later."""
    data, reason = BREAKS[name]
    async with bridge() as (client, guest):

        async def answer_and_end() -> None:
            await answer(guest, data)
            await guest.send_eof()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer_and_end)
                with pytest.raises(DisconnectedError, match=reason) as caught:
                    await client.call(Start())
            with pytest.raises(DisconnectedError, match=reason):
                await client.call(Start())
    assert len(str(caught.value)) < 5000
    assert "\n" not in str(caught.value)


async def test_a_second_answer_ends_the_bridge() -> None:
    """The first was taken; the second is to nothing that was asked."""
    async with bridge() as (client, guest), trio.open_nursery() as nursery:
        nursery.start_soon(answer, guest, frame(START, b"{}") + frame(START, b"{}"))
        # Both may be read at once.
        with suppress(DisconnectedError):
            await client.call(Start())
        with trio.fail_after(60):
            await client.disconnected.wait()
        with pytest.raises(DisconnectedError, match="no request 0 waits"):
            await client.call(Start())


async def test_a_byte_at_a_time_is_slow_and_right() -> None:
    """A guest that drips its frames is understood."""
    async with bridge() as (client, guest), trio.open_nursery() as nursery:

        async def drip() -> None:
            await guest.receive_some()
            for byte in frame(WAIT, b'{"ExitCode":7}'):
                await guest.send_all(bytes([byte]))

        nursery.start_soon(drip)
        assert await client.call(WaitForProcess()) == WaitForProcessReply(exit_code=7)


async def test_an_answer_that_never_ends_ends_with_its_deadline() -> None:
    """The caller gives up, the others go on, and the rest of it is dropped when it comes."""
    whole = frame(START, b'{"ErrorMessage":"' + b"x" * 60_000 + b'"}')
    async with bridge() as (client, guest), trio.open_nursery() as nursery:
        nursery.start_soon(answer, guest, whole[:-1000])
        with trio.move_on_after(0.2) as scope:
            await client.call(Start())
        assert scope.cancelled_caught
        rest = whole[-1000:] + frame(WAIT, b'{"ExitCode":1}', 1)
        nursery.start_soon(answer, guest, rest)
        assert (await client.call(WaitForProcess())).exit_code == 1


async def test_notifications_without_end_take_bounded_memory() -> None:
    """An owner that is busy does not collect them: the bridge ends instead."""
    tracemalloc.start()
    async with bridge() as (client, guest):

        async def flood() -> None:
            with suppress(trio.BrokenResourceError):
                while True:
                    await guest.send_all(exited("c" * 60_000))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                with pytest.raises(DisconnectedError, match="256 notifications wait unread"):
                    await client.call(Start())
                nursery.cancel_scope.cancel()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 * MIB


async def test_a_guest_that_reads_nothing_holds_up_its_callers_only() -> None:
    """Requests that it does not read wait for their deadlines, not in our memory."""
    tracemalloc.start()
    async with bridge() as (client, _):
        request = Start(container_id="c" * MIB)

        async def ask() -> None:
            with trio.move_on_after(0.2):
                await client.call(request)

        async with trio.open_nursery() as nursery:
            for _number in range(16):
                nursery.start_soon(ask)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Each caller's own frame, and what it is made of.
    assert peak < 64 * MIB


async def test_an_error_s_text_is_bounded() -> None:
    """It is for a person: what is longer than a guest of ours would send is cut."""
    payload = {"Result": -1, "ErrorMessage": "x" * 50_000}
    async with bridge() as (client, guest), trio.open_nursery() as nursery:
        nursery.start_soon(answer, guest, frame(START, json.dumps(payload).encode()))
        with pytest.raises(CallError) as caught:
            await client.call(Start())
    assert len(caught.value.message) == 4096


async def test_a_stream_that_is_never_dialled_fails_its_process(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The guest says that the process runs, and dials a port that nobody asked for."""
    vsock, port = HybridVsock(tmp_path / "v", os.getpid()), Ports().take()
    async with bridge() as (client, guest), trio.open_nursery() as nursery:

        async def dial_elsewhere() -> None:
            await guest.receive_some()
            with pytest.raises(OSError, match="No such file"):
                await trio.open_unix_socket(str(tmp_path / f"v_{port + 1}"))
            await guest.send_all(frame(EXECUTE, b'{"ProcessId":7}'))

        nursery.start_soon(dial_elsewhere)
        with pytest.raises(DeadlineError, match="stdout of a process in c: its connection"):
            await start_process(
                vsock, client, "c", ProcessParameters(), {StreamName.STDOUT: port}
            )
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240


@pytest.mark.parametrize(
    "properties",
    [
        '{"ProcessList":[{"ProcessId":-1}]}',
        '{"ProcessList":[{"ProcessId":4294967296}]}',
        '{"ProcessList":{}}',
        '{"ProcessList":7}',
        "[" * 60,
        "{",
        "7",
        '"' + "[" * 100 + '"',
    ],
)
async def test_properties_are_held_to_their_types(properties: str) -> None:
    """The document in the string is checked as the message around it is."""
    payload = json.dumps({"Properties": properties}).encode()
    async with bridge() as (client, guest), trio.open_nursery() as nursery:
        nursery.start_soon(answer, guest, frame(PROPERTIES, payload))
        with pytest.raises(DisconnectedError, match=r"\$\.Properties"):
            await client.call(GetProperties())


async def test_properties_with_as_many_processes_as_fit_are_taken() -> None:
    """A frame bounds them: 64 KiB of the shortest are a few thousand records."""
    processes = [{"ProcessId": number} for number in range(2000)]
    text = json.dumps({"ProcessList": processes}, separators=(",", ":"))
    payload = json.dumps({"Properties": text}).encode()
    assert len(payload) < 65_000
    async with bridge() as (client, guest), trio.open_nursery() as nursery:
        nursery.start_soon(answer, guest, frame(PROPERTIES, payload))
        reply = await client.call(GetProperties())
    assert reply.properties.process_list is not None
    assert len(reply.properties.process_list) == 2000


def test_nothing_that_steers_a_terminal_or_hides_gets_through() -> None:
    """Controls of both sets, text direction, what takes no room, line ends, lone surrogates."""
    shown = printable(ESCAPES + "\u2028\u2029\u2069\u200f\u00ad\u2060\U000e0041\ud800\x00\t")
    assert shown.isprintable()
    assert shown.isascii()
    assert printable("käse 猫 🐈 e\u0301") == "käse 猫 🐈 e\u0301"


# -- gcsctl and its service --------------------------------------------------------------------


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage in a folder with a short name, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as folder:
        yield make_stage(Path(folder))


@contextmanager
def started(stage: Stage, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A gcsctl that is gone after the block, even when a test finds that it would not go."""
    with stage.start(*words) as process:
        try:
            yield process
        finally:
            process.kill()


def _peak_rss(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _folder(stage: Stage) -> Path:
    """Wait for the VM's folder: its service has just been started."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in (stage.runtime / "gcs").glob("[!.]*/control"):
            return path.parent
        time.sleep(0.02)
    raise AssertionError("no VM came up")


def _service(folder: Path) -> int:
    return next(pid for pid, words in services() if folder.name in words)


def _check_memory(stage: Stage, client: int) -> None:
    assert _peak_rss(_service(_folder(stage))) < MAX_RSS
    assert _peak_rss(client) < MAX_RSS


def test_escapes_in_an_error_reach_the_terminal_in_words(stage: Stage) -> None:
    """The sentence is one line of printable text, of bounded length."""
    done = stage.attacked("escapes").run("run", str(stage.image), "true")
    assert done.returncode == 125
    text = done.stderr.decode()
    assert text.startswith(f"gcsctl: no such thing {printable(ESCAPES)}") or (
        text.startswith("gcsctl: ") and f"no such thing {printable(ESCAPES)}" in text
    )
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert text[:-1].isascii() or "…" in text
    assert len(text) < 8192
    assert stage.leftovers() == []


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("notifications", "notifications wait unread"),
        ("two GiB", "frame header says 2147483648 bytes"),
        ("theft", "2 connections came instead of one"),
    ],
)
def test_the_host_loses_that_vm_only(stage: Stage, attack: str, reason: str) -> None:
    """The reason is told, nothing is left of it, and another VM has not noticed."""
    words = ("sh", "-c", "echo ready; read -r line; echo $line")
    with stage.start("run", "-i", str(stage.image), *words) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        done = stage.attacked(attack).run("run", str(stage.image), "true")
        said, _ = other.communicate(b"still here\n", timeout=30)
        assert (other.returncode, said) == (0, b"still here\n")
    assert done.returncode == 125
    assert reason in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert stage.leftovers() == []


def test_output_without_end_takes_bounded_memory(stage: Stage) -> None:
    """256 MiB go through; then nobody reads, and neither process collects the rest."""
    attacked = stage.attacked("output")
    with started(attacked, "run", str(stage.image), "true") as process:
        assert process.stdout is not None
        left = 256 * MIB
        while left > 0:
            left -= len(os.read(process.stdout.fileno(), MIB))
        _check_memory(stage, process.pid)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 129
    assert stage.leftovers() == []


def test_a_guest_that_never_reads_stdin_takes_bounded_memory(stage: Stage) -> None:
    """What it does not take stays in our pipe, and Ctrl-C still works."""
    attacked = stage.attacked("deaf")
    with started(attacked, "run", "-i", str(stage.image), "true") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert _fill(process.stdin.fileno()) < 4 * MIB
        _check_memory(stage, process.pid)
        assert interrupt_twice(process) == 130
    assert stage.leftovers() == []


def _fill(fd: int) -> int:
    """Write until nothing has been taken for a second; return how much was."""
    os.set_blocking(fd, False)
    total, last = 0, time.monotonic()
    while time.monotonic() - last < 1 or total == 0:
        try:
            total += os.write(fd, bytes(65536))
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
        assert total < 64 * MIB
    return total


def test_a_console_without_end_fills_no_disk(stage: Stage) -> None:
    """Both logs lose megabytes and say so, their files and the service's memory are bounded."""
    attacked = stage.attacked("console")
    with started(attacked, "run", str(stage.image), "true") as process:
        folder = _folder(stage)
        for name in ("serial.log", "vsock.log"):
            _wait_for_loss(folder / name, 8 * MIB)
            assert (folder / name).stat().st_size <= MAX_LOG_SIZE
        assert _size_of(folder) <= 4 * MAX_LOG_SIZE
        _check_memory(stage, process.pid)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 129
    assert stage.leftovers() == []


def _size_of(folder: Path) -> int:
    """Return the bytes of all files; a log that is begun anew takes the old one's place."""
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def test_output_that_nobody_watches_fills_no_disk(stage: Stage) -> None:
    """A detached container's log is bounded as the console is, and its service as well."""
    words = ("run", "-d", "--rm", str(stage.image), "true")
    done = stage.attacked("output").run(*words)
    assert (done.returncode, done.stderr) == (0, b"")
    folder = _folder(stage)
    service = _service(folder)
    try:
        _wait_for_loss(folder / "stdout.log", 64 * MIB)
        assert (folder / "stdout.log").stat().st_size <= MAX_LOG_SIZE
        assert _peak_rss(service) < MAX_RSS
    finally:
        os.kill(service, signal.SIGTERM)
    _wait_until_gone(stage)


def _wait_until_gone(stage: Stage) -> None:
    deadline = time.monotonic() + 60
    while stage.leftovers():
        assert time.monotonic() < deadline, stage.leftovers()
        time.sleep(0.05)


def _wait_for_loss(path: Path, size: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError), path.open("rb") as file:
            words = file.readline().split()
            if words[1:2] == [b"bytes"] and int(words[0][1:]) > size:
                return
        time.sleep(0.02)
    raise AssertionError(f"{path}: nothing was dropped")


def test_an_exit_that_is_told_again_and_for_others_changes_nothing(stage: Stage) -> None:
    """The container's status is the one that was asked for."""
    done = stage.attacked("exits").run("run", str(stage.image), "true")
    assert (done.returncode, done.stdout) == (3, b"")
    assert stage.leftovers() == []


def test_a_stream_that_is_held_open_after_the_exit_does_not_hold_us(stage: Stage) -> None:
    """What was said is shown, and the run ends with the VM."""
    done = stage.attacked("clinging").run("run", str(stage.image), "true")
    assert (done.returncode, done.stdout) == (3, b"so far")
    assert stage.leftovers() == []


def test_an_exit_status_that_no_process_has_is_no_success(stage: Stage) -> None:
    """256 would be 0 to whoever started us."""
    done = stage.attacked("status").run("run", str(stage.image), "true")
    assert done.returncode == 125
    assert "exit status 256: the guest reports what no process has" in done.stderr.decode()
    assert stage.leftovers() == []
