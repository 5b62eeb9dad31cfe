"""Everything that a host can ask of the base image, in one VM: no part of it is missing there.

The image holds those modules alone that the agent was found to import. One that is missing
would be an ImportError at the first request that needs it: so here each request comes once,
each change, each property and each member of a record, and each is answered as it should be.

A unit test holds the table of scenes complete (tests/unit/test_every_request.py).
"""

import json
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gcs.host.artifacts import BootForm, find_vsock_program
from gcs.host.bootports import LOG_NAME, open_boot_ports, start_words
from gcs.host.bridge import accept_bridge
from gcs.host.images import open_image
from gcs.host.layers import default_cache_dir, ensure_layers
from gcs.host.qemu import VmConfig
from gcs.host.scratch import open_file
from gcs.host.vm import VmError, find_vhost_vsock, open_vm
from gcs.host.vsock import BRIDGE_PORT, Ports
from gcs.wire.codec import Encoding
from gcs.wire.properties import PropertyType
from gcs.wire.resource import (
    RequestType,
    ResourceType,
)
from tests.support import every_request
from tests.support.every_request import open_asking
from tests.vm.play import SCRATCH, Play
from tests.vm.scenes import (
    containers,
    ends,
    execs,
    memory,
    modules,
    networks,
    power_off,
    refusals,
    reports,
    vm_processes,
)
from tests.vm.scenes_storage import disks, layers, shares
from tests.vm.test_start import configuration

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

#: Of a record of the log: something went wrong that nobody asked for.
_BAD = ("error", "fatal", "panic")

Scene = Callable[[Play], Awaitable[None]]


def _changes(kind: ResourceType, *actions: RequestType) -> Sequence[str]:
    return tuple(f"{action} {kind} of the VM" for action in actions)


_IN_AND_OUT = (RequestType.ADD, RequestType.REMOVE)
#: In this order: a scene, and the places that have to be asked for in it.
SCENES: Mapping[Scene, Sequence[str]] = {
    layers: ("ModifySettings of the VM", *_changes(ResourceType.VPMEM_DEVICE, *_IN_AND_OUT)),
    disks: (
        *_changes(ResourceType.MAPPED_VIRTUAL_DISK, *_IN_AND_OUT),
        *_changes(ResourceType.SCSI_DEVICE, RequestType.REMOVE),
    ),
    shares: (
        *_changes(ResourceType.MAPPED_DIRECTORY, *_IN_AND_OUT),
        *_changes(ResourceType.TEMPORARY_FILESYSTEM, *_IN_AND_OUT),
    ),
    containers: (
        *("Create", "Start", "ExecuteProcess of a container", "ResizeConsole of a container"),
        *_changes(ResourceType.COMBINED_LAYERS, RequestType.ADD),
    ),
    networks: _changes(ResourceType.NETWORK, *RequestType),
    execs: ("SignalProcess of a container", "WaitForProcess of a container"),
    vm_processes: (
        *("ExecuteProcess of the VM", "ResizeConsole of the VM"),
        *("SignalProcess of the VM", "WaitForProcess of the VM"),
    ),
    memory: (
        *("WaitForOutOfMemory", "ModifySettings of a container"),
        "Add ContainerConstraints of a container",
        "Update ContainerConstraints of a container",
        *_changes(ResourceType.POD_CGROUP_MEMORY_LIMIT, RequestType.UPDATE),
    ),
    reports: (
        *("ReportMounts", "DumpStacks"),
        *("GetProperties of the VM", "GetProperties of a container"),
        *(f"{kind} of {whose}" for kind in PropertyType for whose in ("the VM", "a container")),
    ),
    refusals: _changes(ResourceType.VPCI_DEVICE, RequestType.ADD),
    modules: (),
    ends: (
        *("ShutdownGraceful of a container", "ShutdownForced of a container"),
        "DeleteContainerState",
        *_changes(ResourceType.COMBINED_LAYERS, RequestType.REMOVE),
    ),
    power_off: ("NegotiateProtocol", "ShutdownGraceful of the VM", "ShutdownForced of the VM"),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a name short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="gcs-vm-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


async def test_every_request_is_answered_by_the_base_image(
    folder: Path, image: Path, memory_mib: int, vcpus: int, accel: str
) -> None:
    """Each has its answer, and nothing in the agent's log or on the console went wrong."""
    config = configuration(memory_mib, vcpus, accel, start_words("debug"), BootForm.PMEM)
    with pytest.raises(VmError, match="QEMU"):
        await _play_all(folder, image, replace(config, has_scratch_port=True))
    console = (folder / "serial.log").read_text(errors="replace")
    said = (folder / LOG_NAME).read_text()
    records = [json.loads(line) for line in said.splitlines()]
    own = [each for each in records if each["msg"] != "kmsg read"]  # the kernel's words
    assert [each for each in own if "stack" in each or each["level"] in _BAD] == []
    assert {"powering off", "request refused"} <= {each["msg"] for each in records}
    assert re.findall(r"Traceback|\w*ImportError|ModuleNotFound\w*", console + said) == []


async def _play_all(folder: Path, image_path: Path, config: VmConfig) -> None:
    """Play each scene, and see that it asks for what it is said to; all of it is everything."""
    image = await open_image(image_path)
    files = await ensure_layers(image, default_cache_dir(), progress=lambda _: None)
    program = None if find_vhost_vsock() else str(find_vsock_program(None))
    with open_file(SCRATCH) as scratch:
        opening = open_vm(config, folder, vsock_program=program, scratch_fd=scratch)
        async with opening as vm, open_boot_ports(vm.vsock, folder):
            with await vm.vsock.listen(BRIDGE_PORT) as listener:
                await vm.start()
                stream = await accept_bridge(listener)
            noted, asked = set[str](), set[str]()
            with await vm.vsock.listen(BRIDGE_PORT) as listener:
                async with open_asking(stream, Encoding.JSON, noted) as client:
                    play = Play(vm, client, Ports(), folder, image, files)
                    for scene in SCENES:
                        if scene is not power_off:
                            asked |= await _perform(scene, play, noted)
                stream = await accept_bridge(listener)
            async with open_asking(stream, Encoding.CBOR, noted) as play.client:
                asked |= await _perform(power_off, play, noted)
            assert every_request.members() - asked == frozenset()


async def _perform(scene: Scene, play: Play, noted: set[str]) -> frozenset[str]:
    """Play one scene; return what it asked for."""
    await scene(play)
    asked = frozenset(noted)
    noted.clear()
    assert set(SCENES[scene]) - asked == set(), scene
    return asked
