"""The fix-ups together: what each kind of container gets, and in which order."""

import pytest

from gcs.guest.spec import annotations, fixups
from gcs.guest.spec.devices import AssignedDevice
from gcs.guest.spec.fixups import Facts, Place, Prepared, Wanted
from gcs.guest.spec.kinds import Identity, Kind
from gcs.guest.spec.mounts import SharedFolder
from gcs.guest.spec.process import UserIds
from gcs.linux.nodes import DeviceNode

Tree = dict[str, object]

NULL = DeviceNode("/dev/null", "c", 1, 3, 0, 0)
DISK = DeviceNode("/dev/sda", "b", 8, 0, 0, 6)
GPU = DeviceNode("/dev/dri/card0", "c", 226, 0, 0, 44)
STANDALONE = Identity("c", Kind.STANDALONE)
SANDBOX = Identity("c", Kind.SANDBOX, "c")
WORKLOAD = Identity("c", Kind.WORKLOAD, "p")


def full() -> Tree:
    """Return a spec that asks for everything a workload can have."""
    return {
        "process": {
            "user": {"username": "app", "odd": 1},
            "rlimits": [{"type": "RLIMIT_CORE"}],
        },
        "root": {"path": "/run/c/rootfs"},
        "mounts": [
            {"destination": "/shared", "source": "sandbox://a"},
            {"destination": "blockdev:///dev/x", "source": "/run/link"},
            {"destination": "/vm", "source": "uvm:///run"},
            {"destination": "/dev/shm"},
        ],
        "linux": {"devices": [{"path": "/dev/null"}], "namespaces": [{"type": "network"}]},
        "windows": {"devices": [{"id": "A", "idType": "vpci"}]},
        "annotations": {
            annotations.SHM_SIZE_KB: "64",
            annotations.CORE_LIMIT: "1;2",
            annotations.LOG_MOUNT: "/logs",
            annotations.GPU_CAPABILITIES: "compute",
        },
    }


FOLDERS = {SharedFolder("sandboxMounts", "a"): "/run/c/pins/0"}
FACTS = Facts(
    nodes={"/dev/null": NULL},
    block_devices={"/run/link": DISK},
    shared_folders=FOLDERS,
    assigned_nodes=(GPU,),
    user=UserIds(5, 6),
)


def prepare(
    identity: Identity, facts: Facts = FACTS, spec: Tree | None = None, *, host: bool = False
) -> Prepared:
    tree = full() if spec is None else spec
    place = Place(identity, "/run/c", "/run/p", host_network=host)
    return fixups.prepare(tree, annotations.read(tree), place, facts)


def wanted(identity: Identity, spec: Tree | None = None) -> Wanted:
    tree = full() if spec is None else spec
    return fixups.wanted(tree, annotations.read(tree), identity)


def places(prepared: Prepared) -> list[object]:
    found = prepared.spec["mounts"]
    assert isinstance(found, list)
    return [mount["destination"] for mount in found]


def test_a_workload_gets_everything_in_order() -> None:
    """Its mounts first, then the pod's files, then what annotations ask for."""
    prepared = prepare(WORKLOAD)
    assert places(prepared) == [
        "/shared",
        "/dev/x",
        "/vm",
        "/dev/shm",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/logs",
    ]
    assert prepared.spec["process"] == {
        "user": {"username": "app", "odd": 1, "uid": 5, "gid": 6},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}],
    }
    linux = prepared.spec["linux"]
    assert isinstance(linux, dict)
    assert linux["cgroupsPath"] == prepared.cgroup == "/pods/p/c"
    assert [device["path"] for device in linux["devices"]] == ["/dev/null", "/dev/dri/card0"]
    rules = [(r["type"], r["major"]) for r in linux["resources"]["devices"]]
    assert rules == [("b", 8), ("c", 1), ("c", 226)]
    assert "windows" not in prepared.spec
    assert prepared.user == {"username": "app", "odd": 1, "uid": 5, "gid": 6}


def test_a_sandbox_gets_its_user_and_its_limits_only() -> None:
    """Prefixes, devices and shared memory mean nothing to it, and no file is mounted."""
    prepared = prepare(SANDBOX)
    expected = full()
    expected.pop("windows")
    expected["process"] = {
        "user": {"username": "app", "odd": 1, "uid": 5, "gid": 6},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}],
    }
    linux, given = expected["linux"], expected["mounts"]
    assert isinstance(linux, dict)
    assert isinstance(given, list)
    linux["cgroupsPath"] = "/pods/c/c"
    logs = {
        "destination": "/logs",
        "type": "bind",
        "source": "/run/p/logs",
        "options": ["bind"],
    }
    given.append(logs)
    assert prepared.spec == expected


def test_a_standalone_container_gets_the_files_only() -> None:
    """Not even its user's name is looked up."""
    prepared = prepare(STANDALONE, Facts())
    assert prepared.spec["process"] == full()["process"]
    assert places(prepared)[:4] == ["/shared", "blockdev:///dev/x", "/vm", "/dev/shm"]
    assert places(prepared)[4:] == ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/logs"]
    assert prepared.cgroup == "/pods/c"
    assert prepared.user is None


