"""gcsctl run --pod: containers in one VM that are one machine to the network."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.busybox_image import busybox_image, busybox_layer
from tests.support.oci import layer_tar, member, write_layout
from tests.support.stage import Stage

pytestmark = [pytest.mark.vm, pytest.mark.timeout(500)]

_BOOT_S = 300
_JOIN_S = 120
_APPLETS = ("sh", "cat", "grep", "hostname", "httpd", "ip", "nc", "sleep", "wget")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images "web" and "client", which share nothing."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("web", "client"):
        page = member("www/index.html", f"{name}\n".encode())
        busybox_image(folder / name, *_APPLETS, more=[page])
    return folder


@pytest.fixture(scope="module")
def pod(gcsctl_for_module: Stage, images: Path) -> Iterator[Stage]:
    """A stage with the pod "shop", and in it the server "web"."""
    stage = gcsctl_for_module
    serve = (str(images / "web"), "httpd", "-f", "-p", "80", "-h", "/www")
    words = ("run", "-d", "--pod", "shop", "--name", "web", "--network", "user")
    done = stage.run(*words, *serve, timeout_s=_BOOT_S)
    assert done.returncode == 0, done.stderr
    listens(stage, "web", 80)
    yield stage
    names = stage.run("ps", "-aq").stdout.decode().split()
    stage.run("rm", "-f", *names)
    assert stage.leftovers() == []


def listens(stage: Stage, name: str, port: int) -> None:
    """Wait until a server answers: its process is there before its port is."""
    script = f"until wget -q -O - http://127.0.0.1:{port}/; do sleep 0.1; done"
    done = stage.run("exec", name, "sh", "-c", script)
    assert done.returncode == 0, done.stderr


def run(pod: Stage, image: Path, *command: str) -> str:
    """Run a container of the pod to its end and return what it says."""
    words = ("run", "--pod", "shop", str(image), *command)
    done = pod.run(*words, timeout_s=_JOIN_S)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stderr == b""
    return done.stdout.decode()


def test_containers_of_a_pod_talk_over_loopback(pod: Stage, images: Path) -> None:
    """Of both protocols; a port that one has taken is taken for the other."""
    script = (
        "wget -q -O - http://127.0.0.1/; wget -q -O - http://[::1]/;"
        "httpd -f -p 80 2>&1 || echo taken"
    )
    said = run(pod, images / "client", "sh", "-c", script)
    assert said.startswith("web\nweb\n"), said
    assert said.endswith("taken\n"), said


def test_they_are_one_machine_with_roots_of_their_own(pod: Stage, images: Path) -> None:
    """The same address, host name and name server; the VM's own network stays bare."""
    script = (
        "hostname; cat /etc/hostname /www/index.html; ip -o -4 address show eth0;"
        "cat /etc/resolv.conf; ls /proc | grep -c '^[0-9]'"
    )
    said = run(pod, images / "client", "sh", "-c", script)
    assert said.startswith("shop\nshop\nclient\n"), said
    assert "inet 10.0.2.15/24" in said
    assert "nameserver 10.0.2.3\n" in said
    done = pod.run("exec", "web", "cat", "/www/index.html")
    assert done.stdout == b"web\n"
    done = pod.run("exec", "--vm", "web", "ip", "-o", "link")
    assert re.findall(rb"^\d+: (\S+):", done.stdout, re.MULTILINE) == [b"lo"]


def test_a_container_that_has_left_leaves_nothing_in_the_vm(pod: Stage, images: Path) -> None:
    """No mount, no process and no folder, also of one that could not join."""

    def state() -> list[str]:
        script = "cat /proc/mounts; ls /run/gcs/c; ls /run/layers"
        done = pod.run("exec", "--vm", "web", "sh", "-c", script)
        assert done.returncode == 0, done.stderr
        return sorted(done.stdout.decode().splitlines())

    before = state()
    run(pod, images / "client", "hostname")
    words = ("run", "--pod", "shop", str(images / "client"), "no-such-command")
    assert pod.run(*words, timeout_s=_JOIN_S).returncode == 127
    assert state() == before


def test_ports_for_layers_run_out_in_words(pod: Stage, tmp_path: Path) -> None:
    """What does not fit is refused before anything is done, and what is there goes on."""
    refusal, top = b"", busybox_layer("sleep")
    for number in range(5):
        tars = [layer_tar([member(f"{number}/{n}", b"x")]) for n in range(7)]
        layout = write_layout(tmp_path / f"image{number}", [*tars, top])
        words = ("run", "-d", "--pod", "shop", "--name", f"fill{number}", str(layout))
        done = pod.run(*words, "/bin/sleep", "1000", timeout_s=_JOIN_S)
        refusal = done.stderr
        if done.returncode:
            break
    assert b"layers that the VM does not have yet need a port each" in refusal
    assert pod.run("exec", "fill0", "/bin/sleep", "0").returncode == 0
    names = [line.split()[0] for line in pod.run("ps", "-q").stdout.decode().splitlines()]
    assert len(names) == 5


def test_a_pod_goes_on_without_the_first_and_ends_with_the_last(
    pod: Stage, images: Path
) -> None:
    """Its network too. Runs last."""
    client = (str(images / "client"), "httpd", "-f", "-p", "81", "-h", "/www")
    words = ("run", "-d", "--pod", "shop", "--name", "other")
    assert pod.run(*words, *client, timeout_s=_JOIN_S).returncode == 0
    listens(pod, "other", 81)
    assert pod.run("rm", "-f", "web").returncode == 0
    said = run(pod, images / "client", "wget", "-q", "-O", "-", "http://10.0.2.15:81/")
    assert said == "client\n"
    names = pod.run("ps", "-aq").stdout.decode().split()
    assert pod.run("rm", "-f", *names, timeout_s=120).returncode == 0
    assert pod.leftovers() == []
