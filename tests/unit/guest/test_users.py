"""Names are looked up in a container's own files, which may be anything."""

import os
from pathlib import Path

import pytest

from gcs.errors import InvalidArgumentError
from gcs.guest import users
from gcs.guest.spec.process import UserIds, with_ids

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
neko:x:1000:1001::/:/bin/sh
short:x:7
twin:x:8:8::/:
twin:x:9:9::/:
big:x:4294967296:1::/:
grp:x:5:-1::/:
most:x:4294967295:0::/:
"""
GROUP = """\
root:x:0:
cats:x:50:neko,other
dogs:x:51:other
pets:x:52:other,neko
odd:x:x:neko2
twins:x:60:
twins:x:61:
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root with the two files."""
    folder = tmp_path / "root"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/passwd").write_text(PASSWD)
    (folder / "etc/group").write_text(GROUP)
    return folder


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("root", UserIds(0, 0)),
        ("neko", UserIds(1000, 1001, (50, 52))),
        ("1000", UserIds(1000, 1001, (50, 52))),
        ("4711", UserIds(4711, 0)),
        ("7", UserIds(7, 0)),
        ("neko:dogs", UserIds(1000, 51)),
        ("neko:4", UserIds(1000, 4)),
        ("4711:cats", UserIds(4711, 50)),
        ("4711:4712", UserIds(4711, 4712)),
        ("most", UserIds(4294967295, 0)),
    ],
)
def test_users_and_groups_are_names_or_numbers(root: Path, text: str, ids: UserIds) -> None:
    """The groups that name the user come along, unless the text has a group."""
    assert users.find(str(root), text) == ids


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nobody", "'nobody' is not in the container's /etc/passwd"),
        ("short", "is not in"),
        ("twin", "'twin' is 2 times in the container's /etc/passwd"),
        ("neko:none", "'none' is not in the container's /etc/group"),
        ("neko:twins", "'twins' is 2 times in the container's /etc/group"),
        ("big", "'4294967296' is not an id"),
        ("grp", "'-1' is not an id"),
        ("4294967296", "is not an id"),
        ("1:4294967296", "is not an id"),
        ("9" * 5000, "is not an id"),
        ("-1", "is not in"),
        ("\u0661", "is not in"),
        ("", "neither user nor user:group"),
        (":", "neither"),
        (":cats", "neither"),
        ("neko:", "neither"),
        ("neko:cats:x", "'cats:x' is not in"),
        ("x" * 5000, "is not in"),
    ],
)
def test_what_stands_for_nobody_is_refused(root: Path, text: str, says: str) -> None:
    """In words that name it, and not the whole of what is too long."""
    with pytest.raises(InvalidArgumentError, match=says) as caught:
        users.find(str(root), text)
    assert len(str(caught.value)) < 300


def test_without_files_numbers_stand_for_themselves(tmp_path: Path) -> None:
    """And names for nobody."""
    assert users.find(str(tmp_path), "5:6") == UserIds(5, 6)
    assert users.find(str(tmp_path), "5") == UserIds(5, 0)
    with pytest.raises(InvalidArgumentError, match="is not in"):
        users.find(str(tmp_path), "root")


@pytest.mark.parametrize("link", ["/elsewhere/passwd", "../../../../elsewhere/passwd"])
def test_links_are_followed_inside_the_root_only(root: Path, link: str) -> None:
    """As the container itself would follow them."""
    outside = root.parent / "elsewhere"
    outside.mkdir()
    (outside / "passwd").write_text("spy:x:1:1::/:\n")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to(link)
    with pytest.raises(InvalidArgumentError, match="'spy' is not in"):
        users.find(str(root), "spy")
    (root / "elsewhere").mkdir()
    (root / "elsewhere/passwd").write_text("inside:x:3:4::/:\n")
    assert users.find(str(root), "inside") == UserIds(3, 4)


def test_what_is_no_file_is_refused_at_once(root: Path) -> None:
    """A pipe that nobody writes, a folder, an endless device, links in a ring, a long file."""
    passwd = root / "etc/passwd"
    passwd.unlink()
    os.mkfifo(passwd)
    with pytest.raises(InvalidArgumentError, match="/etc/passwd is not a file"):
        users.find(str(root), "root")
    passwd.unlink()
    passwd.mkdir()
    with pytest.raises((InvalidArgumentError, OSError)):
        users.find(str(root), "root")
    passwd.rmdir()
    passwd.symlink_to("passwd")
    with pytest.raises(OSError, match="openat2 /etc/passwd in "):
        users.find(str(root), "root")
    passwd.unlink()
    passwd.write_text("root:x:0:0:::\n" * 100_000)
    with pytest.raises(InvalidArgumentError, match="/etc/passwd is over 1048576 bytes"):
        users.find(str(root), "root")
    passwd.write_bytes(b"\xff\x00:x:1:1::/:\nroot:x:0:0::/:\n")
    assert users.find(str(root), "root") == UserIds(0, 0)


def test_nothing_stays_open(root: Path) -> None:
    """Whether the user is found or not."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    users.find(str(root), "neko")
    (root / "etc/passwd").unlink()
    os.mkfifo(root / "etc/passwd")
    with pytest.raises(InvalidArgumentError):
        users.find(str(root), "neko")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_rest_of_a_user_stays() -> None:
    """Groups are added to those that it has, once each."""
    user: dict[str, object] = {"uid": 1, "umask": 2, "additionalGids": [50, 3]}
    assert with_ids(user, UserIds(7, 8, (50, 52))) == {
        "uid": 7,
        "gid": 8,
        "umask": 2,
        "additionalGids": [50, 3, 52],
    }
    assert with_ids({"additionalGids": "x"}, UserIds(7, 8)) == {
        "uid": 7,
        "gid": 8,
        "additionalGids": "x",
    }
