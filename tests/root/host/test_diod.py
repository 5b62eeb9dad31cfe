"""What a guest of the worst kind reaches through a volume's server: the volume.

As root, and as a user: the servers of the two have different rights.
"""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from gcs.host import diod
from tests.support.plan9_client import Plan9Client
from tests.support.stage import ROOT

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

_USER, _OTHER = 4321, 4322
_END_S = 60.0
#: CAP_SYS_RESOURCE, which root has on some machines.
_RESOURCES = 1 << 24


@dataclass(frozen=True)
class Served:
    """A folder of somebody's, beside something that is not to be seen."""

    uid: int
    folder: Path
    secret: Path

    @contextmanager
    def attached(self, *options: str) -> Iterator[Plan9Client]:
        """Serve the folder for the block; give what a guest has of it."""
        with self.server(*options) as (_, client):
            yield client

    @contextmanager
    def server(self, *options: str) -> Iterator[tuple["subprocess.Popen[bytes]", Plan9Client]]:
        """The same, with the process that has started the server."""
        ours, theirs = socket.socketpair()
        words = (str(theirs.fileno()), str(self.folder), "--uid", str(self.uid), *options)
        argv = (sys.executable, "-m", "tests.support.volume_server", *words)
        with theirs:
            starter = subprocess.Popen(argv, pass_fds=[theirs.fileno()], cwd=ROOT)
        try:
            with Plan9Client(ours, diod.SHARE) as client:
                yield starter, client
            starter.wait(_END_S)
        finally:
            starter.kill()
            starter.wait()


