"""Containers of a pod: one VM, joined and left by gcsctl, around stand-ins for the VM."""

import json
import os
import signal

import pytest

from tests.support.stage import Stage, services
from tests.unit.host.test_verbs import DEAF, SLEEP, listed, said, stage, vm_folder

__all__ = ["stage"]


def start(stage: Stage, name: str, *command: str, options: tuple[str, ...] = ()) -> str:
    """Start a container of the pod "web" in the background and return its id."""
    words = ("run", "-d", "--pod", "web", "--name", name, *options, str(stage.image))
    done = stage.run(*words, *(command or SLEEP))
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def states(stage: Stage) -> dict[object, object]:
    return {one["Name"]: one["State"] for one in listed(stage)}


def vms(stage: Stage) -> int:
    """Return how many VMs there are."""
    return len(list(stage.runtime.glob("gcs/*/pids.json")))


def test_a_second_container_joins_the_vm_of_the_first(stage: Stage) -> None:
    """Each is listed with its pod, and has processes of its own."""
    first, second = start(stage, "one", options=("-e", "X=1")), start(stage, "two")
    assert vms(stage) == 1
    assert {(one["Name"], one["Pod"]) for one in listed(stage)} == {
        ("one", "web"),
        ("two", "web"),
    }
    header, *_ = said(stage, "ps").splitlines()
    assert header.split()[-1] == "POD"
    assert said(stage, "exec", "one", "sh", "-c", "echo $X") == "1\n"
    assert said(stage, "exec", second[:5], "sh", "-c", "echo $X") == "\n"
    assert said(stage, "exec", "two", "sh", "-c", "exit 3; true", status=3) == ""
    assert first[:12] != second[:12]


def test_a_pod_goes_on_without_its_first_container(stage: Stage) -> None:
    """It is stopped, waited for and removed by itself; with the last one the VM ends."""
    start(stage, "one")
    start(stage, "two")
    assert said(stage, "stop", "one") == "one\n"
    assert said(stage, "wait", "one") == "143\n"
    assert states(stage) == {"one": "exited", "two": "running"}
    assert said(stage, "rm", "one") == "one\n"
    start(stage, "three")
    assert vms(stage) == 1
    said(stage, "rm", "-f", "two", "three")
    assert stage.leftovers() == []


def test_with_the_last_container_the_pod_ends_and_its_name_is_free(stage: Stage) -> None:
    """What is kept of its containers does not keep the VM."""
    start(stage, "one", "sh", "-c", "exit 4")
    assert said(stage, "wait", "one") == "4\n"
    start(stage, "two", options=("--memory", "128M"))
    assert states(stage) == {"one": "exited", "two": "running"}


def test_what_all_share_is_chosen_by_the_first(stage: Stage) -> None:
    """Options of the VM are refused in words, and nothing is started."""
    start(stage, "one", options=("--memory", "128M", "--hostname", "h"))
    words = ("run", "--pod", "web", "--memory", "64M", "-p", "1:1", str(stage.image))
    told = said(stage, *words, status=125)
    assert told.startswith("gcsctl: --memory, -p: pod web is there already")
    assert states(stage) == {"one": "running"}


def test_a_container_in_the_foreground_leaves_the_others(stage: Stage) -> None:
    """Its output and its exit status are its own; it is gone when gcsctl is."""
    start(stage, "one")
    words = ("run", "--pod", "web", str(stage.image), "sh", "-c", "echo hi; exit 5")
    done = stage.run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (5, b"hi\n", b"")
    assert states(stage) == {"one": "running"}


def test_a_pod_outlives_the_gcsctl_that_has_started_it(stage: Stage) -> None:
    """Whose container ends with it, by a signal too."""
    script = "echo ready; exec sleep 300"
    words = ("run", "--pod", "web", "--name", "one", str(stage.image), "sh", "-c", script)
    with stage.start(*words) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"ready\n"
        start(stage, "two")
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 129
    assert states(stage) == {"one": "exited", "two": "running"}
    assert said(stage, "exec", "two", "echo", "there") == "there\n"


def test_a_container_that_can_not_join_leaves_the_pod_as_it_was(stage: Stage) -> None:
    """Refused by the runtime, or for its name; no folder of it is left."""
    start(stage, "one")
    before = stage.leftovers()
    words = ("run", "-d", "--pod", "web", "--name")
    told = said(stage, *words, "two", str(stage.image), "no-such-command", status=127)
    assert "executable file not found" in told
    assert "has it" in said(stage, *words, "one", str(stage.image), "true", status=125)
    assert said(stage, *words, "two", "/none", "true", status=125)
    assert stage.leftovers() == before
    start(stage, "two")


