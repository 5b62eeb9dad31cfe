"""The agent, driven by a host that is not ours: a container's life as hosts in use see it."""

from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.agent import open_agent
from tests.support.reference_agent import Stand, listen_beside, open_stand
from tests.support.reference_host.container import Container
from tests.support.reference_host.frames import NULL_ID, Hresult, Rpc, go_json
from tests.support.reference_host.guest import Guest
from tests.support.reference_host.layers import Layout, v1_layout, v2_layout
from tests.support.reference_host.process import FOREVER
from tests.support.reference_host.shapes import GuestError
from tests.support.reference_host.specs import oci_process, oci_spec, pod_annotations

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

_ID = "0123456789abcdef" * 4
_POD = "fedcba9876543210" * 4
_DISK = "/run/mounts/scsi/0_0_0"
LAYOUTS = {"V1": v1_layout(_ID), "V2": v2_layout(_POD, _ID, _DISK)}
_SIGKILL, _SIGUSR1 = 9, 10
#: Prints a line for each signal that it gets, and ends by SIGTERM with 7.
_TRAPS = "trap 'echo usr' USR1; trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"


async def refused(container: Container, rpc: Rpc, **members: object) -> int:
    """Make a request that must be refused; return the result."""
    with pytest.raises(GuestError) as caught:
        await container.call(rpc, **members)
    return caught.value.result


async def live(stand: Stand, layout: Layout) -> Container:
    """Run a container's whole life but its deletion; its files are mounted."""
    container = await stand.create_mounted(layout, "sh", "-c", _TRAPS)
    init = await container.start()
    await init.stdout.has(b"up")
    echo = await container.execute(oci_process("sh", "-c", 'cat; echo "$ODD" >&2; exit 3'))
    await echo.stdin.send(b"to and fro")
    await echo.stdin.end()
    assert await echo.exit_code() == 3
    assert bytes(echo.stdout.data) == b"to and fro"
    assert bytes(echo.stderr.data).decode() == "<a>&\u2028'\"\\\n"
    assert await init.signal(_SIGUSR1)
    await init.stdout.has(b"usr")
    assert init.pid in await container.processes()
    await container.shut_down()
    assert await init.exit_code() == 7
    assert await container.end() == "GracefulExit"
    return container


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("order", ["unmount, delete", "delete, unmount"])
async def test_a_life_in_either_layout_and_the_same_id_again(
    tmp_path: Path, layout: Layout, order: str
) -> None:
    """Files are mounted, a container lives and is deleted, twice with one id."""
    async with open_stand(tmp_path) as stand:
        with trio.fail_after(240):
            for _ in range(2):
                await layout.combine(stand.guest, [stand.layer])
                container = await live(stand, layout)
                # Hosts shut down what has ended, and go on when they are told so.
                for rpc in (Rpc.SHUTDOWN_GRACEFUL, Rpc.SHUTDOWN_FORCED):
                    assert await refused(container, rpc) == Hresult.SYSTEM_ALREADY_STOPPED
                if order == "unmount, delete":
                    await layout.separate(stand.guest)
                await container.delete()
                if order == "delete, unmount":
                    await layout.separate(stand.guest)
                await container.shut_down()  # the guest has forgotten it
                assert await _is_gone(stand, layout.bundle)


async def _is_gone(stand: Stand, path: str) -> bool:
    probe = await stand.guest.run("test", "-e", path)
    return await probe.exit_code() == 1


async def test_several_containers_at_once(tmp_path: Path) -> None:
    """Containers of both layouts live at the same time; no one is taken for another."""
    layouts = [v1_layout(f"{n}" * 64) for n in range(3)]
    layouts += [v2_layout(_POD, f"{n}" * 64, _DISK) for n in range(3, 6)]

    async def one(stand: Stand, layout: Layout) -> None:
        await layout.combine(stand.guest, [stand.layer])
        container = await live(stand, layout)
        await container.delete()
        await layout.separate(stand.guest)

    async with open_stand(tmp_path) as stand:
        with trio.fail_after(240):
            async with trio.open_nursery() as nursery:
                for layout in layouts:
                    nursery.start_soon(one, stand, layout)
        assert len(stand.guest.bridge.ended) == len(layouts)


