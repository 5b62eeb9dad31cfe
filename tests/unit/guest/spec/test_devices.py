"""Devices, privileged containers, assigned devices and the hook of GPUs."""

import pytest

from gcs.errors import InvalidArgumentError, InvalidRequestError
from gcs.guest.spec import devices, gpu
from gcs.guest.spec.devices import AssignedDevice
from gcs.linux.nodes import DeviceNode

Tree = dict[str, object]

NULL = DeviceNode("/dev/null", "c", 1, 3, 0, 0)
DISK = DeviceNode("/dev/sda", "b", 8, 0, 0, 6)


def rule(node: DeviceNode) -> Tree:
    return {
        "allow": True,
        "type": node.kind,
        "major": node.major,
        "minor": node.minor,
        "access": "rwm",
    }


def entry(node: DeviceNode) -> Tree:
    return {
        "path": node.path,
        "type": node.kind,
        "major": node.major,
        "minor": node.minor,
        "uid": node.uid,
        "gid": node.gid,
    }


def linux(draft: Tree) -> Tree:
    value = draft["linux"]
    assert isinstance(value, dict)
    return value


def test_a_device_becomes_the_one_that_the_vm_has() -> None:
    """The host's numbers are another machine's; what else it says of the device stays."""
    given: Tree = {"path": "/dev/null", "type": "b", "major": 9, "fileMode": 438, "odd": 1}
    deny: Tree = {"allow": False, "access": "rwm"}
    draft: Tree = {"linux": {"devices": [given], "resources": {"devices": [deny], "cpu": {}}}}
    assert devices.paths(draft) == ("/dev/null",)
    devices.resolve(draft, {"/dev/null": NULL})
    once = {
        "devices": [{"fileMode": 438, "odd": 1, **entry(NULL)}],
        "resources": {"devices": [deny, rule(NULL)], "cpu": {}},
    }
    assert draft["linux"] == once
    devices.resolve(draft, {"/dev/null": NULL})
    assert draft["linux"] == once


def test_a_privileged_container_gets_every_device_and_may_use_any() -> None:
    """Its rules are replaced; an entry of the same path is overwritten in its place."""
    deny: Tree = {"allow": False, "access": "rwm"}
    given: Tree = {"path": "/dev/sda", "major": 1}
    draft: Tree = {"linux": {"devices": [given], "resources": {"devices": [deny]}}}
    devices.grant_all(draft, [NULL, DISK])
    assert linux(draft)["devices"] == [entry(DISK), entry(NULL)]
    assert linux(draft)["resources"] == {"devices": [{"allow": True, "access": "rwm"}]}


def test_a_path_that_no_file_can_have_is_refused() -> None:
    """The system calls of Python would fail in a way of their own."""
    with pytest.raises(InvalidArgumentError, match=r"devices\.path: there is a zero byte"):
        devices.paths({"linux": {"devices": [{"path": "/dev/\0"}]}})


def test_without_devices_nothing_is_added() -> None:
    """Not even an empty list."""
    draft: Tree = {"linux": {}}
    assert devices.paths(draft) == ()
    devices.resolve(draft, {})
    devices.add(draft, ())
    assert draft == {"linux": {}}


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("vpci", [AssignedDevice("aa-bb", is_gpu=False)]),
        ("vpci-instance-id", [AssignedDevice("aa-bb", is_gpu=False)]),
        ("gpu", [AssignedDevice("aa-bb", is_gpu=True)]),
        ("class", []),
        ("", []),
    ],
)
def test_assigned_devices_are_of_three_kinds(kind: str, found: list[AssignedDevice]) -> None:
    """Others mean nothing here and are passed over; ids compare in lower case."""
    spec: Tree = {"windows": {"devices": [{"id": "AA-bb", "idType": kind}]}}
    assert list(devices.assigned(spec)) == found


def test_assigned_devices_of_the_wrong_type_are_refused_by_path() -> None:
    """No devices are fine."""
    assert devices.assigned({}) == devices.assigned({"windows": {}}) == ()
    with pytest.raises(InvalidRequestError, match=r"windows\.devices\.id"):
        devices.assigned({"windows": {"devices": [{"id": 1, "idType": "gpu"}]}})


def test_the_hook_of_gpus_runs_their_vendor_s_program() -> None:
    """Hooks of the host stay; the order of arguments is what the program takes."""
    own: Tree = {"path": "/own"}
    draft: Tree = {"root": {"path": "rootfs"}, "hooks": {"createRuntime": [own], "poststop": 1}}
    gpu.add_hook(draft, "/b", "/bin/generichook", ["0:1", "0:2"], ["utility"], {"PATH": "/bin"})
    assert draft["hooks"] == {
        "createRuntime": [
            own,
            {
                "path": "/bin/generichook",
                "args": [
                    "/bin/generichook",
                    "nvidia-container-cli",
                    "--debug=/b/nvidia-container.log",
                    "--no-pivot",
                    "configure",
                    "--ldconfig=@/sbin/ldconfig",
                    "--utility",
                    "--device=0:1",
                    "--device=0:2",
                    "--pid={{pid}}",
                    "/b/rootfs",
                ],
                "env": [
                    "PATH=/bin",
                    "NVC_INSECURE_MODE=1",
                    "GENERIC_HOOK_LOG_DEBUG_FILE=/b/nvidia-container.log",
                ],
            },
        ],
        "poststop": 1,
    }
