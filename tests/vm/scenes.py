"""What a host asks of one VM, scene by scene: its containers, its processes, what it tells.

The scenes of storage are in `scenes_storage`; the table of all is in `test_every_request`.
"""

import secrets
from collections.abc import Iterator

import pytest
import trio
from msgspec.structs import replace as with_members

from gcs.errors import DisconnectedError, Hresult
from gcs.guest.spec import annotations
from gcs.host import network
from gcs.host.bridge import call
from gcs.host.container import Container, rootfs_path
from gcs.host.guest_scratch import GuestScratch
from gcs.host.process import Process, Streams, start_process
from gcs.host.spec import Command, User, runtime_spec
from gcs.wire import messages
from gcs.wire.control import StreamName
from gcs.wire.extensions import ReportMounts, WaitForOutOfMemory
from gcs.wire.properties import PropertyQuery, PropertyType
from gcs.wire.resource import (
    RESOURCES,
    ContainerConstraints,
    IPConfig,
    MappedVirtualDisk,
    ModificationRequest,
    NetworkAdapter,
    NetworkRoute,
    PodCgroupMemoryLimit,
    RequestType,
    ResourceSettings,
    ScsiDevice,
    VpciDevice,
    VPMemDevice,
)
from gcs.wire.schema import NULL_CONTAINER_ID, Reply, Request
from tests.support import every_request
from tests.support.scenario import refused
from tests.vm.play import GUID, MIB, PATH, SCRATCH, Play, Tree, changed

_NAMESPACE, _MAC = "every", "52:54:00:00:00:01"
#: Of QEMU's own network.
_ADDRESS, _GATEWAY = "10.0.2.77", "10.0.2.2"
_FOREVER = "trap 'exit 3' TERM; while :; do sleep 0.1; done"
_STDIN, _STDOUT, _STDERR = StreamName.STDIN, StreamName.STDOUT, StreamName.STDERR


async def _read(stream: trio.SocketStream) -> bytes:
    async with stream:
        return b"".join([bytes(data) async for data in stream])


# -- containers --------------------------------------------------------------------------------


async def containers(play: Play) -> None:
    """A pod of two: its sandbox, and a workload with a terminal in the same namespaces."""
    sandbox = await _created(play, "sandbox", Command(arguments=("sh", "-c", _FOREVER)))
    request = messages.Start(
        container_id=sandbox.cid, activity_id=GUID, otsc={"traceID": "00", "spanID": "11"}
    )
    await call(play.client, request)
    await sandbox.start(play.ports, (), terminal=False)
    wish = Command(
        arguments=("sh", "-c", "read -r _; stty size; exec sleep 6000"), terminal=True
    )
    workload = await _created(play, "workload", wish)
    streams = await workload.start(play.ports, (_STDIN, _STDOUT), terminal=True)
    play.terminal.update(streams)
    await workload.init.resize(31, 99)
    await streams[_STDIN].send_all(b"\n")
    said = b""
    while b"31 99" not in said:
        said += bytes(await streams[_STDOUT].receive_some())


async def _created(play: Play, part: str, wish: Command) -> Container:
    """Create a container of the pod."""
    cid = secrets.token_hex(32)
    scratch = GuestScratch(play.vm, play.client, SCRATCH).folder(cid)
    container = Container(play.vm, play.client, cid, scratch=scratch)
    spec = runtime_spec(play.image.config, wish, User(), cid, rootfs_path(cid))
    kind = {annotations.CONTAINER_TYPE: "sandbox"}
    network.use_namespace(spec, _NAMESPACE)
    if "sandbox" in play.cast:
        sandbox, linux = play.cast["sandbox"], spec["linux"]
        assert isinstance(linux, dict)
        links = {"network": "net", "ipc": "ipc", "uts": "uts"}
        pid = sandbox.init.process_id
        joined = [{"type": k, "path": f"/proc/{pid}/ns/{v}"} for k, v in links.items()]
        linux["namespaces"] = [*joined, *({"type": k} for k in ("pid", "mount", "cgroup"))]
        spec.pop("hostname")
        spec.pop("windows")
        kind = {annotations.CONTAINER_TYPE: "container", annotations.SANDBOX_ID: sandbox.cid}
    spec["annotations"] = kind
    await container.create(spec, [f"/run/layers/p{n}" for n in range(len(play.layers))])
    process = spec["process"]
    assert isinstance(process, dict)
    play.cast[part], play.processes[part] = container, process
    return container


