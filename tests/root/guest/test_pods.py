"""Pods on a real kernel, with both runtimes: what containers share, and what stays of them."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
import trio.testing

from gcs.errors import Hresult
from gcs.guest.spec import annotations
from gcs.host.client import Client
from gcs.linux import nodes
from gcs.wire.messages import (
    Create,
    DeleteContainerState,
    ExecuteProcess,
    ModifySettings,
    ProcessParameters,
    SignalProcess,
)
from gcs.wire.resource import (
    CombinedLayers,
    Layer,
    ModificationRequest,
    RequestType,
    ResourceType,
)
from tests.support.agent import VM, AgentHost, Streams, vm_process, wait
from tests.support.scenario import play, refused

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

Tree = dict[str, object]

RUNTIMES = pytest.mark.parametrize("runtime", ["runc", "crun"])
#: where a host keeps the containers of a pod, in both of its layouts
LAYOUTS = pytest.mark.parametrize("pods", ["/run/gcs/pods/p", "/run/gcs/c"])


async def in_vm(host: AgentHost, client: Client, *argv: str) -> str:
    """Return what a program of the VM prints; it must succeed."""
    streams = Streams()
    pid = await host.execute(client, VM, streams, vm_process(*argv, PATH="/usr/bin:/bin"))
    assert await wait(client, VM, pid) == 0, bytes(streams.stderr)
    await trio.testing.wait_all_tasks_blocked(0.05)
    return streams.stdout.decode()


async def namespaces(host: AgentHost, client: Client, pid: int) -> dict[str, str]:
    """Return the namespaces of a process, by their kind."""
    kinds = ("net", "ipc", "uts", "pid", "mnt")
    paths = [f"/proc/{pid}/ns/{kind}" for kind in kinds]
    return dict(
        zip(kinds, (await in_vm(host, client, "readlink", *paths)).split(), strict=True)
    )


def sandbox_spec(host: AgentHost, **given: str) -> Tree:
    """Return the spec of a sandbox that waits for its end."""
    spec = host.spec("sleep", "1000")
    spec["annotations"] = {annotations.CONTAINER_TYPE: "sandbox", **given}
    return spec


def workload_spec(
    host: AgentHost, pod: str, sandbox: int, *argv: str, shared: Iterable[str] = ()
) -> Tree:
    """Return the spec of a workload in the namespaces of its sandbox's init."""
    spec = host.spec(*(argv or ("sleep", "1000")))
    links = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
    joined: list[Tree] = [
        {"type": kind, "path": f"/proc/{sandbox}/ns/{links[kind]}"}
        for kind in ("network", "ipc", "uts", *shared)
    ]
    kept: list[Tree] = [{"type": kind} for kind in ("pid", "mount") if kind not in shared]
    spec["linux"] = {"namespaces": [*joined, *kept]}
    spec["annotations"] = {annotations.CONTAINER_TYPE: "container", annotations.SANDBOX_ID: pod}
    return spec


def process_of(spec: Tree) -> Tree:
    """Return the part about the process, to be changed."""
    process = spec["process"]
    assert isinstance(process, dict)
    return process


def linux_of(spec: Tree) -> Tree:
    """Return the part about Linux, to be changed."""
    linux = spec["linux"]
    assert isinstance(linux, dict)
    return linux


def bind(destination: str, source: str) -> Tree:
    """Return a mount of a source that may have a prefix."""
    return {
        "destination": destination,
        "type": "bind",
        "source": source,
        "options": ["bind"],
    }


def mount(spec: Tree, *added: Tree) -> None:
    """Add mounts to those of a spec."""
    given = spec["mounts"]
    assert isinstance(given, list)
    spec["mounts"] = [*given, *added]


def annotate(spec: Tree, **given: str) -> None:
    """Add annotations, named by the constants of the module."""
    tree = spec["annotations"]
    assert isinstance(tree, dict)
    tree |= {getattr(annotations, name): value for name, value in given.items()}