async def test_a_pod_and_its_workloads(tmp_path: Path) -> None:
    """Workloads join the namespaces of their pod's sandbox, and end by themselves."""
    pod = v2_layout(_POD, _POD, _DISK)
    async with open_stand(tmp_path) as stand:
        guest = stand.guest
        await pod.combine(guest, [stand.layer])
        pause = oci_spec(pod.rootfs, "sleep", "1000", annotations=pod_annotations())
        sandbox = await guest.create(_POD, pod.bundle, pause, pod.scratch)
        init = await sandbox.start(streams=False)
        for name in ("a", "b"):
            layout = v2_layout(_POD, name * 64, _DISK)
            await layout.combine(guest, [stand.layer])
            spec = oci_spec(
                layout.rootfs,
                *("sh", "-c", "readlink /proc/self/ns/net"),
                annotations=pod_annotations(_POD),
                namespaces={
                    kind: f"/proc/{init.pid}/ns/{file}"
                    for kind, file in (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
                },
            )
            workload = await guest.create(
                layout.container_id, layout.bundle, spec, layout.scratch
            )
            process = await workload.start()
            assert await process.exit_code() == 0
            found = await guest.run("readlink", f"/proc/{init.pid}/ns/net")
            assert await found.exit_code() == 0
            assert process.stdout.data == found.stdout.data
            assert await workload.end() == "UnexpectedExit"
            await layout.separate(guest)
            await workload.delete()
        assert await init.signal()
        assert await init.exit_code() == 128 + _SIGKILL
        assert await sandbox.end() == "ForcedExit"
        await sandbox.delete()
        await pod.separate(guest)


async def test_stacks(tmp_path: Path) -> None:
    """The guest says what its threads do, in a frame that hosts take."""
    async with open_stand(tmp_path) as stand:
        stacks = await stand.guest.stacks()
        assert "File" in stacks
        assert len(stacks) > 100


async def test_what_a_state_does_not_allow(tmp_path: Path) -> None:
    """What is twice, too early or too late is refused by the result that hosts act on."""
    layout = LAYOUTS["V1"]
    async with open_stand(tmp_path) as stand:
        container = await stand.create(layout, "sleep", "1000")
        sleep = oci_process("sleep", "1")
        with pytest.raises(GuestError):
            await container.execute(sleep)  # not started yet
        init = await container.start()
        with pytest.raises(GuestError):
            await container.start()
        config = go_json(
            {
                "SchemaVersion": {"Major": 2, "Minor": 1},
                "OciBundlePath": layout.bundle,
                "OciSpecification": oci_spec(layout.rootfs, "true"),
            }
        )
        again = await refused(container, Rpc.CREATE, ContainerConfig=config)
        assert again == Hresult.SYSTEM_ALREADY_EXISTS
        assert await refused(container, Rpc.DELETE_CONTAINER_STATE) == Hresult.INVALID_STATE
        # Neither has changed anything.
        assert await container.processes() == {init.pid}
        await container.shut_down(Rpc.SHUTDOWN_FORCED)
        assert await init.exit_code() == 128 + _SIGKILL
        with pytest.raises(GuestError):
            await container.execute(sleep)
        await container.delete()
        with pytest.raises(GuestError) as caught:
            await container.delete()
        assert caught.value.result == Hresult.SYSTEM_NOT_FOUND


async def test_a_container_that_never_started(tmp_path: Path) -> None:
    """A container may be deleted, or killed and deleted, before anything ran in it."""
    async with open_stand(tmp_path) as stand:
        for layout in (v1_layout("a" * 64), v2_layout(_POD, "b" * 64, _DISK)):
            container = await stand.create(layout, "true")
            await container.shut_down(Rpc.SHUTDOWN_FORCED)
            assert await container.end() == "ForcedExit"
            await container.delete()
            await layout.separate(stand.guest)


async def test_what_is_not_there(tmp_path: Path) -> None:
    """Each request for a container, a process or a thing that is not there has its result."""
    nobody: dict[str, object] = {"ProcessId": 4194304, "TimeoutInMs": 1000}
    unknown: dict[Rpc, dict[str, object]] = {
        Rpc.SHUTDOWN_GRACEFUL: {},
        Rpc.SHUTDOWN_FORCED: {},
        Rpc.EXECUTE_PROCESS: {"Settings": {"ProcessParameters": "{}"}},
        Rpc.WAIT_FOR_PROCESS: nobody,
        Rpc.SIGNAL_PROCESS: nobody,
        Rpc.RESIZE_CONSOLE: {**nobody, "Height": 1, "Width": 1},
        Rpc.GET_PROPERTIES: {"Query": ""},
        Rpc.DELETE_CONTAINER_STATE: {},
    }
    async with open_stand(tmp_path) as stand:
        bridge = stand.guest.bridge

        async def result(rpc: Rpc, container_id: str, **members: object) -> int:
            with pytest.raises(GuestError) as caught:
                await bridge.call(rpc, container_id, **members)
            return caught.value.result

        for rpc, members in unknown.items():
            assert await result(rpc, "nobody", **members) == Hresult.SYSTEM_NOT_FOUND, rpc
        container = await stand.create(LAYOUTS["V1"], "sleep", "1000")
        for container_id in (_ID, NULL_ID):
            got = await result(Rpc.WAIT_FOR_PROCESS, container_id, **nobody)
            assert got == Hresult.NOT_FOUND, container_id
        assert await result(Rpc.SIGNAL_PROCESS, _ID, **nobody) == Hresult.NOT_FOUND
        assert await result(Rpc.UPDATE_CONTAINER, _ID) == Hresult.NOT_IMPLEMENTED
        again = {"MinimumVersion": 4, "MaximumVersion": 4}
        assert await result(Rpc.NEGOTIATE_PROTOCOL, "", **again) == Hresult.NOT_IMPLEMENTED
        assert await result(Rpc.CREATE, "x", ContainerConfig="{") == Hresult.INVALID_JSON
        assert await result(Rpc.GET_PROPERTIES, _ID, Query="{") == Hresult.INVALID_JSON
        strange = {"RequestType": "Add", "ResourceType": "Moon", "Settings": {}}
        assert await result(Rpc.MODIFY_SETTINGS, NULL_ID, Request=strange) == Hresult.FAIL
        disk = {"ResourceType": "MappedVirtualDisk", "Settings": {"Lun": 300}}
        assert await result(Rpc.MODIFY_SETTINGS, NULL_ID, Request=disk) == Hresult.INVALID_JSON
        await container.delete()


async def test_negotiation(tmp_path: Path) -> None:
    """Nothing is served before it, and only the one version is agreed on."""
    async with open_agent(tmp_path) as agent, trio.open_nursery() as nursery:
        guest = Guest(listen_beside(agent), nursery)
        await guest.accept()
        for call, expected in (
            (guest.stacks, Hresult.NOT_IMPLEMENTED),
            (partial(guest.negotiate, 5, 6), Hresult.UNSUPPORTED_PROTOCOL_VERSION),
            (partial(guest.negotiate, 1, 3), Hresult.UNSUPPORTED_PROTOCOL_VERSION),
            (guest.stacks, Hresult.NOT_IMPLEMENTED),
        ):
            with pytest.raises(GuestError) as caught:
                await call()
            assert caught.value.result == expected
        assert (await guest.negotiate(3, 9)).number("Version") == 4
        assert await guest.stacks()
        await guest.aclose()


async def test_requests_that_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """A host sends all that it wants to know at once; waits hold up nothing."""
    async with open_stand(tmp_path) as stand:
        bridge = stand.guest.bridge
        container = await stand.create(LAYOUTS["V1"], "cat")
        init = await container.start()
        wait = {"ProcessId": init.pid, "TimeoutInMs": FOREVER}
        query = '{"PropertyTypes":["ProcessList"]}'
        waits, others = [], []
        for _ in range(100):
            waits.append(await bridge.send(Rpc.WAIT_FOR_PROCESS, _ID, **wait))
            others.append(await bridge.send(Rpc.DUMP_STACKS, NULL_ID))
            others.append(await bridge.send(Rpc.GET_PROPERTIES, _ID, Query=query))
        with trio.fail_after(30):
            for call in others:
                await call.result()
        assert not any(call.answered.is_set() for call in waits)
        await init.stdin.end()
        for call in waits:
            assert (await call.result()).number("ExitCode") == 0
        assert await container.end() == "UnexpectedExit"
        # The end is told when every wait has been answered.
        assert bridge.journal[-1] == _ID


async def test_settings_as_hosts_shorten_them(tmp_path: Path) -> None:
    """No type of request means Add, a path that is not mounted may be removed."""
    layout = LAYOUTS["V2"]
    async with open_stand(tmp_path) as stand:
        bridge = stand.guest.bridge

        async def modify(**request: object) -> None:
            await bridge.call(Rpc.MODIFY_SETTINGS, NULL_ID, Request=request)

        # Without a scratch to write to, the kernel wants two layers.
        (tmp_path / "empty").mkdir()
        paths = (str(tmp_path / "empty"), stand.layer)
        layers = [{"Path": path, "Id": "x", "PathType": "", "Cache": ""} for path in paths]
        settings = {"ContainerRootPath": layout.rootfs, "Layers": layers}
        await modify(ResourceType="CombinedLayers", Settings=settings)
        found = await stand.guest.run("test", "-e", f"{layout.rootfs}/bin/sh")
        assert await found.exit_code() == 0
        for _ in range(2):
            await layout.separate(stand.guest)
        assert await _is_gone(stand, layout.rootfs)
        for request, expected in (
            ({"ResourceType": "CombinedLayers"}, Hresult.INVALID_JSON),
            ({"ResourceType": "VPMemDevice", "RequestType": "Update", "Settings": {}}, None),
            ({"ResourceType": "SCSIDevice", "RequestType": "Add", "Settings": {}}, None),
        ):
            with pytest.raises(GuestError) as caught:
                await modify(**request)
            assert expected in (None, caught.value.result)
