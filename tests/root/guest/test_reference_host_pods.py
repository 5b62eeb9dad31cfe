"""Pods, as a host that is not ours makes them: several in one VM, in both layouts."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.support.reference_agent import Stand, open_stand
from tests.support.reference_host.container import Container
from tests.support.reference_host.frames import Hresult
from tests.support.reference_host.layers import Layout, v1_layout, v2_layout
from tests.support.reference_host.process import Process
from tests.support.reference_host.shapes import GuestError
from tests.support.reference_host.specs import oci_spec, pod_annotations

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

_DISK = "/run/mounts/scsi/0_0_0"
_PODS = {"1" * 64: (), "2" * 64: ("pid",)}
_FILES = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid", "mount": "mnt"}


@dataclass
class Member:
    """A container of a pod, and its init."""

    layout: Layout
    container: Container
    init: Process


def layout_of(version: str, pod: str, container_id: str) -> Layout:
    """Return where a host of that version puts a container's files."""
    return v1_layout(container_id) if version == "V1" else v2_layout(pod, container_id, _DISK)


async def said(stand: Stand, *argv: str) -> list[str]:
    """Return the words that a program of the VM prints."""
    process = await stand.guest.run(*argv)
    assert await process.exit_code() == 0
    return bytes(process.stdout.data).decode().split()


async def make(stand: Stand, layout: Layout, spec: dict[str, object]) -> Member:
    """Mount a container's files, create and start it."""
    await layout.combine(stand.guest, [stand.layer])
    container = await stand.guest.create(
        layout.container_id, layout.bundle, spec, layout.scratch
    )
    return Member(layout, container, await container.start(streams=False))


async def make_pod(
    stand: Stand, version: str, pod: str, shared: tuple[str, ...]
) -> tuple[Member, Member]:
    """Make a sandbox, and a workload that joins its namespaces by its init's pid."""
    layout = layout_of(version, pod, pod)
    pause = oci_spec(layout.rootfs, "sleep", "1000", annotations=pod_annotations())
    sandbox = await make(stand, layout, pause)
    layout = layout_of(version, pod, f"{pod[:32]}{'c' * 32}")
    kinds = ("network", "ipc", "uts", *shared)
    joined = {kind: f"/proc/{sandbox.init.pid}/ns/{_FILES[kind]}" for kind in kinds}
    annotations = pod_annotations(pod)
    spec = oci_spec(layout.rootfs, "sleep", "1000", annotations=annotations, namespaces=joined)
    return sandbox, await make(stand, layout, spec)


async def links(stand: Stand, member: Member) -> dict[str, str]:
    """Return the namespaces of a container's init, by their kind."""
    paths = [f"/proc/{member.init.pid}/ns/{file}" for file in _FILES.values()]
    return dict(zip(_FILES, await said(stand, "readlink", *paths), strict=True))


async def check(stand: Stand, pod: str, members: tuple[Member, Member], shared: object) -> None:
    """See that a pod shares what it should, and has its cgroups."""
    sandbox, workload = [await links(stand, member) for member in members]
    same = {kind for kind, link in sandbox.items() if workload[kind] == link}
    assert isinstance(shared, tuple)
    assert same == {"network", "ipc", "uts", *shared}
    for member in members:
        cgroup = f"/sys/fs/cgroup/pods/{pod}/{member.layout.container_id}/cgroup.procs"
        assert await said(stand, "cat", cgroup) == [str(member.init.pid)]


async def end(stand: Stand, member: Member) -> None:
    """Kill a container if it still runs, and remove it and its files."""
    await member.init.signal()
    assert await member.init.exit_code() == 128 + 9
    assert await member.container.end() in ("ForcedExit", "UnexpectedExit")
    await member.container.delete()
    await member.layout.separate(stand.guest)


@pytest.mark.parametrize("version", ["V1", "V2"])
async def test_two_pods_and_their_ids_again(tmp_path: Path, version: str) -> None:
    """They share nothing, go in either order, leave nothing, and come back with their ids."""
    async with open_stand(tmp_path) as stand:
        with trio.fail_after(240):
            for is_sandbox_first in (False, True):
                pods = {
                    pod: await make_pod(stand, version, pod, shared)
                    for pod, shared in _PODS.items()
                }
                for pod, members in pods.items():
                    await check(stand, pod, members, _PODS[pod])
                first, second = [await links(stand, pair[0]) for pair in pods.values()]
                assert not set(first.values()) & set(second.values())
                for pair in pods.values():
                    for member in pair if is_sandbox_first else reversed(pair):
                        await end(stand, member)
                own = ("-not", "-path", "/run/gcs/runc/*")
                assert await said(stand, "find", "/run/gcs", "-mindepth", "2", *own) == []
                cgroups = ("/sys/fs/cgroup/pods", "-mindepth", "1", "-type", "d")
                assert await said(stand, "find", *cgroups) == []


@pytest.mark.parametrize(
    "annotations",
    [
        pod_annotations("3" * 64),
        {"io.kubernetes.cri.container-type": "container"},
        {"io.kubernetes.cri.container-type": "podsandbox"},
    ],
    ids=["unknown sandbox", "no sandbox", "unknown type"],
)
async def test_no_such_pod_or_kind(tmp_path: Path, annotations: dict[str, str]) -> None:
    """The request fails as hosts know it, and the id can be used."""
    layout = v2_layout("3" * 64, "4" * 64, _DISK)
    async with open_stand(tmp_path) as stand:
        spec = oci_spec(layout.rootfs, "sleep", "1000", annotations=annotations)
        with trio.fail_after(240):
            await layout.combine(stand.guest, [stand.layer])
            container = Container(stand.guest, layout.container_id)
            with pytest.raises(GuestError) as caught:
                await container.create(layout.bundle, spec, layout.scratch)
            assert caught.value.result == Hresult.FAIL
            spec["annotations"] = {}
            await container.create(layout.bundle, spec, layout.scratch)
            await end(stand, Member(layout, container, await container.start(streams=False)))