def request_for(host: AgentHost, container_id: str, spec: Tree, bundle: str = "") -> Create:
    """Return the Create of a container with a bundle of its own."""
    request = host.create_request(container_id, spec)
    config = request.container_config
    return Create(
        container_id=container_id,
        container_config=type(config)(
            schema_version=config.schema_version,
            oci_bundle_path=bundle or config.oci_bundle_path,
            oci_specification=spec,
        ),
    )


async def start(
    host: AgentHost, client: Client, container_id: str, spec: Tree, bundle: str = ""
) -> int:
    """Create and start a container; return its init's pid."""
    await client.call(request_for(host, container_id, spec, bundle))
    return await host.execute(client, container_id, Streams())


async def output(
    host: AgentHost, client: Client, container_id: str, spec: Tree, bundle: str = ""
) -> str:
    """Run a container to its end and delete it; return what it printed."""
    await client.call(request_for(host, container_id, spec, bundle))
    streams = Streams()
    pid = await host.execute(client, container_id, streams)
    await wait(client, container_id, pid)
    await trio.testing.wait_all_tasks_blocked(0.05)
    await client.call(DeleteContainerState(container_id=container_id))
    return streams.stdout.decode() + streams.stderr.decode()


async def remove(client: Client, container_id: str, pid: int) -> None:
    """Kill a container and delete it."""
    await client.call(SignalProcess(container_id=container_id, process_id=pid))
    await wait(client, container_id, pid)
    await client.call(DeleteContainerState(container_id=container_id))


async def left(host: AgentHost, client: Client) -> list[str]:
    """Return what there is of pods and containers: folders, mounts, cgroups."""
    script = (
        "find /run/gcs -mindepth 2 ! -path '/run/gcs/runc*';"
        "grep -o ' /run/gcs[^ ]*' /proc/self/mountinfo;"
        "find /sys/fs/cgroup/pods -mindepth 1 -type d; true"
    )
    return (await in_vm(host, client, "sh", "-c", script)).splitlines()


@RUNTIMES
@pytest.mark.parametrize("shared", [(), ("pid",)])
async def test_containers_of_a_pod_share_their_namespaces(
    tmp_path: Path, runtime: str, shared: tuple[str, ...]
) -> None:
    """Network, IPC and UTS, and that of processes if the host asks for it; pods share none."""

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        spec = workload_spec(host, "p", sandbox, shared=shared)
        workload = await start(host, client, "w", spec)
        other = await start(host, client, "q", sandbox_spec(host))
        of_sandbox, of_workload, of_other = [
            await namespaces(host, client, pid) for pid in (sandbox, workload, other)
        ]
        same = {kind for kind, link in of_sandbox.items() if of_workload[kind] == link}
        assert same == {"net", "ipc", "uts", *shared}
        assert not set(of_other.values()) & set(of_sandbox.values())
        for name, pid in (("w", workload), ("p", sandbox), ("q", other)):
            await remove(client, name, pid)
        assert await left(host, client) == []

    await play(tmp_path, scenario, "-runtime", runtime)


@RUNTIMES
async def test_cgroups_are_those_of_the_pod(tmp_path: Path, runtime: str) -> None:
    """A container's own below its pod's; without a pod, below that of all pods."""

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        workload = await start(host, client, "w", workload_spec(host, "p", sandbox))
        alone = await start(host, client, "s", host.spec("sleep", "1000"))
        pids = {"/pods/p/p": sandbox, "/pods/p/w": workload, "/pods/s": alone}
        for cgroup, pid in pids.items():
            procs = f"/sys/fs/cgroup{cgroup}/cgroup.procs"
            assert (await in_vm(host, client, "cat", procs)).split() == [str(pid)]
        for name, pid in (("w", workload), ("p", sandbox), ("s", alone)):
            await remove(client, name, pid)
        assert await left(host, client) == []

    await play(tmp_path, scenario, "-runtime", runtime)


