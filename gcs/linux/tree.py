"""Remove folders with all they hold, but never what is mounted below them."""

import os
from pathlib import Path

from gcs.linux import mounts

__all__ = ["remove"]


def remove(path: str) -> bool:
    """Remove a folder and its content, or a file; return whether it is gone now.

    Mount points below it stay, with the folders that lead to them. Symbolic links are removed,
    not followed. Raises OSError at the first entry that can't be removed.
    """
    given = Path(path)
    # Paths of the mount table lead through no symbolic link; only such a path compares.
    top = str(given.parent.resolve() / given.name)
    kept = {mount.target for mount in mounts.below(top)}
    if top in kept or not os.path.lexists(top):
        return top not in kept
    if given.is_symlink() or not given.is_dir():
        os.unlink(top)  # noqa: PTH108 - a string, as below
    else:
        _remove_folder(top, kept)
    return not os.path.lexists(top)


def _remove_folder(top: str, kept: set[str]) -> None:
    """Remove a folder without recursion: a container may have nested any number in it."""
    folders, pending = list[str](), [top]
    while pending:
        folders.append(pending.pop())
        pending += _remove_files(folders[-1], kept)
    for folder in reversed(folders):  # what is in a folder stands behind it
        if not any(target.startswith(f"{folder}/") for target in kept):
            os.rmdir(folder)  # noqa: PTH106 - scandir's own strings


def _remove_files(folder: str, kept: set[str]) -> list[str]:
    """Remove what is no folder; return the folders, but for the mount points."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.path in kept:
                continue
            if entry.is_dir(follow_symlinks=False):
                found.append(entry.path)
            else:
                os.unlink(entry.path)  # noqa: PTH108 - scandir's own strings
    return found
