"""Who a name stands for in a container, by the container's own files.

They are the container's to write, and may be links that lead anywhere, devices or endless: they
are opened as the container would, below its root, and read only if they are files and short.

Source: passwd(5), group(5); PROTOCOL.md, "Users".
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from gcs.errors import InvalidArgumentError
from gcs.guest.spec.process import UserIds
from gcs.linux import syscall

__all__ = ["find"]

#: Longer than any of these files: a line has some 60 bytes, so this is for 17,000 users.
_MAX_FILE = 1024 * 1024
_MAX_ID = 2**32 - 1

Entry = list[str]


def find(root: str, text: str) -> UserIds:
    """Return the numbers for `user` or `user:group`, each a name or a number.

    A user that is in /etc/passwd has its group from there, any other number has group 0.
    Without a group in the text the groups that name the user come along.

    Raises InvalidArgumentError for a name that is in no line or in several, and for what is no
    id; OSError when a file can't be read. A missing file has no lines.
    """
    user, colon, group = text.partition(":")
    if not user or (colon and not group):
        raise InvalidArgumentError(f"user {text[:80]!r} is neither user nor user:group")
    entry = _entry(root, "/etc/passwd", user, 4)
    uid = _id(entry[2] if entry else user, text)
    if colon:
        found = _entry(root, "/etc/group", group, 3)
        return UserIds(uid, _id(found[2] if found else group, text))
    if entry is None:
        return UserIds(uid, 0)
    return UserIds(uid, _id(entry[3], text), _groups_of(root, entry[0], text))


def _entry(root: str, path: str, name: str, least: int) -> Entry | None:
    """Return the line of a name, or of a number; None for a number without one."""
    is_number = _is_number(name)
    field = 2 if is_number else 0
    found = [entry for entry in _entries(root, path, least) if entry[field] == name]
    if is_number:
        return found[0] if found else None
    if len(found) != 1:
        how_often = "not" if not found else f"{len(found)} times"
        raise InvalidArgumentError(f"{name[:80]!r} is {how_often} in the container's {path}")
    return found[0]


def _groups_of(root: str, user: str, text: str) -> tuple[int, ...]:
    return tuple(
        _id(entry[2], text)
        for entry in _entries(root, "/etc/group", 4)
        if user in entry[3].split(",")
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _id(number: str, text: str) -> int:
    if not _is_number(number) or len(number) > 10 or int(number) > _MAX_ID:
        raise InvalidArgumentError(f"user {text[:80]!r}: {number[:80]!r} is not an id")
    return int(number)


def _entries(root: str, path: str, least: int) -> Iterator[Entry]:
    for line in _read(root, path).split("\n"):
        fields = line.split(":")
        if len(fields) >= least:
            yield fields


def _read(root: str, path: str) -> str:
    with suppress(FileNotFoundError):
        # Without O_NONBLOCK a named pipe would be waited for.
        descriptor = syscall.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidArgumentError(f"the container's {path} is not a file")
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise InvalidArgumentError(f"the container's {path} is over {_MAX_FILE} bytes")
        return data.decode(errors="replace")
    return ""