@LAYOUTS
@pytest.mark.parametrize("order", [("w", "p"), ("p", "w")])
async def test_a_pod_is_removed_in_either_order_and_its_ids_are_free(
    tmp_path: Path, pods: str, order: tuple[str, str]
) -> None:
    """Nothing is left of it, and the same pod can be made again."""

    async def scenario(host: AgentHost, client: Client) -> None:
        for _ in range(2):
            pids = {"p": await start(host, client, "p", sandbox_spec(host), f"{pods}/p")}
            spec = workload_spec(host, "p", pids["p"])
            mount(spec, bind("/s", "sandbox://a"))
            pids["w"] = await start(host, client, "w", spec, f"{pods}/w")
            for name in order:
                await remove(client, name, pids[name])
            assert await left(host, client) == []

    await play(tmp_path, scenario)


async def test_a_pod_without_its_sandbox_takes_no_container(tmp_path: Path) -> None:
    """Nor another sandbox, until its last container is deleted."""

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        workload = await start(host, client, "w", workload_spec(host, "p", sandbox))
        await remove(client, "p", sandbox)
        late = request_for(host, "v", workload_spec(host, "p", 1))
        assert (await refused(client, late)).result == Hresult.FAIL
        again = request_for(host, "p", sandbox_spec(host))
        assert (await refused(client, again)).result == Hresult.INVALID_STATE
        await remove(client, "w", workload)
        sandbox = await start(host, client, "p", sandbox_spec(host))
        await remove(client, "p", sandbox)
        assert await left(host, client) == []

    await play(tmp_path, scenario)


async def test_a_sandbox_whose_folder_is_in_use_can_be_deleted_later(tmp_path: Path) -> None:
    """It stays known until then, and takes no container any more."""

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        script = "cd /run/gcs/c/p/sandboxMounts && echo there && exec sleep 1000"
        streams = Streams()
        inside = vm_process("sh", "-c", script, PATH="/usr/bin:/bin")
        user = await host.execute(client, VM, streams, inside)
        await streams.has_printed(b"there")
        await client.call(SignalProcess(container_id="p", process_id=sandbox))
        await wait(client, "p", sandbox)
        deletion = DeleteContainerState(container_id="p")
        error = await refused(client, deletion)
        assert "sandboxMounts" in error.message
        assert "EBUSY" in error.message
        late = request_for(host, "w", workload_spec(host, "p", 1))
        assert "no pod" in (await refused(client, late)).message
        await client.call(SignalProcess(container_id=VM, process_id=user))
        await wait(client, VM, user)
        await client.call(deletion)
        assert await left(host, client) == []

    await play(tmp_path, scenario)


async def change_layers(client: Client, kind: RequestType, target: str, layer: Path) -> None:
    """Mount a folder of this machine in the VM, or take it off, as a host does with layers."""
    root = CombinedLayers(container_root_path=target, layers=(Layer(path=str(layer)),))
    change = ModificationRequest(
        request_type=kind, resource_type=ResourceType.COMBINED_LAYERS, settings=root
    )
    await client.call(ModifySettings(container_id=VM, request=change))


@RUNTIMES
async def test_a_host_s_mount_in_a_pod_s_folder_is_seen_and_goes_with_the_pod(
    tmp_path: Path, runtime: str
) -> None:
    """By a workload that runs already; that the host takes it off later is fine."""
    target = "/run/gcs/c/p/sandboxMounts/a/late"

    async def scenario(host: AgentHost, client: Client) -> None:
        for _ in range(2):
            sandbox = await start(host, client, "p", sandbox_spec(host))
            spec = workload_spec(host, "p", sandbox)
            mount(spec, {**bind("/a", "sandbox://a"), "options": ["rbind", "rslave"]})
            linux_of(spec)["rootfsPropagation"] = "rslave"  # crun's default is none
            workload = await start(host, client, "w", spec)
            await change_layers(client, RequestType.ADD, target, host.rootfs)
            seen = f"/proc/{workload}/root/a/late/bin/busybox"
            await in_vm(host, client, "test", "-f", seen)
            await remove(client, "w", workload)
            await in_vm(host, client, "test", "-f", f"{target}/bin/busybox")
            await remove(client, "p", sandbox)
            await change_layers(client, RequestType.REMOVE, target, host.rootfs)
            assert await left(host, client) == []

    await play(tmp_path, scenario, "-runtime", runtime)


