"""Users by name, looked up in the image's own files."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from gcs.errors import InvalidArgumentError, NotFoundError
from gcs.host.images import open_image
from gcs.host.layers import ensure_layers
from gcs.host.spec import User
from gcs.host.users import find_user
from tests.support.oci import Members, layer_tar, member, write_layout

PASSWD = b"root:x:0:0::/:/bin/sh\nneko:x:77:88::/:/bin/sh\nbroken\n"
GROUP = b"root:x:0:\ncats:x:99:neko\n"
BASE: Members = [member("etc/passwd", PASSWD), member("etc/group", GROUP)]


async def layers(folder: Path, *each: Members) -> Sequence[Path]:
    layout = write_layout(folder / "image", [layer_tar(members) for members in each])
    image = await open_image(layout)
    return await ensure_layers(image, _made(folder / "cache"), progress=lambda _: None)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0)),
        ("5", User(5, 0)),
        ("5:6", User(5, 6)),
        ("neko", User(77, 88)),
        ("neko:cats", User(77, 99)),
        ("neko:7", User(77, 7)),
        ("5:cats", User(5, 99)),
    ],
)
async def test_every_form_of_a_user_is_understood(
    tmp_path: Path, text: str, user: User
) -> None:
    """Numbers are taken as they are, names as the image has them."""
    assert await find_user(text, await layers(tmp_path, BASE)) == user


@pytest.mark.parametrize("text", ["nobody-here", "neko:nobody-here", "broken"])
async def test_a_name_that_the_image_does_not_have_is_named(tmp_path: Path, text: str) -> None:
    """Running as somebody else instead would be worse than an error."""
    with pytest.raises(NotFoundError, match=text.rpartition(":")[2]):
        await find_user(text, await layers(tmp_path, BASE))


async def test_the_topmost_passwd_counts(tmp_path: Path) -> None:
    """A later layer replaces the file, or takes it away."""
    newer: Members = [member("etc/passwd", b"neko:x:1:2::/:/bin/sh\n")]
    assert await find_user("neko", await layers(tmp_path, BASE, newer)) == User(1, 2)
    shutil.rmtree(tmp_path / "image")
    shutil.rmtree(tmp_path / "cache")
    removed: Members = [member("etc/.wh.passwd")]
    found = await layers(tmp_path, BASE, removed)
    with pytest.raises(NotFoundError, match="neko"):
        await find_user("neko", found)


async def test_a_number_that_no_kernel_has_is_refused(tmp_path: Path) -> None:
    """uids have 32 bits."""
    with pytest.raises(InvalidArgumentError, match="4294967296"):
        await find_user("4294967296", ())