def test_a_container_that_hears_nothing_is_ended_by_force(stage: Stage) -> None:
    """And the others don't notice."""
    start(stage, "one")
    start(stage, "two", *DEAF)
    said(stage, "stop", "-t", "0", "two")
    assert said(stage, "wait", "two") == "137\n"
    start(stage, "three", *DEAF)
    assert said(stage, "rm", "-f", "three") == "three\n"
    assert states(stage) == {"one": "running", "two": "exited"}


def test_when_the_vm_dies_all_have_failed(stage: Stage) -> None:
    """Each is kept with the reason."""
    first = start(stage, "one")
    start(stage, "two")
    claim = json.loads((vm_folder(stage, first) / "claim.json").read_text())
    programs = json.loads((stage.runtime / "gcs" / claim["vm"] / "pids.json").read_text())
    pids = {one["name"]: one["pid"] for one in programs}
    with stage.start("wait", "one") as one, stage.start("wait", "two") as two:
        os.kill(pids["QEMU"], signal.SIGKILL)
        assert [one.wait(30), two.wait(30)] == [1, 1]
    for name in ("one", "two"):
        told = said(stage, "wait", name, status=1)
        assert f"container {name}: no exit status: QEMU was killed by SIGKILL" in told
    assert states(stage) == {"one": "failed", "two": "failed"}


def test_a_pod_whose_sandbox_ends_has_failed(stage: Stage) -> None:
    """Nobody could join it any more."""
    start(stage, "one")
    # It may be told of that, or of the end of the VM.
    stage.run("exec", "--vm", "one", "pkill", "-f", "sleep 2147483647")
    told = said(stage, "wait", "one", status=1)
    assert "pod web: its sandbox has ended: 143" in told


def test_a_service_that_was_killed_is_cleared_away_with_all_its_containers(
    stage: Stage,
) -> None:
    """Their names and the pod's are free."""
    first = start(stage, "one")
    start(stage, "two")
    claim = json.loads((vm_folder(stage, first) / "claim.json").read_text())
    (service,) = (pid for pid, words in services() if claim["vm"] in words)
    os.kill(service, signal.SIGKILL)
    assert "no such container: one" in said(stage, "wait", "one", status=1)
    assert stage.leftovers() == []
    start(stage, "one")


def test_containers_join_at_once(stage: Stage) -> None:
    """Several gcsctl at the same moment."""
    start(stage, "one")
    words = ("run", "--pod", "web", str(stage.image), "echo", "x")
    with (
        stage.start(*words) as one,
        stage.start(*words) as two,
        stage.start(*words) as three,
    ):
        for process in (one, two, three):
            out, err = process.communicate(timeout=50)
            assert (process.returncode, out, err) == (0, b"x\n", b"")
    assert states(stage) == {"one": "running"}


def test_what_is_wrong_with_the_first_is_not_told_to_the_others(stage: Stage) -> None:
    """Its name is taken, or its image is none, while others join; they wait or go on."""
    assert stage.run("run", "-d", "--name", "taken", str(stage.image), *SLEEP).returncode == 0
    words = ("run", "--pod", "web")
    with (
        stage.start(*words, "--name", "taken", str(stage.image), "true") as refused,
        stage.start(*words, str(stage.image.parent), "true") as broken,
        stage.start(*words, str(stage.image), "echo", "x") as one,
        stage.start(*words, str(stage.image), "echo", "x") as two,
    ):
        _, why = refused.communicate(timeout=100)
        assert b"taken" in why
        assert refused.returncode == 125
        broken.communicate(timeout=100)
        assert broken.returncode == 125
        for process in (one, two):
            out, err = process.communicate(timeout=100)
            assert (process.returncode, out, err) == (0, b"x\n", b"")


@pytest.mark.parametrize("name", ["", "-", "x", "a/b", "a b"])
def test_a_pod_has_a_name_like_that_of_a_container(stage: Stage, name: str) -> None:
    """It is refused otherwise."""
    done = stage.run("run", f"--pod={name}", str(stage.image), "true")
    assert done.returncode == 2
    assert b"--pod: " in done.stderr