async def test_workloads_made_at_once_share_a_folder_that_one_of_them_made(
    tmp_path: Path,
) -> None:
    """Those that fail do not take it from the others."""

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        pids = {}

        async def make(name: str, *argv: str) -> None:
            spec = workload_spec(host, "p", sandbox, *argv)
            mount(spec, bind("/a", "sandbox://a/b"))
            if argv:
                await refused(client, request_for(host, name, spec))
            else:
                pids[name] = await start(host, client, name, spec)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(make, f"bad{number}", "/nope")
                nursery.start_soon(make, f"good{number}")
        for name, pid in pids.items():
            path = f"/proc/{pid}/root/a/{name}"
            await in_vm(host, client, "touch", path)
        found = await in_vm(host, client, "ls", "/run/gcs/c/p/sandboxMounts/a/b")
        assert found.split() == ["good0", "good1", "good2"]
        for name, pid in pids.items():
            await remove(client, name, pid)
        await remove(client, "p", sandbox)
        assert await left(host, client) == []

    await play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({annotations.CONTAINER_TYPE: "container", annotations.SANDBOX_ID: "nope"}, "no pod"),
        ({annotations.CONTAINER_TYPE: "container"}, "sandbox-id is empty"),
        ({annotations.CONTAINER_TYPE: "pod"}, "container-type"),
    ],
)
async def test_a_container_of_no_pod_and_of_no_kind_is_refused(
    tmp_path: Path, given: dict[str, str], text: str
) -> None:
    """With the result that hosts get elsewhere; its id is free and nothing of it stays."""

    async def scenario(host: AgentHost, client: Client) -> None:
        spec = host.spec("true")
        spec["annotations"] = dict(given)
        error = await refused(client, request_for(host, "w", spec))
        assert text in error.message
        assert error.result == Hresult.FAIL
        assert await left(host, client) == []
        assert (await host.run(client, "w", "true"))[0] == 0

    await play(tmp_path, scenario)


@RUNTIMES
async def test_a_sandbox_that_could_not_be_made_leaves_nothing(
    tmp_path: Path, runtime: str
) -> None:
    """The runtime refuses it after everything was made for it; its workloads find no pod."""

    async def scenario(host: AgentHost, client: Client) -> None:
        spec = sandbox_spec(host)
        process_of(spec)["args"] = ["/nope"]
        await refused(client, request_for(host, "p", spec, "/run/gcs/pods/p/p"))
        workload = request_for(host, "w", workload_spec(host, "p", 1))
        assert "no pod" in (await refused(client, workload)).message
        assert await left(host, client) == []
        sandbox = await start(host, client, "p", sandbox_spec(host))
        bad = workload_spec(host, "p", sandbox, "/nope")
        mount(bad, bind("/s", "sandbox://a/b"))
        before = await left(host, client)
        await refused(client, request_for(host, "w", bad))
        assert await left(host, client) == before
        await remove(client, "p", sandbox)

    await play(tmp_path, scenario, "-runtime", runtime)


@RUNTIMES
async def test_the_files_of_a_pod_are_in_its_workloads(tmp_path: Path, runtime: str) -> None:
    """Named after the sandbox, which has not got them itself; a standalone one has its own."""

    async def scenario(host: AgentHost, client: Client) -> None:
        script = "cat /etc/hostname; grep box /etc/hosts; cat /etc/resolv.conf"
        spec = sandbox_spec(host)
        spec["hostname"] = "box.example"
        sandbox = await start(host, client, "p", spec)
        spec = workload_spec(host, "p", sandbox, "sh", "-c", script)
        expected = "box.example\n127.0.0.1 box.example box\n"
        assert await output(host, client, "w", spec) == expected
        await remove(client, "p", sandbox)
        spec = host.spec("sh", "-c", script)
        spec["hostname"] = "box.example"
        assert await output(host, client, "s", spec) == expected
        assert await left(host, client) == []

    await play(tmp_path, scenario, "-runtime", runtime)


