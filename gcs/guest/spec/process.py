"""What the agent changes in a spec's process: limits, the user's numbers, the environment."""

from dataclasses import dataclass

from gcs.guest.spec.document import PATH, Tree, map_of, named_map, named_maps, text_of

__all__ = [
    "UserIds",
    "add_environment",
    "set_core_limit",
    "set_user",
    "username_of",
    "with_ids",
]

_PROCESS = f"{PATH}.process"
_CORE = "RLIMIT_CORE"


@dataclass(frozen=True, slots=True)
class UserIds:
    """Who a name stands for in a container."""

    uid: int
    gid: int
    #: further groups of the user
    groups: tuple[int, ...] = ()


def username_of(spec: Tree) -> str:
    """Return the name that is to be looked up in the container's own files, or ""."""
    user = named_map(map_of(spec, "process"), "user", _PROCESS)
    return text_of(user, "username", f"{_PROCESS}.user")


def set_user(draft: Tree, ids: UserIds) -> None:
    """Set the process's user and groups; all else about the user stays."""
    process = map_of(draft, "process")
    process["user"] = with_ids(named_map(process, "user", _PROCESS), ids)


def with_ids(user: Tree, ids: UserIds) -> Tree:
    """Return an OCI user with these numbers; further groups are added to those it has."""
    changed = {**user, "uid": ids.uid, "gid": ids.gid}
    given = user.get("additionalGids")
    groups = [*(given if isinstance(given, list) else []), *ids.groups]
    if ids.groups:
        changed["additionalGids"] = list(dict.fromkeys(groups))
    return changed


def set_core_limit(draft: Tree, limit: tuple[int, int] | None) -> None:
    """Set the soft and hard limit of core dumps, in place of one that the spec has."""
    if limit is None:
        return
    process = map_of(draft, "process")
    limits = named_maps(process, "rlimits", _PROCESS)
    # A runtime takes no limit twice.
    kept = [entry for entry in limits if entry.get("type") != _CORE]
    process["rlimits"] = [*kept, {"type": _CORE, "soft": limit[0], "hard": limit[1]}]


def add_environment(draft: Tree, name: str, value: str) -> None:
    """Append a variable to the process's environment."""
    process = map_of(draft, "process")
    given = process.get("env")
    process["env"] = [*(given if isinstance(given, list) else []), f"{name}={value}"]
