"""Reading an OCI runtime spec that came from outside: a tree whose types nobody has checked.

Only what the agent itself needs is looked at; everything else is the runtime's to judge.
"""

import posixpath

from gcs.errors import InvalidArgumentError, InvalidRequestError

__all__ = [
    "PATH",
    "Tree",
    "absolute",
    "below",
    "map_of",
    "maps_of",
    "mounts_of",
    "named_map",
    "named_maps",
    "path_of",
    "rootfs_of",
    "text_of",
]

Tree = dict[str, object]

#: where the spec is in a Create request; in front of the member's name in every error
PATH = "$.ContainerConfig.OciSpecification"


def map_of(tree: Tree, name: str, path: str = PATH) -> Tree:
    """Return a member that must be a map. Raises InvalidRequestError."""
    value = tree.get(name)
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{path}.{name}: expected a map, got {type(value).__name__}")
    return value


def named_map(tree: Tree, name: str, path: str = PATH) -> Tree:
    """Return a member that may be missing, as a new map then. Raises InvalidRequestError."""
    return {} if tree.get(name) is None else map_of(tree, name, path)


def maps_of(value: object, path: str) -> list[Tree]:
    """Return a list of maps, empty for None. Raises InvalidRequestError."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequestError(f"{path}: expected an array, got {type(value).__name__}")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise InvalidRequestError(
                f"{path}[{index}]: expected a map, got {type(item).__name__}"
            )
    return value


def named_maps(tree: Tree, name: str, path: str = PATH) -> list[Tree]:
    """Return a member that is a list of maps, or missing. Raises InvalidRequestError."""
    return maps_of(tree.get(name), f"{path}.{name}")


def text_of(tree: Tree, name: str, path: str = PATH) -> str:
    """Return a member that is text, "" if it is missing. Raises InvalidRequestError."""
    value = tree.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequestError(f"{path}.{name}: expected text, got {type(value).__name__}")
    return value


def path_of(tree: Tree, name: str, path: str = PATH) -> str:
    """Return a member that is a path, "" if it is missing.

    Raises InvalidRequestError, or InvalidArgumentError for one that no file can have.
    """
    value = text_of(tree, name, path)
    if "\0" in value:
        raise InvalidArgumentError(f"{path}.{name}: there is a zero byte in {value[:200]!r}")
    return value


def rootfs_of(spec: Tree, bundle: str) -> str:
    """Return a container's root; a relative one is below its bundle, as the runtime has it."""
    return posixpath.join(bundle, path_of(map_of(spec, "root"), "path", f"{PATH}.root"))


def mounts_of(spec: Tree) -> list[Tree]:
    """Return the mounts of a spec, the first one mounted first."""
    return named_maps(spec, "mounts")


def absolute(path: str, what: str) -> str:
    """Return the path without `.` and `..`. Raises InvalidArgumentError if relative."""
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgumentError(f"{what} {path!r} is not an absolute path")
    # POSIX lets two slashes in front mean something else; nothing here does.
    return posixpath.normpath(path).replace("//", "/", 1)


def below(path: str, what: str) -> str:
    """Return a path below some folder without `.` and `..`; "" for the folder itself.

    A slash in front means nothing. Raises InvalidArgumentError for one that leads out of it.
    """
    relative = posixpath.normpath(path.lstrip("/"))
    if relative == ".." or relative.startswith("../") or "\0" in relative:
        raise InvalidArgumentError(f"{what} leads out of the pod's folder")
    return "" if relative == "." else relative