@RUNTIMES
async def test_workloads_share_folders(tmp_path: Path, runtime: str) -> None:
    """What one writes, on disk or in memory, the next reads; paths of the VM are seen too."""
    script = "echo $1 >>/a/x; echo $1 >>/t/x; cat /a/x /t/x; cat /vm/hostname"

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        mounts = [
            bind("/a", "sandbox://a"),
            bind("/t", "sandbox-tmp://t"),
            bind("/vm", "uvm:///run/gcs/c/p"),
        ]
        found = []
        for number in "12":
            spec = workload_spec(host, "p", sandbox, "sh", "-c", script, "sh", number)
            mount(spec, *mounts)
            found.append(await output(host, client, f"w{number}", spec))
        name = await in_vm(host, client, "cat", "/run/gcs/c/p/hostname")
        assert found == [f"1\n1\n{name}", f"1\n2\n1\n2\n{name}"]
        await remove(client, "p", sandbox)
        assert await left(host, client) == []

    await play(tmp_path, scenario, "-runtime", runtime)


async def test_a_block_device_is_where_the_container_wants_it(tmp_path: Path) -> None:
    """Its source is a link that the host has made; what is no such link is refused."""

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        await in_vm(host, client, "mknod", "/run/blk", "b", "7", "0")
        await in_vm(host, client, "ln", "-s", "/run/blk", "/run/disk")
        await in_vm(host, client, "ln", "-s", "/dev/null", "/run/null")
        script = "busybox stat -c %F:%t:%T /dev/x; : </dev/x"
        spec = workload_spec(host, "p", sandbox, "sh", "-c", script)
        mount(spec, bind("blockdev:///dev/x", "/run/disk"))
        said = await output(host, client, "w", spec)
        assert said.startswith("block special file:7:0\n")
        assert "not permitted" not in said
        for source in ("/run/blk", "/run/null", "/run/nope"):
            bad = workload_spec(host, "p", sandbox)
            mount(bad, bind("blockdev:///dev/x", source))
            error = await refused(client, request_for(host, "w", bad))
            assert source in error.message
        await remove(client, "p", sandbox)
        assert await left(host, client) == []

    await play(tmp_path, scenario)


@RUNTIMES
async def test_huge_pages_are_mounted_for_a_workload(tmp_path: Path, runtime: str) -> None:
    """As a file system of the size that the mount names."""

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        spec = workload_spec(host, "p", sandbox, "grep", " /h ", "/proc/mounts")
        mount(spec, bind("/h", "hugepages://2M/h"))
        found = await output(host, client, "w", spec)
        assert "hugetlbfs" in found
        assert "pagesize=2M" in found
        await remove(client, "p", sandbox)
        assert await left(host, client) == []

    await play(tmp_path, scenario, "-runtime", runtime)


@RUNTIMES
async def test_annotations_change_what_a_workload_sees(tmp_path: Path, runtime: str) -> None:
    """The size of its shared memory, its limit of core dumps, the host's certificate."""

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        script = (
            "grep /dev/shm /proc/mounts; grep core /proc/self/limits;"
            "cat $UVM_SECURITY_CONTEXT_DIR/host-amd-cert-base64"
        )
        spec = workload_spec(host, "p", sandbox, "sh", "-c", script)
        annotate(spec, SHM_SIZE_KB="128", CORE_LIMIT="5;6", HOST_CERTIFICATE="Y2VydA==")
        shm, core, certificate = (await output(host, client, "w", spec)).splitlines()
        assert "size=128k" in shm
        assert core.split()[4:6] == ["5", "6"]
        assert certificate == "Y2VydA=="
        await remove(client, "p", sandbox)
        assert await left(host, client) == []

    await play(tmp_path, scenario, "-runtime", runtime)