def test_what_has_to_be_known_depends_on_the_kind() -> None:
    """Nothing is looked up that would not be used."""
    assert wanted(STANDALONE) == Wanted()
    assert wanted(SANDBOX) == Wanted(username="app")
    everything = Wanted(
        device_paths=("/dev/null",),
        block_links=("/run/link",),
        vm_paths=("/run",),
        shared_folders=(SharedFolder("sandboxMounts", "a"),),
        assigned=(AssignedDevice("a", is_gpu=False),),
        username="app",
    )
    assert wanted(WORKLOAD) == everything


def test_a_privileged_workload_gets_all_devices() -> None:
    """Its own list is not looked at; its rules are one, but for devices assigned to it."""
    spec = full()
    spec["annotations"] = {annotations.PRIVILEGED: "true"}
    found = wanted(WORKLOAD, spec)
    assert (found.all_devices, found.device_paths) == (True, ())
    facts = Facts(
        nodes={"/dev/null": NULL, "/dev/sda": DISK},
        block_devices={"/run/link": DISK},
        shared_folders=FOLDERS,
    )
    linux = prepare(WORKLOAD, facts, spec).spec["linux"]
    assert isinstance(linux, dict)
    assert [device["path"] for device in linux["devices"]] == ["/dev/null", "/dev/sda"]
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_gpus_come_by_a_hook_and_a_rule_for_character_devices() -> None:
    """The hook makes the nodes, so their numbers are not known before."""
    facts = Facts(
        nodes={"/dev/null": NULL},
        block_devices={"/run/link": DISK},
        shared_folders=FOLDERS,
        gpu_program="/bin/generichook",
        gpu_locations=("0:1",),
        environment={"A": "b"},
    )
    prepared = prepare(WORKLOAD, facts)
    hooks, linux = prepared.spec["hooks"], prepared.spec["linux"]
    assert isinstance(hooks, dict)
    assert isinstance(linux, dict)
    (hook,) = hooks["createRuntime"]
    assert {"--compute", "--device=0:1", "/run/c/rootfs"} <= set(hook["args"])
    assert hook["env"][0] == "A=b"
    assert linux["resources"]["devices"][-1] == {"allow": True, "type": "c", "access": "rwm"}


@pytest.mark.parametrize("env", [["A=b"], [], None])
def test_the_security_context_is_named_in_the_environment(env: list[str] | None) -> None:
    """Behind what the spec has there, as a path in the container."""
    spec: Tree = {"process": {"env": env}, "root": {}, "linux": {}}
    prepared = prepare(STANDALONE, Facts(security_context="security-context-1"), spec)
    assert prepared.spec["process"] == {
        "env": [*(env or []), "UVM_SECURITY_CONTEXT_DIR=/security-context-1"]
    }


@pytest.mark.parametrize("identity", [STANDALONE, SANDBOX, WORKLOAD])
def test_the_vm_s_network_is_used_by_leaving_out_the_namespace(identity: Identity) -> None:
    """Everything else in the list stays, whatever it is."""
    spec = full()
    spec["linux"] = {"namespaces": [{"type": "pid"}, {"type": "network"}, "odd"]}
    linux = prepare(identity, spec=spec, host=True).spec["linux"]
    assert isinstance(linux, dict)
    assert linux["namespaces"] == [{"type": "pid"}, "odd"]


@pytest.mark.parametrize(
    ("resources", "left"),
    [
        ({"memory": {"limit": 5, "swap": 5}, "odd": 1}, {"memory": {"limit": 5}, "odd": 1}),
        ({"memory": {"swap": -1}}, {"memory": {}}),
        ({"memory": "odd"}, {"memory": "odd"}),
        ({"cpu": {}}, {"cpu": {}}),
        (None, None),
    ],
)
def test_a_kernel_without_swap_is_not_asked_to_limit_it(
    resources: object, left: object
) -> None:
    """A runtime fails on the file that is missing; a kernel with swap gets the limit."""
    spec: Tree = {"process": {}, "root": {}, "linux": {"resources": resources}}
    for has_limits, expected in ((True, resources), (False, left)):
        linux = prepare(SANDBOX, Facts(has_swap_limits=has_limits), spec).spec["linux"]
        assert isinstance(linux, dict)
        assert linux["resources"] == expected


@pytest.mark.parametrize(
    ("path", "root"),
    [("/run/c/rootfs", "/run/c/rootfs"), ("rootfs", "/run/c/rootfs"), ("", "/run/c/")],
)
def test_a_relative_root_is_below_the_bundle(path: str, root: str) -> None:
    """Execs look users up where the init's user and a GPU's hook have found the root."""
    assert prepare(STANDALONE, spec=full() | {"root": {"path": path}}).root == root
    facts = Facts(
        nodes={},
        block_devices=FACTS.block_devices,
        shared_folders=FOLDERS,
        gpu_program="/bin/x",
    )
    prepared = prepare(WORKLOAD, facts, full() | {"root": {"path": path}})
    hooks = prepared.spec["hooks"]
    assert isinstance(hooks, dict)
    assert hooks["createRuntime"][-1]["args"][-1] == prepared.root == root
