"""The rooms import what they may, and nothing else.

The table is the one of the README's rooms. An import counts wherever it stands: in a function
and below TYPE_CHECKING too.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gcs

PACKAGE = Path(gcs.__file__).parent


@dataclass(frozen=True)
class Room:
    """What the modules below a name may import."""

    #: modules of gcs, with what lies below them
    own: tuple[str, ...] = ()
    third_party: frozenset[str] = frozenset()
    #: parts of the standard library that would do another room's work
    banned: frozenset[str] = frozenset()


_HANDLED = tuple(
    f"gcs.guest.{name}"
    for name in (
        "adapters",
        "agent",
        "bundles",
        "command_line",
        "devices",
        "encryption",
        "handlers",
        "kernel_call",
        "log",
        "netplan",
        "networks",
        "oom",
        "pod_network",
        "mounting",
        "pods",
        "process",
        "provision",
        "runc",
        "spec",
        "statistics",
        "users",
        "stdio",
        "tee",
    )
)
_MESSAGES = (
    "gcs.wire.extensions",
    "gcs.wire.messages",
    "gcs.wire.metrics",
    "gcs.wire.properties",
    "gcs.wire.resource",
    "gcs.wire.schema",
)
_IO = frozenset({"os", "select", "signal", "socket", "subprocess", "threading", "time"})

#: The longest name that fits is a module's room.
ROOMS = {
    "gcs.errors": Room(),
    "gcs.wire": Room(("gcs.errors", "gcs.wire"), frozenset({"msgspec"}), _IO),
    "gcs.linux": Room(("gcs.linux",), banned=frozenset({"logging", "subprocess"})),
    "gcs.guest.handlers": Room(
        ("gcs.errors", "gcs.linux", *_MESSAGES, *_HANDLED), frozenset({"msgspec", "trio"})
    ),
    # Pure: what has to be known about the VM is given to it.
    "gcs.guest.spec": Room(("gcs.errors", "gcs.guest.spec", "gcs.linux.nodes"), banned=_IO),
    "gcs.guest": Room(
        ("gcs.errors", "gcs.linux", "gcs.wire", "gcs.guest"), frozenset({"msgspec", "trio"})
    ),
    "gcs.host": Room(("gcs.errors", "gcs.wire", "gcs.host"), frozenset({"msgspec", "trio"})),
}

#: What has few importers in the whole tree, and these. A room's table need not name them.
SOLE_IMPORTERS = {
    "cbor2": {"gcs.wire.codec"},
    "ctypes": {"gcs.linux.syscall"},
    "psutil": {"gcs.linux.procfs"},
    "pyroute2": {"gcs.linux.link"},
    "rich": {"gcs.host.display"},
    "zstandard": {"gcs.host.unpack"},
}


def _imports(tree: ast.Module) -> Iterator[str]:
    """Yield the absolute names that a module imports; a relative one keeps its dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported from a room itself is a module of it.
            is_package = node.module in ("gcs", *ROOMS)
            names = [alias.name for alias in node.names] if is_package else [""]
            yield from (f"{node.module}.{name}".rstrip(".") for name in names)


def _is_below(name: str, above: str) -> bool:
    return name == above or name.startswith(above + ".")


def _complaint(module: str, room: Room, name: str) -> str | None:
    """Say why a module may not import a name; None if it may."""
    top = name.partition(".")[0]
    if not top:
        return "is relative"
    if name == "gcs" or top == "_typeshed":  # the package's folder; the type checker's stubs
        return None
    if top in SOLE_IMPORTERS:
        return None if module in SOLE_IMPORTERS[top] else "has other importers"
    if top == "gcs":
        return None if any(_is_below(name, own) for own in room.own) else "is another room"
    if top in sys.stdlib_module_names:
        return "is another room's work" if top in room.banned else None
    return None if top in room.third_party else "is not this room's library"


def violations(package: Path) -> list[str]:
    """Return every import below a gcs package that its room does not allow."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        if module == "gcs":
            continue
        fitting = [name for name in ROOMS if _is_below(module, name)]
        if not fitting:
            found.append(f"{module} is in no room")
            continue
        room = ROOMS[max(fitting, key=len)]
        found += [
            f"{module} imports {name}, which {reason}"
            for name in _imports(ast.parse(path.read_text()))
            if (reason := _complaint(module, room, name))
        ]
    return found


def test_every_room_imports_what_it_may() -> None:
    """Guest and host never meet, the wire is sans I/O, the floor knows nobody."""
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "line", "complaint"),
    [
        ("guest/runc.py", "import gcs.host.client", "which is another room"),
        ("guest/runc.py", "from gcs import host", "imports gcs.host, which is another room"),
        ("host/vm.py", "from gcs.guest import spec", "which is another room"),
        ("host/vm.py", "from gcs.linux.pci import behind", "which is another room"),
        ("wire/frame.py", "import trio", "which is not this room's library"),
        ("wire/frame.py", "import socket", "which is another room's work"),
        ("wire/frame.py", "import cbor2", "which has other importers"),
        ("linux/pmem.py", "import trio", "which is not this room's library"),
        ("linux/pmem.py", "from gcs.errors import GcsError", "which is another room"),
        ("linux/pmem.py", "import ctypes", "which has other importers"),
        ("linux/pmem.py", "import logging", "which is another room's work"),
        ("guest/agent.py", "import pyroute2.minimal", "which has other importers"),
        ("guest/spec/x.py", "import os", "which is another room's work"),
        ("guest/spec/x.py", "from gcs.linux import mounts", "which is another room"),
        ("guest/handlers/x.py", "from gcs.guest import connection", "which is another room"),
        ("guest/handlers/x.py", "from gcs.wire.codec import Encoding", "which is another room"),
        ("guest/handlers/x.py", "def f():\n    from gcs.wire import frame", "is another room"),
        ("errors.py", "from . import wire", "imports ., which is relative"),
        ("shelf/x.py", "import os", "is in no room"),
    ],
)
def test_an_import_across_the_rooms_is_found(
    tmp_path: Path, path: str, line: str, complaint: str
) -> None:
    """The test of the tree can fail: each kind of planted import is named."""
    planted = tmp_path / "gcs" / path
    planted.parent.mkdir(parents=True)
    planted.write_text(line + "\n")
    (violation,) = violations(tmp_path / "gcs")
    assert complaint in violation
