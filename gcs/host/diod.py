"""A 9p server for one folder or file and one connection, confined to it: diod in bubblewrap.

diod follows links out of what it exports, so that is all that there is: the root that it sees
holds the folder, diod itself with its libraries, and a list of users. It has no network, sees
no process but its own, and gets no privileges by files; devices in the folder can't be opened.

Who runs gcsctl is who works on the files. A user's server has the rights of that user and no
others, so all files that it makes are that user's, and it can't give them away. Root's server
has root's rights to files, so that owners can be set, and no other rights.

It ends with its connection; and it is killed when the process that started it ends.

Source: diod(8), bwrap(1); ld.so(8) for the list of libraries.
"""

import os
import re
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import trio

from gcs.errors import GcsError
from gcs.host.child import Child, spawn

__all__ = ["SHARE", "Programs", "find_programs", "serve"]

#: What is served, in the server's own root, which makes it the share's name.
SHARE = "/share"
#: Where Debian has diod, which is not in the PATH of users.
_SYSTEM_PATHS = ("/usr/sbin", "/sbin")
#: As the dynamic loader lists a library: `name => /path (0x…)`.
_LIBRARY = re.compile(r"(/\S+) \(0x")
#: What root's server keeps of root's capabilities, with their numbers: rights to files whoever
#: owns them, and to set owners; the last one because it would not start where root's own limits
#: are low. Source: linux/capability.h
_KEPT = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SYS_RESOURCE": 24,
}


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the two programs are."""

    diod: str
    bubblewrap: str


def find_programs() -> Programs:
    """Look the programs up. Raises GcsError that says what to install."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_PATHS])
    diod, bubblewrap = shutil.which("diod", path=path), shutil.which("bwrap", path=path)
    if diod is None or bubblewrap is None:
        missing = "diod" if diod is None else "bubblewrap (bwrap)"
        raise GcsError(
            f"volumes: {missing} is not installed; on Debian: apt-get install diod bubblewrap"
        )
    return Programs(diod, bubblewrap)


@asynccontextmanager
async def serve(
    path: Path, connection: socket.socket, *, readonly: bool, output: int
) -> AsyncIterator[Child]:
    """Serve a folder or a file to whoever is at the other end, for the length of the block.

    Args:
        path: What to serve, without links in it.
        connection: Is closed here; the server has it then.
        readonly: Whether it is to be writable for nobody.
        output: The descriptor that the server prints to.

    Raises GcsError when the server can't be started. What keeps it from serving later is in
    what it prints.
    """
    with ExitStack() as ours:
        ours.enter_context(connection)
        programs = find_programs()
        libraries = await _libraries(programs.diod)
        users = ours.enter_context(_users())
        # diod waits in read(2).
        connection.setblocking(True)
        argv = (
            *_confinement(programs, libraries, users.fileno()),
            *("--ro-bind" if readonly else "--bind", str(path), SHARE),
            *("--remount-ro", "/", "--chdir", "/", "--"),
            *_server(programs.diod, connection.fileno()),
        )
        inherit = [connection.fileno(), users.fileno()]
        async with spawn(f"server of {path}", argv, output=output, inherit=inherit) as child:
            ours.close()
            yield child


async def _libraries(program: str) -> Sequence[str]:
    """Return the files that the dynamic loader takes for a program."""
    tracing = {"LD_TRACE_LOADED_OBJECTS": "1"}
    traced = await trio.run_process([program], capture_stdout=True, check=False, env=tracing)
    return _LIBRARY.findall(traced.stdout.decode())


def _users() -> BinaryIO:
    """Return a passwd(5), to be read once: guests attach as root, and we may be another."""
    uid, gid = os.geteuid(), os.getegid()
    ours = f"gcs:x:{uid}:{gid}::/:\n" if uid else ""
    file = os.fdopen(os.memfd_create("passwd"), "w+b")
    file.write(f"root:x:0:0::/:\n{ours}".encode())
    file.seek(0)
    return file


def _confinement(programs: Programs, libraries: Sequence[str], users_fd: int) -> Sequence[str]:
    """Return the command that starts a server in a root of its own."""
    seen = (programs.diod, *libraries)
    return (
        *(programs.bubblewrap, "--die-with-parent", "--clearenv"),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
        *("--cap-drop", "ALL"),
        *(word for name in _kept() for word in ("--cap-add", name)),
        *(() if os.geteuid() == 0 else ("--unshare-user",)),
        *(word for file in seen for word in ("--ro-bind", file, file)),
        *("--ro-bind-data", str(users_fd), "/etc/passwd"),
    )


def _kept() -> Sequence[str]:
    """Return the capabilities that root's server keeps, as far as we have them.

    Asked for one that is not there, bubblewrap goes on without a word and drops none at all.
    """
    if os.geteuid() != 0:
        return ()
    status = Path("/proc/self/status").read_text()
    ours = int(status.partition("\nCapEff:")[2].split()[0], 16)
    return [name for name, number in _KEPT.items() if ours >> number & 1]


def _server(diod: str, fd: int) -> Sequence[str]:
    squash = () if os.geteuid() == 0 else ("--allsquash",)
    connection = ("--rfdno", str(fd), "--wfdno", str(fd))
    return (diod, "--foreground", "--no-auth", *squash, *connection, "--export", SHARE)
