"""Folders of this machine in containers, through gcsctl as a user has it."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import filecheck
from tests.support.stage import ROOT, Stage, our_processes, services
from tests.vm.test_files import archive, package
from tests.vm.test_scratch import until

IS_SOAK = bool(os.environ.get("GCS_SOAK"))
pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600 if IS_SOAK else 480)]

#: A boot under emulation on a machine that is busy with other VMs.
_RUN_S = 300
_CALL_S = 2400 if IS_SOAK else 120
#: Random operations; the second number is for every day.
_SEED, _OPERATIONS = 11, 10_000 if IS_SOAK else 300


class Folders:
    """The volumes of a container that runs, and what is done in it."""

    def __init__(self, gcsctl: Stage, top: Path) -> None:
        self.gcsctl = gcsctl
        self.top = top
        self.shared, self.fixed, self.cached, self.dying = (
            top / name for name in ("shared", "fixed", "cached", "dying")
        )
        #: a volume that is a file
        self.file = top / "file"

    def sh(self, script: str) -> str:
        """Run a script in the container, which has to succeed; return what it said."""
        done = self.tried(script)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def tried(self, script: str) -> "subprocess.CompletedProcess[bytes]":
        """Run a script in the container."""
        return self.gcsctl.run("exec", "vol", "sh", "-c", script, timeout_s=_CALL_S)


@pytest.fixture(scope="module")
def folders(
    gcsctl_for_module: Stage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Folders]:
    """A container with volumes; one of them is read-only, one a file, one loses its server."""
    stage, top = gcsctl_for_module, tmp_path_factory.mktemp("volumes")
    found = Folders(stage, top)
    for folder in (found.shared, found.fixed, found.cached, found.dying):
        folder.mkdir()
        (folder / "theirs").write_text("one")
    found.file.write_text("one")
    options = (
        *("-v", f"{found.shared}:/shared"),
        *("-v", f"{found.file}:/etc/one-file"),
        *("-v", f"{found.fixed}:/fixed:ro"),
        *("-v", f"{found.cached}:/cached:cache=mmap"),
        *("-v", f"{found.dying}:/shared/dying"),
    )
    image = str(stage.image)
    done = stage.run(
        *("run", "-d", "--name", "vol", *options, image, "sleep", "3600"), timeout_s=_RUN_S
    )
    assert done.returncode == 0, done.stderr
    yield found
    stage.run("rm", "-f", "vol", timeout_s=_CALL_S)
    assert stage.leftovers() == []


def test_both_sides_see_each_other_s_changes_at_once(folders: Folders) -> None:
    """Written, appended to, renamed and removed."""
    host = folders.shared
    assert folders.sh("cat /shared/theirs; echo ours >/shared/ours") == "one"
    assert (host / "ours").read_text() == "ours\n"
    (host / "theirs").write_text("two")
    (host / "ours").rename(host / "moved")
    assert folders.sh("cat /shared/theirs /shared/moved; rm /shared/moved") == "twoours\n"
    assert not (host / "moved").exists()


def test_a_read_only_volume_is_read_only(folders: Folders) -> None:
    """Also for the VM's own root."""
    said = folders.tried("cat /fixed/theirs; echo x >/fixed/theirs")
    assert said.stdout == b"one"
    assert b"Read-only file system" in said.stderr
    script = (
        "for m in /run/mounts/9p/*/; do mount -o remount,rw $m; touch $m/new || echo no; done"
    )
    words = ("exec", "--vm", "vol", "sh", "-c", script)
    vm = folders.gcsctl.run(*words, timeout_s=_CALL_S)
    assert b"no" in vm.stdout, vm.stderr
    assert [path.name for path in folders.fixed.iterdir()] == ["theirs"]
    assert (folders.shared / "new").exists()


def test_a_file_can_be_a_volume(folders: Folders) -> None:
    """Both sides see each other's changes, and it has no neighbours in the VM either."""
    assert folders.sh("cat /etc/one-file; echo two >>/etc/one-file") == "one"
    assert folders.file.read_text() == "onetwo\n"
    folders.file.write_text("a longer text")
    assert folders.sh("cat /etc/one-file; truncate -s 3 /etc/one-file") == "a longer text"
    assert folders.file.read_text() == "a l"
    find = "find /run/mounts/9p -maxdepth 1 -type f -exec cat {} +"
    vm = folders.gcsctl.run("exec", "--vm", "vol", "sh", "-c", find, timeout_s=_CALL_S)
    assert vm.stdout == b"a l", vm.stderr


def test_a_link_out_of_a_volume_leads_nowhere_on_the_host(folders: Folders) -> None:
    """A container looks it up in its own root, and its VM in the VM's."""
    secret = folders.top / "secret"
    secret.write_text("secret")
    (folders.shared / "out").symlink_to(secret)
    (folders.shared / "up").symlink_to("../secret")
    said = folders.tried("cat /shared/out /shared/up /shared/../secret")
    assert said.returncode != 0
    assert b"secret" not in said.stdout
    assert said.stderr.count(os.strerror(errno.ENOENT).encode()) == 3