async def networks(play: Play) -> None:
    """A NIC of a running pod: by DHCP, then with everything that it can be given."""
    await play.vm.add_nic(0, _MAC, {"type": "user"})
    await play.shell("until [ -e /sys/class/net/eth0 ]; do :; done")
    nic = NetworkAdapter(
        namespace_id=_NAMESPACE,
        adapter_id="nic",
        mac_address=_MAC,
        pci_address=await play.pci_address("/sys/class/net/eth0/device"),
        vpci_assigned=True,
    )
    await play.change(RequestType.ADD, nic)
    pid = play.cast["sandbox"].init.process_id
    inside = f"nsenter -t {pid} -n ip address"
    assert "inet 10.0.2.15/24" in await play.shell(inside)
    more = with_members(
        nic,
        ip_configs=(IPConfig(ip_address=_ADDRESS, prefix_length=24),),
        routes=(NetworkRoute(next_hop=_GATEWAY, destination_prefix="0.0.0.0/0", metric=7),),
        dns_suffix="example.org",
        dns_server_list="10.0.2.3",
        mtu=1400,
        encap_overhead=50,
        policy_based_routing=True,
        enable_low_metric=True,
    )
    await play.change(RequestType.UPDATE, more)
    said = await play.shell(inside)
    assert f"inet {_ADDRESS}/24" in said
    assert "mtu 1350" in said
    await play.change(RequestType.REMOVE, more)
    assert "eth0" not in await play.shell(inside)
    await play.vm.remove_nic(0)


async def execs(play: Play) -> None:
    """One with pipes and a user's name, and one with a terminal, which a signal ends."""
    script = 'read -r line; echo "$line"; echo no >&2; exit 6'
    wish = Command(arguments=("sh", "-c", script))
    process, streams = await play.executed("sandbox", wish, user={"username": "root"})
    async with streams[_STDIN] as stdin:
        await stdin.send_all(b"yes\n")
    assert await _read(streams[_STDOUT]) == b"yes\n"
    assert await _read(streams[_STDERR]) == b"no\n"
    assert await process.wait() == 6
    wish = Command(arguments=("sh", "-c", "stty size; exec sleep 600"), terminal=True)
    process, streams = await play.executed("workload", wish)
    await process.resize(20, 80)
    await process.signal(15)
    async with streams[_STDIN], streams[_STDOUT]:
        assert await process.wait() == 128 + 15


async def vm_processes(play: Play) -> None:
    """By words and by a line, with streams and a terminal, and in a container's name."""
    line = messages.ProcessParameters(command_line="sh -c 'cat; exit 4'", environment=PATH)
    process, streams = await _run_in_vm(play, line, _STDIN, _STDOUT, _STDERR)
    async with streams[_STDIN] as stdin:
        await stdin.send_all(b"through\n")
    assert await _read(streams[_STDOUT]) == b"through\n"
    await streams[_STDERR].aclose()
    assert await process.wait() == 4
    shown = messages.ProcessParameters(
        command_args=("sleep", "600"), emulate_console=True, environment=PATH
    )
    process, streams = await _run_in_vm(play, shown, _STDIN, _STDOUT)
    await process.resize(20, 80)
    await process.signal(15)
    async with streams[_STDIN], streams[_STDOUT]:
        assert await process.wait() == 128 + 15
    own = messages.ProcessParameters(
        command_args=("true",), create_in_utility_vm=True, working_directory="/run"
    )
    settings = messages.ExecuteProcessSettings(process_parameters=own)
    request = messages.ExecuteProcess(container_id=play.cast["sandbox"].cid, settings=settings)
    reply = await call(play.client, request)
    assert await Process(play.client, NULL_CONTAINER_ID, reply.process_id).wait() == 0