@RUNTIMES
async def test_a_user_s_name_is_looked_up_for_the_init_and_its_execs(
    tmp_path: Path, runtime: str
) -> None:
    """In a sandbox and in a workload; a standalone container's name means nothing."""
    named: Tree = {"username": "neko", "uid": 5, "gid": 5}
    words = ("sh", "-c", "id -u; id -g; id -G")

    async def scenario(host: AgentHost, client: Client) -> None:
        (host.rootfs / "etc").mkdir()
        (host.rootfs / "etc/passwd").write_text("neko:x:77:88::/:/bin/sh\n")
        (host.rootfs / "etc/group").write_text("cats:x:50:neko\n")
        spec = sandbox_spec(host)
        process_of(spec)["user"] = dict(named)
        sandbox = await start(host, client, "p", spec)
        # The runtime has started it before it has become its program.
        look = f"until grep '^Uid:.77' /proc/{sandbox}/status; do sleep 0.1; done"
        await in_vm(host, client, "sh", "-c", look)
        process: Tree = {"cwd": "/", "args": list(words), "env": ["PATH=/bin"]}
        inside = Streams()
        parameters = ProcessParameters(oci_process=process)
        pid = await host.execute(client, "p", inside, parameters)
        assert await wait(client, "p", pid) == 0
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert inside.stdout.split() == [b"77", b"88", b"88", b"50"]
        spec = workload_spec(host, "p", sandbox, *words)
        process_of(spec)["user"] = dict(named)
        assert (await output(host, client, "w", spec)).split() == ["77", "88", "88", "50"]
        spec = host.spec(*words)
        process_of(spec)["user"] = dict(named)
        assert (await output(host, client, "s", spec)).split() == ["5", "5", "5"]
        await remove(client, "p", sandbox)
        assert await left(host, client) == []

    await play(tmp_path, scenario, "-runtime", runtime)


async def test_a_user_that_the_container_does_not_know_is_refused(tmp_path: Path) -> None:
    """Rather than run as somebody else; nothing of the sandbox stays."""

    async def scenario(host: AgentHost, client: Client) -> None:
        spec = sandbox_spec(host)
        process_of(spec)["user"] = {"username": "spy"}
        error = await refused(client, request_for(host, "p", spec))
        assert error.result == Hresult.ERR_INVALID_ARG
        assert await left(host, client) == []

    await play(tmp_path, scenario)


#: crun needs a limit raised for rules of devices, which is not possible in every sandbox.
@pytest.mark.parametrize(
    ("runtime", "privileged"), [("runc", "true"), ("crun", "true"), ("runc", "false")]
)
async def test_devices_are_those_of_the_vm(
    tmp_path: Path, runtime: str, privileged: str
) -> None:
    """One that the host names by its path, or all of them for a privileged container."""
    script = (
        "busybox find /dev /run -type c -o -type b; busybox stat -c %t:%T /run/x; : </run/x"
    )

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        await in_vm(host, client, "mknod", "/run/x", "c", "1", "5")
        spec = workload_spec(host, "p", sandbox, "sh", "-c", script)
        linux = linux_of(spec)
        linux["devices"] = [{"path": "/run/x", "type": "b", "major": 99, "minor": 99}]
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
        annotate(spec, PRIVILEGED=privileged)
        if privileged == "true":
            del linux["devices"]
            expected = {node.path for node in nodes.everything()}
        else:
            expected = {"/run/x", "1:5"}
        said = (await output(host, client, "w", spec)).splitlines()
        assert expected - {"/dev/ptmx", "/dev/tty"} <= set(said)
        assert not [line for line in said if "not permitted" in line]
        linux["devices"] = [{"path": "/dev/nope"}]
        annotate(spec, PRIVILEGED="false")
        error = await refused(client, request_for(host, "w", spec))
        assert "/dev/nope" in error.message
        await remove(client, "p", sandbox)
        assert await left(host, client) == []

    await play(tmp_path, scenario, "-runtime", runtime)