@pytest.mark.parametrize(
    ("name", "impossible"),
    # 9P has no holes; and uncached, there is nothing that two could map.
    [("shared", {"map-write", "punch"}), ("cached", {"punch"})],
)
def test_random_operations_make_no_difference_on_a_volume(
    folders: Folders, name: str, impossible: set[str]
) -> None:
    """Nor with a cache; and at the end the host has what the container thinks that it has."""
    folder = folders.top / name
    program = filecheck.compile_filecheck(folder)
    check = folder / "check"
    check.mkdir()
    subprocess.run([str(program), "make", str(check)], check=True)
    words = f"/{name}/{program.name} run /{name}/check {_SEED} {_OPERATIONS}"
    left = filecheck.parse(folders.sh(words))
    assert (left.operations, left.impossible) == (_OPERATIONS, frozenset(impossible))
    assert filecheck.seen(check) == left.files


def _servers(folder: Path) -> list[int]:
    """Return the processes that serve a folder, the outermost first."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since it was listed
        if os.fsencode(folder) in words:
            found.append(int(path.parent.name))
    return sorted(found)


def test_a_server_that_dies_is_an_error_for_its_volume_alone(folders: Folders) -> None:
    """Nothing waits, and the other volumes go on; what the container is at ends as ever."""
    assert folders.sh("cat /shared/dying/theirs") == "one"
    for pid in _servers(folders.dying):
        with suppress(ProcessLookupError):  # it has ended with the one around it
            os.kill(pid, signal.SIGKILL)
    until(lambda: not _servers(folders.dying), "the server lives on")
    said = folders.tried("cat /shared/dying/theirs; ls /shared/dying")
    assert said.returncode != 0
    assert said.stderr.count(os.strerror(errno.EIO).encode()) == 2
    assert folders.sh("cat /fixed/theirs") == "one"
    stop = folders.gcsctl.run("stop", "-t", "0", "vol", timeout_s=_CALL_S)
    assert (stop.returncode, stop.stderr) == (0, b"")
    wait = folders.gcsctl.run("wait", "vol", timeout_s=_CALL_S)
    assert wait.stdout == b"137\n"
    until(lambda: not our_processes(folders.gcsctl.environment), "something lives on")
    until(lambda: not _servers(folders.shared), "a server lives on")


def test_no_server_outlives_a_service_that_is_killed(gcsctl: Stage, tmp_path: Path) -> None:
    """Nor anything else of its VM."""
    options = ("-d", "--name", "kill", "-v", f"{tmp_path}:/v")
    done = gcsctl.run("run", *options, str(gcsctl.image), "sleep", "600", timeout_s=_RUN_S)
    assert done.returncode == 0, done.stderr
    assert _servers(tmp_path)
    vm_id = done.stdout.decode()[:12]
    (service,) = (pid for pid, words in services() if vm_id in words)
    os.kill(service, signal.SIGKILL)
    until(lambda: not _servers(tmp_path), "the server lives on")
    until(lambda: not our_processes(gcsctl.environment), "something lives on")


def test_git_tar_and_dpkg_work_on_a_volume(gcsctl: Stage, tmp_path: Path) -> None:
    """As root, whose owners both sides share; the host finds what the container has made."""
    archive(tmp_path / "a.tar")
    package(tmp_path, "there", "")
    (tmp_path / "root/var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "root/var/lib/dpkg/status").touch()
    (tmp_path / "out").mkdir()
    script = (
        "cd /v; tar -xpf a.tar -C out; tar -df a.tar -C out;"
        "dpkg --root=/v/root -i there.deb; diff -r there/usr root/usr;"
        "git init -q --bare bare.git; git clone -q /v/bare.git one; cd one;"
        "export GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=n@example.org;"
        "export GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=n@example.org;"
        "cp -r /v/out/0 .; git add .; git commit -q -m one; git push -q origin HEAD;"
        "git clone -q file:///v/bare.git /v/two; git -C /v/two fsck --strict"
    )
    words = ("run", "-v", f"{tmp_path}:/v", str(ROOT / "build/toolbox"), "sh", "-ec", script)
    done = gcsctl.run(*words, timeout_s=_RUN_S)
    assert done.returncode == 0, done.stderr
    argv = ["tar", "-df", str(tmp_path / "a.tar"), "-C", str(tmp_path / "out")]
    compared = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (compared.returncode, compared.stdout) == (0, "")
    assert (tmp_path / "two/0").read_bytes() == (tmp_path / "out/0").read_bytes()


def test_the_talk_s_demo_runs(gcsctl: Stage) -> None:
    """docs/volume-demo.sh: a container, the host and a second VM on one folder."""
    own = Path(sys.executable).with_name("gcsctl")
    done = subprocess.run(
        ["sh", ROOT / "docs/volume-demo.sh", gcsctl.image],
        env={**gcsctl.environment, "GCSCTL": str(own)},
        capture_output=True,
        timeout=2 * _RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    note = next(line for line in lines if line.startswith("hello from the container"))
    answer = f"the host has read: {note}"
    both = lines.index(note)
    assert lines[both + 1] == answer
    assert lines.index(answer) < both
    assert lines[-1] == "the second VM was here"
    assert gcsctl.leftovers() == []
    assert not list((gcsctl.runtime.parent / "tmp").glob("tmp.*"))
