"""The agent, driven by a host that is not ours: processes, their streams and their ends."""

from pathlib import Path

import pytest
import trio

from tests.support.reference_agent import open_stand
from tests.support.reference_host.frames import Hresult, Rpc, go_json
from tests.support.reference_host.layers import v1_layout, v2_layout
from tests.support.reference_host.process import Process
from tests.support.reference_host.shapes import GuestError
from tests.support.reference_host.specs import oci_process

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

_ID = "0123456789abcdef" * 4
_POD = "fedcba9876543210" * 4
_DISK = "/run/mounts/scsi/0_0_0"
LAYOUTS = {"V1": v1_layout(_ID), "V2": v2_layout(_POD, _ID, _DISK)}
_SIGTERM, _SIGKILL, _SIGPIPE = 15, 9, 13


async def test_terminals(tmp_path: Path) -> None:
    """A terminal has the size that the host gives it; what is none is refused a size."""
    layout = LAYOUTS["V1"]
    loop = "while read line; do stty size; done"
    async with open_stand(tmp_path) as stand:
        container = await stand.create(layout, "sh", "-c", loop, terminal=True)
        init = await container.start(terminal=True)
        exec_ = await container.execute(oci_process("sh", "-c", loop, terminal=True))
        for process, height, width in ((init, 33, 44), (exec_, 55, 66), (init, 77, 88)):
            await process.resize(height, width)
            await process.stdin.send(b"\n")
            await process.stdout.has(b"%d %d\r\n" % (height, width))
        plain = await container.execute(oci_process("sleep", "1000"))
        with pytest.raises(GuestError) as caught:
            await plain.resize(1, 1)
        assert caught.value.result == Hresult.FAIL
        await container.shut_down(Rpc.SHUTDOWN_FORCED)
        for process in (init, exec_, plain):
            assert await process.exit_code() == 128 + _SIGKILL
        assert await container.end() == "ForcedExit"
        await container.delete()


async def test_processes_of_the_vm(tmp_path: Path) -> None:
    """A process without a container has streams, an environment and a status."""
    async with open_stand(tmp_path) as stand:
        run = stand.guest.run
        process = await run("sh", "-c", "cat; env; pwd >&2; exit 5", Environment={"A": "<&>"})
        await process.stdin.send(b"in\n")
        await process.stdin.end()
        assert await process.exit_code() == 5
        lines = process.stdout.data.decode().splitlines()
        assert lines[0] == "in"
        assert "A=<&>" in lines
        assert not any(line.startswith("PATH=/usr/local") for line in lines)
        assert bytes(process.stderr.data) == b"/\n"

        line = await run(
            CommandArgs=None, CommandLine="echo 'a  b' \"c\" d\\ e ; echo not this"
        )
        assert await line.exit_code() == 0
        assert bytes(line.stdout.data) == b"a  b c d e\n"

        shell = await run("sh", "-c", "tty; read x; echo got $x", terminal=True)
        await shell.stdout.has(b"/dev/pts/")
        await shell.stdin.send(b"it\n")
        assert await shell.exit_code() == 0
        assert b"got it" in shell.stdout.data

        silent = await run("sh", "-c", "echo unseen; exit 4", streams=False)
        assert await silent.exit_code() == 4

        with pytest.raises(GuestError):
            await run("/no/such/program")


async def test_a_process_beside_a_container(tmp_path: Path) -> None:
    """A real container's id and CreateInUtilityVm start a process of the VM."""
    async with open_stand(tmp_path) as stand:
        container = await stand.create(LAYOUTS["V1"], "sleep", "1000")
        beside = await stand.guest.run(
            "test", "-d", LAYOUTS["V1"].rootfs, container_id=_ID, CreateInUtilityVm=True
        )
        assert await beside.exit_code() == 0
        await container.delete()


