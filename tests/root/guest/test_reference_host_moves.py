"""The agent loses its host: the same one comes back, another takes over, or one starts anew."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.support.reference_agent import Stand, open_stand
from tests.support.reference_host.container import Container, config_document
from tests.support.reference_host.frames import Rpc, go_json
from tests.support.reference_host.guest import Guest, open_guest
from tests.support.reference_host.layers import v1_layout
from tests.support.reference_host.process import Process
from tests.support.reference_host.specs import oci_process, oci_spec
from tests.support.reference_host.streams import Output

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

_FIRST, _SECOND, _THIRD = "1" * 64, "2" * 64, "3" * 64
_SIGKILL = 9


@dataclass
class Scene:
    """Two containers and what runs in them; each process ends with its stdin."""

    stand: Stand
    first: Container
    first_init: Process
    second: Container
    second_init: Process
    exec_: Process
    of_vm: Process

    @property
    def guest(self) -> Guest:
        return self.stand.guest

    async def lose_the_host(self, *ending: Process) -> None:
        """Lose the bridge; these processes end before anybody is there again."""
        await self.guest.leave()
        for process in ending:
            await process.stdin.end()
            await process.stdout.ended.wait()


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """Start the containers."""
    async with open_stand(folder) as stand:
        with trio.fail_after(240):
            containers = []
            for container_id in (_FIRST, _SECOND):
                container = await stand.create(
                    v1_layout(container_id), "sh", "-c", "cat; exit 5"
                )
                containers.append((container, await container.start()))
            (first, first_init), (second, second_init) = containers
            exec_ = await second.execute(oci_process("sh", "-c", "cat; exit 6"))
            of_vm = await stand.guest.run("sh", "-c", "cat; exit 7")
            yield Scene(stand, first, first_init, second, second_init, exec_, of_vm)


async def quiet(guest: Guest) -> None:
    """See that the guest says nothing that was not asked; the bridge falls if it does."""
    await trio.sleep(0.3)
    await guest.stacks()


def comes_after_its_wait(guest: Guest, container_id: str) -> bool:
    """Tell whether the exit was announced after a wait was answered."""
    journal = guest.bridge.journal
    return Rpc.WAIT_FOR_PROCESS in journal[: journal.index(container_id)]


async def test_the_same_host_comes_back(tmp_path: Path) -> None:
    """What it asked before is answered on the new connection, and exits come after that."""
    async with scene(tmp_path) as s:
        layout = v1_layout(_THIRD)
        await layout.combine(s.guest, [s.stand.layer])
        config = config_document(layout.bundle, oci_spec(layout.rootfs, "true"), layout.scratch)
        third = Container(s.guest, _THIRD)
        late = await s.guest.bridge.send(Rpc.CREATE, _THIRD, ContainerConfig=go_json(config))
        await s.lose_the_host(s.first_init, s.exec_, s.of_vm)
        await s.guest.connect()
        assert await s.first_init.exit_code() == 5
        assert await s.exec_.exit_code() == 6
        assert await s.of_vm.exit_code() == 7
        assert await s.first.end() == "UnexpectedExit"
        assert comes_after_its_wait(s.guest, _FIRST)
        await late.result()
        # What lives goes on.
        again = await s.second.execute(oci_process("true"))
        assert await again.exit_code() == 0
        await s.second_init.stdin.end()
        assert await s.second_init.exit_code() == 5
        assert await s.second.end() == "UnexpectedExit"
        for container in (s.first, s.second, third):
            await container.delete()


async def test_another_host_takes_over(tmp_path: Path) -> None:
    """It knows the waits for inits and no other request; each is answered when it has asked."""
    async with scene(tmp_path) as s:
        saved = s.guest.save([s.first_init, s.second_init])
        await s.lose_the_host(s.first_init, s.exec_, s.of_vm)
        async with open_guest(s.stand.listen) as other:
            await quiet(other)
            (first, first_init), (second, second_init) = await other.take_over(saved)
            assert await first_init.exit_code() == 5
            assert await first.end() == "UnexpectedExit"
            assert comes_after_its_wait(other, _FIRST)
            await quiet(other)
            await s.second_init.stdin.end()
            assert await second_init.exit_code() == 5
            assert await second.end() == "UnexpectedExit"
            await quiet(other)
            for container in (first, second):
                await container.delete()


async def test_both_ended_before_another_host_took_over(tmp_path: Path) -> None:
    """The second container's end is not told while the host asks for the first."""
    async with scene(tmp_path) as s:
        saved = s.guest.save([s.first_init, s.second_init])
        await s.lose_the_host(s.second_init, s.first_init)
        async with open_guest(s.stand.listen) as other:
            for container, init in await other.take_over(saved):
                assert await init.exit_code() == 5
                assert await container.end() == "UnexpectedExit"
            await quiet(other)