@RUNTIMES
async def test_the_vm_s_network_is_used_by_the_whole_pod(tmp_path: Path, runtime: str) -> None:
    """If its sandbox asks for it; a workload's own wish counts nothing, a lone one's does."""

    async def scenario(host: AgentHost, client: Client) -> None:
        vm = (await in_vm(host, client, "readlink", "/proc/self/ns/net")).strip()
        for wish, own in (("true", "false"), ("false", "true")):
            spec = sandbox_spec(host)
            annotate(spec, HOST_NETWORK=wish)
            sandbox = await start(host, client, "p", spec)
            spec = workload_spec(host, "p", sandbox)
            annotate(spec, HOST_NETWORK=own)
            workload = await start(host, client, "w", spec)
            for pid in (sandbox, workload):
                found = await namespaces(host, client, pid)
                assert (found["net"] == vm) is (wish == "true")
            await remove(client, "w", workload)
            await remove(client, "p", sandbox)
            spec = host.spec("sleep", "1000")
            spec["annotations"] = {annotations.HOST_NETWORK: wish}
            alone = await start(host, client, "s", spec)
            found = await namespaces(host, client, alone)
            assert (found["net"] == vm) is (wish == "true")
            await remove(client, "s", alone)

    await play(tmp_path, scenario, "-runtime", runtime)


@LAYOUTS
async def test_virtual_pods_are_beside_each_other(tmp_path: Path, pods: str) -> None:
    """Each has its own root and cgroup, and goes without a trace."""

    async def scenario(host: AgentHost, client: Client) -> None:
        for pod in ("v1", "v2"):
            spec = sandbox_spec(host, **{annotations.VIRTUAL_POD_ID: pod})
            spec["hostname"] = pod
            sandbox = await start(host, client, pod, spec, f"{pods}/{pod}")
            root = f"{pods}/virtual-pods/{pod}"
            assert await in_vm(host, client, "cat", f"{root}/hostname") == f"{pod}\n"
            spec = workload_spec(host, "ignored", sandbox, "cat", "/etc/hostname")
            annotate(spec, VIRTUAL_POD_ID=pod)
            found = await output(host, client, f"{pod}-w", spec, f"{pods}/{pod}-w")
            assert found == f"{pod}\n"
            cgroups = f"/sys/fs/cgroup/pods/{pod}/{pod}/cgroup.procs"
            assert await in_vm(host, client, "cat", cgroups) == f"{sandbox}\n"
            await remove(client, pod, sandbox)
            assert await left(host, client) == []

    await play(tmp_path, scenario)


@RUNTIMES
async def test_output_is_copied_to_the_pod_s_logs(tmp_path: Path, runtime: str) -> None:
    """Both streams of the init, not those of execs; another container sees the folder."""

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        script = "echo out; echo err >&2; sleep 1000"
        spec = workload_spec(host, "p", sandbox, "sh", "-c", script)
        annotate(spec, LOG_PATH="app/one.log", LOG_MOUNT="/logs")
        await client.call(request_for(host, "w", spec))
        streams = Streams()
        workload = await host.execute(client, "w", streams)
        await streams.has_printed(b"out\n")
        # The file may be behind what the host has.
        both = "grep -q out $log && grep -q err $log"
        look = f"log=/logs/app/one.log; until {both}; do sleep 0.1; done; echo exec; cat $log"
        process: Tree = {"cwd": "/", "args": ["sh", "-c", look]}
        process |= {"env": ["PATH=/bin"], "user": {"uid": 7, "gid": 7}}
        inside = Streams()
        parameters = ProcessParameters(oci_process=process)
        pid = await host.execute(client, "w", inside, parameters)
        assert await wait(client, "w", pid) == 0
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert sorted(inside.stdout.splitlines()) == [b"err", b"exec", b"out"]
        log = await in_vm(host, client, "cat", "/run/gcs/c/p/logs/app/one.log")
        assert sorted(log.split()) == ["err", "out"]
        await remove(client, "w", workload)
        await remove(client, "p", sandbox)
        assert await left(host, client) == []

    await play(tmp_path, scenario, "-runtime", runtime)