async def test_streams_end_as_hosts_expect(tmp_path: Path) -> None:
    """Output is whole, stdin may stay open, and a stream may end before its process."""
    async with open_stand(tmp_path) as stand:
        container = await stand.create(LAYOUTS["V2"], "sleep", "1000")
        init = await container.start(streams=False)
        many = await container.execute(
            oci_process(
                "sh", "-c", "dd if=/dev/zero bs=64k count=32; dd if=/dev/zero >&2 count=9"
            )
        )
        assert await many.exit_code() == 0
        assert len(many.stdout.data) == 32 * 65536
        assert len(many.stderr.data) > 9 * 512
        # A process that never looks at its stdin, which we keep open.
        deaf = await container.execute(oci_process("true"))
        assert await deaf.exit_code() == 0
        early = await container.execute(oci_process("sh", "-c", "exec >&-; cat >&2"))
        await early.stdout.ended.wait()
        await early.stdin.send(b"still here")
        await early.stderr.has(b"still here")
        await early.stdin.end()
        assert await early.exit_code() == 0
        assert await init.signal()
        assert await container.end() == "ForcedExit"


async def test_waits(tmp_path: Path) -> None:
    """A wait may come early or late, twice, or with a limit; a status is kept."""
    async with open_stand(tmp_path) as stand:
        container = await stand.create(LAYOUTS["V1"], "cat")
        init = await container.start()
        exec_ = await container.execute(oci_process("sh", "-c", "cat; exit 9"))
        for process in (init, exec_):
            with pytest.raises(GuestError) as caught:
                await process.wait_once_more(50)
            assert caught.value.result == Hresult.TIMEOUT
        codes: list[int] = []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(_append_code, codes, exec_)
            await exec_.stdin.end()
            assert await exec_.exit_code() == 9
        assert codes == [9, 9, 9]
        assert await exec_.wait_once_more() == 9
        assert not await exec_.signal(_SIGTERM)
        await init.stdin.end()
        assert await init.exit_code() == 0
        assert await container.end() == "UnexpectedExit"
        assert await init.wait_once_more(50) == 0
        assert await exec_.wait_once_more() == 9
        bridge = stand.guest.bridge
        last_wait = bridge.journal.index(_ID) - 1
        assert bridge.journal[last_wait] == Rpc.WAIT_FOR_PROCESS
        await container.delete()


async def _append_code(codes: list[int], process: Process) -> None:
    codes.append(await process.wait_once_more())


async def test_a_host_that_stops_reading(tmp_path: Path) -> None:
    """A process whose output the host has closed gets an error, and its wait an answer."""
    flood = (
        "while echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; do :; done; exit 3"
    )
    async with open_stand(tmp_path) as stand:
        container = await stand.create(LAYOUTS["V1"], "sh", "-c", f"read x; {flood}")
        init = await container.start()
        exec_ = await container.execute(oci_process("sh", "-c", flood))
        await init.stdin.send(b"\n")
        with trio.fail_after(30):
            for process in (exec_, init):
                await process.stdout.has(b"y")
                await process.stdout.aclose()
                assert await process.exit_code() in (3, 128 + _SIGPIPE)
            assert await container.end() == "UnexpectedExit"
        await container.delete()


async def test_a_process_has_the_streams_that_were_asked_for(tmp_path: Path) -> None:
    """A stream without a port is the end of input, and output that goes nowhere."""
    async with open_stand(tmp_path) as stand:
        container = await stand.create(LAYOUTS["V1"], "sleep", "1000")
        init = await container.start(streams=False)
        command = oci_process("sh", "-c", "cat; echo out; echo err >&2; exit 2")
        silent = await container.execute(command, streams=False)
        assert await silent.exit_code() == 2
        bridge, port = stand.guest.bridge, stand.guest.next_port + 50
        listener = await stand.listen(port)
        settings = {
            "ProcessParameters": go_json({"CreateStdErrPipe": True, "OciProcess": command}),
            # A port whose flag is not set is not dialled: nobody listens there.
            "VsockStdioRelaySettings": {"StdOut": port + 1, "StdErr": port},
        }
        await bridge.call(Rpc.EXECUTE_PROCESS, _ID, Settings=settings)
        with trio.fail_after(60):
            async with await listener.accept() as stream:
                listener.close()
                assert b"".join([bytes(data) async for data in stream]) == b"err\n"
        assert await init.signal()
        assert await container.end() == "ForcedExit"