async def _run_in_vm(
    play: Play, parameters: messages.ProcessParameters, *names: StreamName
) -> tuple[Process, Streams]:
    ports = {name: play.ports.take() for name in names}
    vsock, client = play.vm.vsock, play.client
    return await start_process(vsock, client, NULL_CONTAINER_ID, parameters, ports)


async def memory(play: Play) -> None:
    """Limits of all containers and of one, and the kill when it takes more."""
    await play.change(RequestType.UPDATE, PodCgroupMemoryLimit())
    cid = play.cast["workload"].cid
    for action, mib in ((RequestType.ADD, 48), (RequestType.UPDATE, 32)):
        limit = {"limit": mib * MIB, "swap": mib * MIB}
        constraints = ContainerConstraints(linux={"memory": limit})
        await call(play.client, changed(cid, action, constraints))
    words = ("dd", "if=/dev/zero", "of=/dev/null", "bs=128M", "count=1")
    process, streams = await play.executed("workload", Command(arguments=words))
    for stream in streams.values():
        await stream.aclose()
    assert await process.wait() == 128 + 9
    asking = WaitForOutOfMemory(container_id=NULL_CONTAINER_ID, timeout_in_ms=30_000)
    (event,) = (await call(play.client, asking)).events
    assert (event.container_id, event.limit) == (cid, 32 * MIB)
    asking = with_members(asking, after=event.number, timeout_in_ms=1)
    assert (await call(play.client, asking)).events == ()


async def reports(play: Play) -> None:
    """What the guest tells of itself and of a container."""
    await play.properties_of(NULL_CONTAINER_ID)
    await play.properties_of(play.cast["sandbox"].cid)
    found = await call(play.client, ReportMounts(container_id=NULL_CONTAINER_ID))
    after = found.mounts[0].mount_path
    rest = await call(play.client, ReportMounts(container_id=NULL_CONTAINER_ID, after=after))
    assert rest.mounts == found.mounts[1:]
    stacks = await call(play.client, messages.DumpStacks(container_id=NULL_CONTAINER_ID))
    assert "task " in stacks.guest_stacks


async def refusals(play: Play) -> None:
    """What can't be is refused by its name: changes, devices, containers."""
    cid = play.cast["sandbox"].cid
    for kind, action, is_vms in every_request.unmade_changes():
        request = changed(NULL_CONTAINER_ID if is_vms else cid, action, RESOURCES[kind]())
        error = await refused(play.client, request)
        said = f"{kind}: '{action}' is not possible" if is_vms else f"{kind} of a container"
        assert said in error.message
    chair = ModificationRequest(resource_type="Chair", settings={})
    request = messages.ModifySettings(container_id=NULL_CONTAINER_ID, request=chair)
    assert "'Chair' is not known" in (await refused(play.client, request)).message
    async with trio.open_nursery() as nursery:
        for settings in (
            VpciDevice(vmbus_guid=GUID),
            MappedVirtualDisk(controller=1, mount_path="/run/disks/none"),
            VPMemDevice(device_number=77, mount_path="/run/layers/none"),
        ):
            nursery.start_soon(_absent, play, settings)
    await play.change(RequestType.REMOVE, ScsiDevice(controller=1))
    for unknown in _of_nobody():
        error = await refused(play.client, unknown)
        assert error.result == Hresult.SYSTEM_NOT_FOUND, (unknown, error.message)
        assert "nobody" in error.message


async def _absent(play: Play, settings: ResourceSettings) -> None:
    error = await play.refused(RequestType.ADD, settings)
    assert error.result == Hresult.TIMEOUT
    assert "did not appear within 5 s" in error.message


