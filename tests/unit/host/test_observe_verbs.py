"""`gcsctl mounts` and `gcsctl stats`, around stand-ins for VMs that map nothing."""

import json
import re

import pytest

from gcs.errors import GcsError
from gcs.host.observe_verbs import all_mounts
from gcs.wire.control import ListMountsReply
from gcs.wire.extensions import MountReport
from tests.support.stage import Stage
from tests.unit.host.test_verbs import stage

__all__ = ["stage"]

#: Each starts several programs, one after the other.
pytestmark = pytest.mark.timeout(180)


def said(stage: Stage, *words: str, status: int = 0) -> str:
    """Run a verb and return what it says, on stdout or, when it fails, on stderr."""
    done = stage.run(*words)
    assert done.returncode == status, done.stderr
    return (done.stderr if status else done.stdout).decode()


def start(stage: Stage, name: str) -> str:
    return said(stage, "run", "-d", "--name", name, str(stage.image), "sleep", "300").strip()


def test_mounts_tells_all_that_a_guest_tells_in_parts(stage: Stage) -> None:
    """The stand-in tells one at a time; in a table and as JSON it is all there."""
    container_id = start(stage, "nyan")
    root, layer = map(json.loads, said(stage, "mounts", "--json", "nyan").splitlines())
    assert layer["MountPath"] == "/run/layers/p0"
    assert (layer["ResourceType"], layer["Dax"]) == ("VPMemDevice", True)
    assert layer["Users"] == [root["MountPath"]]
    header, *rows = said(stage, "mounts", "nyan").splitlines()
    columns = ["PATH", "KIND", "SOURCE", "TYPE", "DAX", "CACHE", "OPTIONS", "USERS"]
    assert header.split() == columns
    shown = root["MountPath"].replace(container_id, f"{container_id[:12]}…")
    assert rows[1].split() == [
        *("/run/layers/p0", "VPMemDevice", "/dev/pmem0", "ext4", "on", "-", "ro", shown),
    ]
    assert rows[0].split() == [shown, "CombinedLayers", *("overlay",) * 2, *"----"]


def test_stats_tells_of_all_vms_and_of_those_that_are_named(stage: Stage) -> None:
    """What guests say of themselves, this machine's figures, and a total."""
    ids = {start(stage, name): name for name in ("one", "two")}
    all_of_them = json.loads(said(stage, "stats", "--json"))
    assert [vm["Vm"] for vm in all_of_them["Vms"]] == sorted(each[:12] for each in ids)
    for vm in all_of_them["Vms"]:
        (container,) = vm["Containers"]
        assert ids[container.pop("ContainerId")] == container.pop("Name")
        assert container == {"MemoryBytes": 5000000, "CpuNanoseconds": 30000000, "Tasks": 2}
        assert vm["Host"]["OtherBytes"] > 0
    # Programs that are Python take some; what they share counts less in each, and not twice.
    total = sum(vm["Host"]["OtherBytes"] for vm in all_of_them["Vms"])
    assert all_of_them["Total"]["OtherBytes"] == total
    header, row, last = said(stage, "stats", "two").splitlines()
    assert header.split("  ")[0] == "VM"
    assert re.match(r"[0-9a-f]{12} +two +50\.0 MB / 200\.0 MB +0 B +0 B +0 B +", row)
    assert last.startswith("total ")


def test_what_has_ended_is_left_out_or_refused(stage: Stage) -> None:
    """A container of which only the record is left has no VM to be asked."""
    assert stage.run("run", "-d", "--name", "over", str(stage.image), "true").returncode == 0
    assert said(stage, "wait", "over") == "0\n"
    sentence = "gcsctl: container over is not running\n"
    assert said(stage, "stats", "over", status=1) == sentence
    assert said(stage, "mounts", "over", status=1) == sentence
    assert json.loads(said(stage, "stats", "--json"))["Vms"] == []
    assert said(stage, "stats", "nobody", status=1) == "gcsctl: no such container: nobody\n"


def test_the_containers_of_a_pod_are_in_one_vm(stage: Stage) -> None:
    """It counts once, with both of them."""
    for name in ("one", "two"):
        words = ("run", "-d", "--pod", "web", "--name", name, str(stage.image), "sleep", "300")
        said(stage, *words)
    (vm,) = json.loads(said(stage, "stats", "--json"))["Vms"]
    assert sorted(each["Name"] for each in vm["Containers"]) == ["one", "two"]
    assert said(stage, "mounts", "two") == said(stage, "mounts", "one")


@pytest.mark.parametrize("step", [0, -1, 1], ids=["again", "back", "on without end"])
async def test_a_table_of_mounts_without_end_is_an_error(step: int) -> None:
    """A guest that tells the same again, goes back, or never ends is given up."""

    async def ask(after: str) -> ListMountsReply:
        number = 1_000_000 + 5 if not after else int(after) + 100 * step
        paths = range(number, number + 100)
        mounts = tuple(MountReport(mount_path=str(path)) for path in paths)
        return ListMountsReply(mounts=mounts, is_partial=True)

    with pytest.raises(GcsError, match="the guest's table has no end after"):
        await all_mounts(ask)
