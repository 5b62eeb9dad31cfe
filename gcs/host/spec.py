"""The OCI runtime spec of a container, from its image's configuration and the user's wishes.

Defaults are containerd's: capabilities, masked and read-only paths, mounts, seccomp. Two things
differ. AF_VSOCK sockets are refused, because vsock is not namespaced and would reach the host
from inside any container. And a process that is not root starts without capabilities.

The seccomp profile is data, in seccomp.json. The socket rule compares whole registers with
"less than 40", which a family with garbage in its upper half does not pass, and the families
above 40 by their lower half, which is what the kernel looks at; "not equal to 40" could be
evaded. `socketcall`, which hides the family behind a pointer, is not in the list.

Source: OCI runtime-spec config.md and config-linux.md; containerd's
oci.populateDefaultUnixSpec.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from gcs.errors import InvalidArgumentError
from gcs.host.images import ImageConfig

__all__ = [
    "Command",
    "User",
    "command",
    "environment",
    "exec_process",
    "runtime_spec",
    "vm_environment",
]

Tree = dict[str, object]

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Every terminal that a person uses today understands this one's sequences.
_TERM = "TERM=xterm"
_CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_NAMESPACES = ("pid", "ipc", "uts", "mount", "network", "cgroup")
#: What programs expect to begin with, and what they may raise it to (as under systemd).
_NOFILE_SOFT, _NOFILE_HARD = 1024, 524288
_MAX_ID = 2**32 - 1


@dataclass(frozen=True, slots=True)
class User:
    """Who runs in the container, as numbers."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "User | None":
        """Read "", "uid" or "uid:gid"; None when there is a name in it.

        Raises InvalidArgumentError for a number that no kernel has.
        """
        if not text:
            return cls()
        uid, _, gid = text.partition(":")
        if not (uid.isascii() and uid.isdigit()) or (
            gid and not (gid.isascii() and gid.isdigit())
        ):
            return None
        numbers = int(uid), int(gid or 0)
        if max(numbers) > _MAX_ID:
            raise InvalidArgumentError(f"user {text[:80]!r}: over {_MAX_ID}")
        return cls(*numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What the user asked for, over what the image says."""

    arguments: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    #: KEY=VALUE, or KEY alone to take the image's away
    environment: tuple[str, ...] = ()
    hostname: str = ""
    terminal: bool = False
    height: int = 0
    width: int = 0


def command(config: ImageConfig, wish: Command) -> tuple[str, ...]:
    """Return the words to execute.

    The user's words replace the image's command; the user's entrypoint replaces both of the
    image's. Raises InvalidArgumentError when nothing is left.
    """
    if wish.entrypoint:
        words = (*wish.entrypoint, *wish.arguments)
    else:
        words = (*config.entrypoint, *(wish.arguments or config.cmd))
    if not words:
        raise InvalidArgumentError("the image names no command, and none was given")
    return words


def environment(config: ImageConfig, wish: Command, hostname: str) -> tuple[str, ...]:
    """Return the variables: defaults, then the image's, then the user's; the last one wins."""
    defaults = (_PATH, f"HOSTNAME={hostname}", *([_TERM] if wish.terminal else []))
    return _merged(*defaults, *config.env, *wish.environment)


def _merged(*entries: str) -> tuple[str, ...]:
    merged: dict[str, str] = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if equals:
            merged[key] = value
        else:
            merged.pop(key, None)
    return tuple(f"{key}={value}" for key, value in merged.items())


def vm_environment(wish: Command) -> dict[str, str]:
    """Return the variables of a process of the VM, which runs as root outside any image."""
    entries = _merged(
        _PATH, "HOME=/root", *([_TERM] if wish.terminal else []), *wish.environment
    )
    return dict(entry.split("=", 1) for entry in entries)


def runtime_spec(config: ImageConfig, wish: Command, user: User, cid: str, rootfs: str) -> Tree:
    """Return the spec; `cid` is the container's id, `rootfs` its root in the VM."""
    hostname = wish.hostname or cid[:12]
    return {
        "ociVersion": "1.0.2",
        "process": _process(config, wish, user, hostname),
        "root": {"path": rootfs},
        "hostname": hostname,
        "mounts": _mounts(),
        "linux": {
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
            "seccomp": seccomp_profile(),
        },
    }


def seccomp_profile() -> Tree:
    """Return the profile; see the module for what it does about sockets."""
    profile: Tree = json.loads(files("gcs.host").joinpath("seccomp.json").read_bytes())
    return profile


def _process(config: ImageConfig, wish: Command, user: User, hostname: str) -> Tree:
    process: Tree = {
        "terminal": wish.terminal,
        "user": _user(user),
        "args": list(command(config, wish)),
        "env": list(environment(config, wish, hostname)),
        "cwd": config.working_dir or "/",
        "capabilities": _capabilities(user),
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": _NOFILE_HARD, "soft": _NOFILE_SOFT}],
        "noNewPrivileges": True,
    }
    return _with_console(process, wish)


def exec_process(
    init: Mapping[str, object], wish: Command, user: User | None, working_directory: str
) -> Tree:
    """Return the process of an exec: init's, but for what the user wishes.

    Args:
        init: The container's own process, as `runtime_spec` made it.
        wish: Its arguments are the words to execute.
        user: None: init's.
        working_directory: Empty: init's.
    """
    inherited = init.get("env")
    before = [str(each) for each in inherited] if isinstance(inherited, list) else []
    term = [_TERM] if wish.terminal else []
    process: Tree = {
        **init,
        "terminal": wish.terminal,
        "args": list(wish.arguments),
        "env": list(_merged(*term, *before, *wish.environment)),
        "cwd": working_directory or init["cwd"],
    }
    process.pop("consoleSize", None)
    if user is not None:
        process.update(user=_user(user), capabilities=_capabilities(user))
    return _with_console(process, wish)


def _with_console(process: Tree, wish: Command) -> Tree:
    if wish.terminal and wish.height and wish.width:
        process["consoleSize"] = {"height": wish.height, "width": wish.width}
    return process


def _user(user: User) -> Tree:
    return {
        "uid": user.uid,
        "gid": user.gid,
        "additionalGids": list(user.additional_gids),
    }


def _capabilities(user: User) -> Tree:
    """Give a program that is not root no capabilities, as Docker does."""
    held = list(_CAPABILITIES) if user.uid == 0 else []
    return {"bounding": list(_CAPABILITIES), "effective": held, "permitted": held}


def _mounts() -> list[Tree]:
    return [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            *("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance"),
            *("ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        _mount(
            *("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev"),  # noqa: S108
            *("mode=1777", "size=65536k"),
        ),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount(
            *("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev"),
            *("relatime", "ro"),
        ),
    ]


def _mount(destination: str, kind: str, source: str, *options: str) -> Tree:
    return {
        "destination": destination,
        "type": kind,
        "source": source,
        "options": list(options),
    }