async def test_what_ends_after_another_host_took_over(tmp_path: Path) -> None:
    """Waits that the old host had for execs and for the VM's processes are never answered."""
    async with scene(tmp_path) as s:
        saved = s.guest.save([s.first_init, s.second_init])
        await s.lose_the_host()
        async with open_guest(s.stand.listen) as other:
            taken = await other.take_over(saved)
            for process in (s.exec_, s.of_vm):
                await process.stdin.end()
                await process.stdout.ended.wait()
            await quiet(other)
            # That host may lose the bridge as well, and come back to what it knows.
            await other.leave()
            await s.first_init.stdin.end()
            await s.first_init.stdout.ended.wait()
            await other.connect()
            (first, first_init), (second, second_init) = taken
            assert await first_init.exit_code() == 5
            assert await first.end() == "UnexpectedExit"
            await quiet(other)
            assert await second_init.signal()
            assert await second_init.exit_code() == 128 + _SIGKILL
            assert await second.end() == "ForcedExit"


async def test_a_vm_moves_twice(tmp_path: Path) -> None:
    """The wait of the first host is the one that the third one knows."""
    async with scene(tmp_path) as s:
        saved = s.guest.save([s.first_init, s.second_init])
        await s.lose_the_host(s.first_init)
        async with open_guest(s.stand.listen) as second_host:
            taken = await second_host.take_over(saved)
            assert await taken[0][1].exit_code() == 5
            await taken[0][0].end()
            saved = second_host.save([taken[1][1]])
        await s.second_init.stdin.end()
        async with open_guest(s.stand.listen) as third_host:
            await quiet(third_host)
            ((container, init),) = await third_host.take_over(saved)
            assert await init.exit_code() == 5
            assert await container.end() == "UnexpectedExit"


async def test_a_host_that_knows_nothing_of_the_other(tmp_path: Path) -> None:
    """It counts from 0, so old ids mean other requests to it; it may use what there is."""
    async with scene(tmp_path) as s:
        await s.lose_the_host(s.first_init, s.exec_)
        async with open_guest(s.stand.listen) as other:
            for _ in range(s.guest.bridge.next_id + 3):
                await other.stacks()
            await quiet(other)
            first = Container(other, _FIRST)
            wait = {"ProcessId": s.first_init.pid, "TimeoutInMs": 50}
            reply = await other.bridge.call(Rpc.WAIT_FOR_PROCESS, _FIRST, **wait)
            assert reply.number("ExitCode") == 5
            assert await first.end() == "UnexpectedExit"
            await first.delete()
            await quiet(other)


async def test_the_output_of_an_init_goes_on_at_the_next_host(tmp_path: Path) -> None:
    """On the same port, with nothing missing; a terminal stays, and is not told of an end."""
    count = "while test $i -lt $n; do i=$((i+1)); echo $i; sleep 0.01; done"
    # However slow we are, the second half is for the next host.
    script = (
        f"i=0; n=200; {count}; until [ -e /go ]; do sleep 0.1; done; n=400; {count}; exit 5"
    )
    async with open_stand(tmp_path) as stand:
        with trio.fail_after(240):
            plain = await stand.create(v1_layout(_FIRST), "sh", "-c", script)
            typed = await stand.create(v1_layout(_SECOND), "cat", terminal=True)
            inits = [await plain.start(), await typed.start(terminal=True)]
            await inits[0].stdout.has(b"\n100\n")
            saved = stand.guest.save(inits)
            await stand.guest.aclose()  # with every stream
            before = bytes(inits[0].stdout.data)
            async with open_guest(stand.listen) as other, trio.open_nursery() as nursery:
                port = saved.processes[0].ports["StdOut"]
                assert isinstance(port, int)
                output = Output(port, await stand.listen(port))
                nursery.start_soon(output.serve)
                (plain, init), (_, terminal) = await other.take_over(saved)
                await plain.execute(oci_process("sh", "-c", ": >/go"), streams=False)
                await output.ended.wait()
                after = bytes(output.data)
                assert after.endswith(b"\n400\n")
                whole = b"".join(b"%d\n" % number for number in range(1, 401))
                assert whole.startswith(before)
                assert whole.endswith(after)
                assert len(before) + len(after) >= len(whole)
                assert await init.exit_code() == 5
                assert await terminal.signal()
                assert await terminal.exit_code() == 128 + _SIGKILL