def _of_nobody() -> Iterator[Request[Reply]]:
    """Yield each request that needs a container, for one that is not known."""
    oci: Tree = {"args": ["true"]}
    parameters = messages.ProcessParameters(oci_process=oci)
    settings = messages.ExecuteProcessSettings(process_parameters=parameters)
    query = PropertyQuery(property_types=(PropertyType.STATISTICS,))
    yield messages.ExecuteProcess(container_id="nobody", settings=settings)
    yield messages.WaitForProcess(container_id="nobody", process_id=1, timeout_in_ms=1)
    yield messages.SignalProcess(container_id="nobody", process_id=1)
    yield messages.ResizeConsole(container_id="nobody", process_id=1)
    yield messages.GetProperties(container_id="nobody", query=query)
    yield messages.ShutdownGraceful(container_id="nobody")
    yield messages.ShutdownForced(container_id="nobody")
    yield messages.DeleteContainerState(container_id="nobody")
    yield changed("nobody", RequestType.UPDATE, ContainerConstraints())


#: What the image has that no agent imports, and why.
_NEVER_IMPORTED = {
    "encodings.ascii": "by the interpreter, for a locale that the agent is not started with",
    "encodings.latin_1": "the same",
    "_sitebuiltins": "with site",
    "site": "by an interpreter that is started without -S: as tests do",
    **dict.fromkeys(
        ("_json", "json", "json.decoder", "json.encoder", "json.scanner"),
        "by the launcher, to say why the agent can't be loaded",
    ),
    **dict.fromkeys(("finder", "kept"), "by the launcher itself, which this is not"),
}
_LIST_MODULES = """
import os, sys
sys.path[:] = ["/usr/lib/gcs", "/usr/lib/python3.11", "/usr/lib/python3.11/lib-dynload"]
import gcs.guest.main
from gcs.linux import link, procfs
link.Session().close()
procfs.processes()
imported, there = set(sys.modules), set()
for top in sys.path:
    for folder, folders, names in os.walk(top):
        if "lib-dynload" in folders:
            folders.remove("lib-dynload")
        for name in names:
            if name.endswith((".pyc", ".so")):
                place = os.path.relpath(f"{folder}/{name.partition('.')[0]}", top)
                there.add(place.removesuffix("/__init__").replace("/", "."))
print(len(there), *sorted(there - imported))
"""


async def modules(play: Play) -> None:
    """What an agent imports, at its start and when it first needs a thing, is all there is."""
    count, *rest = (await play.in_vm("python3.11", "-ISBc", _LIST_MODULES)).split()
    assert int(count) > 300
    assert set(rest) == set(_NEVER_IMPORTED)


async def ends(play: Play) -> None:
    """A container is told to end, the other is killed; nothing of either stays."""
    for part, request, status in (
        ("workload", messages.ShutdownForced, 128 + 9),
        ("sandbox", messages.ShutdownGraceful, 3),
    ):
        container = play.cast[part]
        await call(play.client, request(container_id=container.cid))
        assert await container.init.wait() == status
        await container.wait_notification()
        await container.remove()
    for stream in play.terminal.values():
        await stream.aclose()
    left = await play.shell("ls /run/gcs/c")
    assert [one.cid for one in play.cast.values() if one.cid in left] == []


async def power_off(play: Play) -> None:
    """Over a connection that speaks CBOR: a look at the VM, and its end, which is no answer."""
    await play.properties_of(NULL_CONTAINER_ID)
    async with trio.open_nursery() as nursery:
        for request in (messages.ShutdownGraceful, messages.ShutdownForced):
            nursery.start_soon(_disconnected, play, request(container_id=NULL_CONTAINER_ID))
    with trio.fail_after(60):
        await play.vm.qemu.wait()


async def _disconnected(play: Play, request: Request[Reply]) -> None:
    with pytest.raises(DisconnectedError):
        await play.client.call(request)