async def test_a_terminal_s_output_is_copied_as_well(tmp_path: Path) -> None:
    """As the terminal makes it."""

    async def scenario(host: AgentHost, client: Client) -> None:
        spec = host.spec("sh", "-c", "echo out", terminal=True)
        spec["annotations"] = {annotations.LOG_PATH: "c.log"}
        await client.call(request_for(host, "c", spec))
        streams = Streams()
        pid = await host.execute(client, "c", streams)
        assert await wait(client, "c", pid) == 0
        assert await in_vm(host, client, "cat", "/run/gcs/c/c/logs/c.log") == "out\r\n"
        assert bytes(streams.stdout) == b"out\r\n"
        await client.call(DeleteContainerState(container_id="c"))

    await play(tmp_path, scenario)


async def test_output_is_logged_that_the_host_does_not_want(tmp_path: Path) -> None:
    """Of a standalone container as well; the process gets no SIGPIPE."""

    async def scenario(host: AgentHost, client: Client) -> None:
        spec = host.spec("sh", "-c", "echo one; echo two")
        spec["annotations"] = {annotations.LOG_PATH: "c.log"}
        await client.call(request_for(host, "c", spec))
        pid = (await client.call(ExecuteProcess(container_id="c"))).process_id
        assert await wait(client, "c", pid) == 0
        assert await in_vm(host, client, "cat", "/run/gcs/c/c/logs/c.log") == "one\ntwo\n"
        await client.call(DeleteContainerState(container_id="c"))
        assert await left(host, client) == []

    await play(tmp_path, scenario)


async def test_a_bundle_is_one_container_s(tmp_path: Path) -> None:
    """The deletion of either would take it from the other."""

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        spec = workload_spec(host, "p", sandbox)
        error = await refused(client, request_for(host, "w", spec, "/run/gcs/c/p"))
        assert error.result == Hresult.INVALID_STATE
        before = await left(host, client)
        for path in ("\0", "relative"):
            spec["root"] = {"path": path}
            annotate(spec, HOST_CERTIFICATE="Y2VydA==")
            await refused(client, request_for(host, "w", spec))
        assert await left(host, client) == before
        await remove(client, "p", sandbox)
        assert await left(host, client) == []

    await play(tmp_path, scenario)


async def test_an_id_is_not_a_pod_s_and_a_container_s(tmp_path: Path) -> None:
    """Their cgroups would be one."""

    async def scenario(host: AgentHost, client: Client) -> None:
        spec = sandbox_spec(host, **{annotations.VIRTUAL_POD_ID: "v"})
        alone = await start(host, client, "v", host.spec("sleep", "1000"))
        error = await refused(client, request_for(host, "a", spec))
        assert error.result == Hresult.SYSTEM_ALREADY_EXISTS
        await remove(client, "v", alone)
        sandbox = await start(host, client, "a", spec)
        error = await refused(client, request_for(host, "v", host.spec("true")))
        assert error.result == Hresult.SYSTEM_ALREADY_EXISTS
        await remove(client, "a", sandbox)
        assert await left(host, client) == []

    await play(tmp_path, scenario)


async def test_an_assigned_device_that_does_not_come_fails_its_container(
    tmp_path: Path,
) -> None:
    """In time, by name, and without a trace; a GPU's hook must be in the VM's image."""
    guid = "0a1b2c3d-0000-4000-8000-0123456789ab"

    async def scenario(host: AgentHost, client: Client) -> None:
        sandbox = await start(host, client, "p", sandbox_spec(host))
        before = await left(host, client)
        spec = workload_spec(host, "p", sandbox)
        for kind in ("vpci", "gpu"):
            spec["windows"] = {"devices": [{"id": guid, "idType": kind}]}
            error = await refused(client, request_for(host, "w", spec))
            assert error.result == Hresult.TIMEOUT
            assert guid in error.message
        assert await left(host, client) == before
        spec["windows"] = {"devices": [{"id": "odd", "idType": "class"}]}
        workload = await start(host, client, "w", spec)
        await remove(client, "w", workload)
        await remove(client, "p", sandbox)

    lower = "from gcs.guest.handlers import pod; pod._ASSIGNED_TIMEOUT_S = 0.2"
    await play(tmp_path, scenario, before=lower)