@pytest.fixture(params=[0, _USER], ids=["root", "user"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Served:
    """A folder with a file, of root and of a user."""
    uid: int = request.param
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o011)
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    folder.mkdir()
    secret.write_text("secret")
    (folder / "file").write_text("content")
    for path in (folder, folder / "file", secret):
        os.chown(path, uid, uid)
    return Served(uid, folder, secret)


def number_of(act: Callable[[], object]) -> int | None:
    """Return the number of the error that this fails with."""
    try:
        act()
    except OSError as error:
        return error.errno
    return 0


def test_a_folder_is_read_and_written_as_who_serves_it(served: Served) -> None:
    """Who that is on the host is what both sides see."""
    with served.attached() as guest:
        assert guest.names() == {"file"}
        assert guest.read("file") == b"content"
        guest.create("new", b"new content")
        assert guest.attributes("new").uid == served.uid
    new = served.folder / "new"
    assert new.read_text() == "new content"
    assert (new.stat().st_uid, stat.S_IMODE(new.stat().st_mode)) == (served.uid, 0o644)


def test_only_root_s_server_sets_owners(served: Served) -> None:
    """A user's server can't give files away, nor write where the user may not."""
    (served.folder / "other").mkdir()
    os.chown(served.folder / "other", _OTHER, _OTHER)
    with served.attached() as guest:
        guest.chown(served.uid, "file")
        if served.uid == 0:
            guest.chown(_OTHER, "file")
            guest.create("new", b"", "other")
            assert guest.attributes("file").uid == _OTHER
        else:
            assert number_of(partial(guest.chown, _OTHER, "file")) == errno.EINVAL
            assert number_of(partial(guest.create, "new", b"", "other")) == errno.EACCES
    assert (served.folder / "file").stat().st_uid == (served.uid or _OTHER)


def test_no_link_leads_out(served: Served) -> None:
    """Neither those of the folder nor those that the guest makes, nor as a part of a way."""
    (served.folder / "up").symlink_to("..")
    with served.attached() as guest:
        guest.symlink("straight", str(served.secret))
        guest.symlink("relative", "../secret")
        for name in ("straight", "relative"):
            assert number_of(partial(guest.read, name)) == errno.ENOENT
        assert number_of(partial(guest.read, "up", "secret")) == errno.ENOENT
        assert "secret" not in guest.names("up")


def test_nothing_of_the_host_is_there(served: Served) -> None:
    """The server's root has nothing but its own program, its libraries and a list of users."""
    with served.attached() as guest:
        for place in ("/", "/etc", "/usr", "/etc/passwd"):
            guest.symlink(place.replace("/", "-"), place)
        own = {"share", "etc", "usr", "lib", "lib64"}
        assert guest.names("-") <= own
        assert guest.names("-etc") == {"passwd"}
        assert guest.names("-usr") <= {"sbin", "bin", "lib"}
        users = guest.read("-etc-passwd").decode().splitlines()
        assert [line.split(":")[2] for line in users] == ["0", str(served.uid)][: len(users)]
        assert number_of(partial(guest.create, "new", b"", "-etc")) != 0


@pytest.mark.parametrize("way", [("..", "secret"), ("../secret",), ("file/../../secret",)])
def test_no_name_leads_out(served: Served, way: tuple[str, ...]) -> None:
    """Whether it is the parent's or has slashes in it."""
    with served.attached() as guest:
        assert number_of(partial(guest.read, *way)) in (errno.ENOENT, errno.ENOTDIR)


def test_no_device_is_made_or_opened(served: Served) -> None:
    """What the host has in the folder is seen, and not more."""
    kernel_log = os.makedev(1, 11)
    os.mknod(served.folder / "kmsg", 0o666 | stat.S_IFCHR, kernel_log)
    (served.folder / "kmsg").chmod(0o666)
    with served.attached() as guest:
        assert stat.S_ISCHR(guest.attributes("kmsg").mode)
        assert number_of(partial(guest.read, "kmsg")) == errno.EACCES
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            assert (
                number_of(partial(guest.mknod, "own", 0o666 | kind, kernel_log)) == errno.EPERM
            )
        guest.mknod("pipe", 0o666 | stat.S_IFIFO)
    assert (served.folder / "pipe").is_fifo()


def test_a_read_only_folder_stays_as_it_is(served: Served) -> None:
    """Whatever the guest thinks that it has mounted."""
    with served.attached("--readonly") as guest:
        assert guest.read("file") == b"content"
        assert number_of(partial(guest.create, "new", b"")) == errno.EROFS
        assert number_of(partial(guest.chown, served.uid, "file")) == errno.EROFS


def test_a_file_is_served_without_its_neighbours(served: Served) -> None:
    """It is all that there is: what is asked for leads nowhere from a file."""
    path = served.folder / "file"
    with replace(served, folder=path).attached() as guest:
        assert guest.read() == b"content"
        guest.chown(served.uid)
        for way in (("..",), ("..", "file"), ("../secret",)):
            assert number_of(partial(guest.read, *way)) == errno.ENOTDIR
    with replace(served, folder=path).attached("--readonly") as guest:
        assert guest.read() == b"content"
        assert number_of(partial(guest.chown, served.uid)) == errno.EROFS


def _server_of(starter: "subprocess.Popen[bytes]") -> int:
    """Return the pid of the server itself, once it serves: the last of a line of children."""
    pid = starter.pid
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[-1])
    assert Path(f"/proc/{pid}/comm").read_text() == "diod\n"
    return pid


def test_the_server_has_few_rights(served: Served) -> None:
    """No capability over the machine, nothing to gain by a program, its own name spaces."""
    with served.server() as (starter, _):
        process = Path(f"/proc/{_server_of(starter)}")
        status = dict(
            line.split(":\t", 1) for line in (process / "status").read_text().splitlines()
        )
        files_only = 0 if served.uid else 0b11011011
        assert int(status["CapEff"], 16) & ~_RESOURCES == files_only
        assert status["NoNewPrivs"] == "1"
        for name in ("mnt", "pid", "net", "ipc", "uts"):
            assert (process / "ns" / name).readlink() != Path(
                f"/proc/self/ns/{name}"
            ).readlink()


def test_a_server_ends_with_who_started_it(served: Served) -> None:
    """Even when that one is killed."""
    with served.server() as (starter, guest):
        starter.kill()
        assert guest.wait_closed()


def test_a_connection_ends_with_its_server(served: Served) -> None:
    """Nobody else holds it."""
    with served.server() as (starter, guest):
        os.kill(_server_of(starter), signal.SIGKILL)
        assert guest.wait_closed()
