"""Folders and files of this machine in containers: what a volume is, and those of one VM.

Each volume has a server of its own (diod.py) and a port of its own, which is listened on for
one connection of the guest and not again. When its server dies, what uses the volume gets EIO,
and the rest of the container goes on.

What a volume does not show is other file systems that are mounted below its folder: the server
does not cross over to them. Such a folder is refused, rather than shown with holes.

Source: PROTOCOL.md, "MappedDirectory"; proc(5), mountinfo.
"""

import logging
import os
import posixpath
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from gcs.errors import CallError, GcsError, InvalidArgumentError
from gcs.host import diod
from gcs.host.background import all_of, open_background, together
from gcs.host.bridge import modify
from gcs.host.child import Child
from gcs.host.client import Client
from gcs.host.logfile import Log, open_log
from gcs.host.state import StateFolder
from gcs.host.vm import Vm
from gcs.host.vsock import Ports
from gcs.wire.container_storage import CacheMode, Volume
from gcs.wire.resource import MappedDirectory, RequestType, ResourceType

__all__ = ["Mounted", "Volumes", "bind", "check", "open_volumes", "parse"]

_log = logging.getLogger("gcs.host.volumes")

_FORM = "HOST:CONTAINER[:ro][:cache=MODE]"
#: How long a guest's error waits to be explained by its server's death: connections end before
#: who had them does.
_DEATH_S = 1.0
#: How long a death waits for last words, which are on their way into the log.
_LAST_WORDS_S, _LOOK_S = 0.3, 0.01


# -- what is asked for -------------------------------------------------------------------------


def parse(text: str) -> Volume:
    """Read `HOST:CONTAINER[:ro][:cache=MODE]`, as written; options may have commas between.

    Raises InvalidArgumentError.
    """
    source, colon, rest = text.partition(":")
    target, *options = re.split("[:,]", rest)
    if not (source and colon and target):
        raise InvalidArgumentError(f"{text!r}: expected {_FORM}")
    if not target.startswith("/") or ".." in target.split("/"):
        raise InvalidArgumentError(f"{text!r}: {target} is no absolute path in the container")
    target = posixpath.normpath(f"/{target.lstrip('/')}")
    if target == "/":
        raise InvalidArgumentError(f"{text!r}: a volume can't be the container's root")
    read_only, cache = _options(text, options)
    return Volume(source=source, target=target, read_only=read_only, cache=cache)


def _options(text: str, options: Sequence[str]) -> tuple[bool, CacheMode]:
    read_only, cache = False, CacheMode.NONE
    for option in options:
        name, _, value = option.partition("=")
        if option in ("ro", "rw"):
            read_only = option == "ro"
        elif name == "cache" and value in list(CacheMode):
            cache = CacheMode(value)
        else:
            modes = "|".join(CacheMode)
            raise InvalidArgumentError(f"{text!r}: {option!r} is none of ro, rw, cache={modes}")
    return read_only, cache


def check(volumes: Sequence[Volume]) -> tuple[Volume, ...]:
    """Return the volumes with absolute paths that have no links in them.

    Raises InvalidArgumentError for what is not there or can't be served, and for two at one
    place; GcsError when the programs that serve are not there.
    """
    if volumes:
        diod.find_programs()
    targets = [volume.target for volume in volumes]
    if twice := [target for target in targets if targets.count(target) > 1]:
        raise InvalidArgumentError(f"two volumes at {twice[0]}")
    return tuple(_checked(volume) for volume in volumes)


def _checked(volume: Volume) -> Volume:
    what = f"volume {volume.source}"
    try:
        path = Path(volume.source).resolve(strict=True)
    except OSError as error:
        raise InvalidArgumentError(f"{what}: {error.strerror}") from error
    if not (path.is_dir() or path.is_file()):
        raise InvalidArgumentError(f"{what}: neither a folder nor a file")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise InvalidArgumentError(f"{what}: you may not read it")
    if below := _file_systems_below(path):
        raise InvalidArgumentError(
            f"{what}: another file system is mounted at {below[0]}, which a volume does not "
            "show: give it as a volume of its own"
        )
    return Volume(
        source=str(path),
        target=volume.target,
        read_only=volume.read_only,
        cache=volume.cache,
    )


def _file_systems_below(folder: Path) -> list[Path]:
    """Return where other file systems are mounted below a folder."""
    lines = os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).splitlines()
    points = {Path(_unescaped(line.split()[4])) for line in lines}
    device = folder.stat().st_dev
    return sorted(path for path in points if folder in path.parents and _is_other(path, device))


def _unescaped(text: str) -> str:
    """Blanks, tabs, line ends and backslashes are octal numbers in mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _is_other(path: Path, device: int) -> bool:
    try:
        return path.stat().st_dev != device
    except OSError:
        return True  # a server that is not there, another user's FUSE


# -- what a VM has -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mounted:
    """A volume that a VM has, for one container."""

    volume: Volume
    settings: MappedDirectory


class Volumes:
    """The volumes of a VM, with their servers; made by `open_volumes`."""

    def __init__(
        self, vm: Vm, client: Client, folder: StateFolder, log: Log, nursery: trio.Nursery
    ) -> None:
        self._vm = vm
        self._client = client
        self._folder = folder
        self._log = log
        self._nursery = nursery
        self._ports = Ports.of_shares()

    async def mount(self, volumes: Sequence[Volume]) -> tuple[Mounted, ...]:
        """Serve volumes and mount them in the VM.

        Raises GcsError, with what the server has said if it was the server. Leaves none of them
        mounted then.
        """
        done: list[Mounted] = []

        async def add(volume: Volume) -> None:
            done.append(await self._mount(volume))

        try:
            await all_of(*(partial(add, volume) for volume in volumes))
        except GcsError as error:
            try:
                await self.unmount(done)
            except GcsError as second:
                error.add_note(f"undoing it: {second}")
            raise
        return tuple(done)

    async def _mount(self, volume: Volume) -> Mounted:
        port = self._ports.take()
        settings = _settings(volume, port)
        servers: list[Child] = []
        # All servers have one log: what others had said by now is not this one's.
        said = self._log.size()

        async def serve() -> None:
            stream = await listener.accept()
            servers.append(await self._nursery.start(self._serve, volume, stream))

        with await self._vm.vsock.listen(port) as listener:
            try:
                await together(serve, partial(self._modify, RequestType.ADD, settings))
            except CallError as error:
                raise GcsError(await self._reason(volume, servers, error, said)) from error
        return Mounted(volume, settings)

    async def _serve(
        self,
        volume: Volume,
        stream: trio.SocketStream,
        task_status: trio.TaskStatus[Child] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run a server to its end."""
        connection = socket.socket(fileno=stream.socket.detach())
        output = self._log.writer.fileno()
        serving = diod.serve(
            Path(volume.source), connection, readonly=volume.read_only, output=output
        )
        async with serving as server:
            self._folder.record(server)
            task_status.started(server)
            await server.wait()
        _log.info("ended", extra={"server": server.name, "how": server.describe_end()})

    async def _reason(
        self, volume: Volume, servers: Sequence[Child], error: CallError, said: int
    ) -> str:
        """Return why a volume could not be mounted: its server's words, or the guest's."""
        text = f"volume {volume.source}: "
        for server in servers:
            with trio.move_on_after(_DEATH_S):
                await server.wait()
            if server.exit_status is not None:
                with trio.move_on_after(_LAST_WORDS_S):
                    # All servers have this log, so that of one has no end.
                    while not self._log.tail(said):  # noqa: ASYNC110
                        await trio.sleep(_LOOK_S)
                words = self._log.tail(said)
                text += f"its server {server.describe_end()}"
                return f"{text}; it printed: {words}" if words else text
        return text + error.message

    async def unmount(self, mounted: Sequence[Mounted]) -> None:
        """Take volumes off again; their servers end with their connections."""
        remove = partial(self._modify, RequestType.REMOVE)
        await all_of(*(partial(remove, each.settings) for each in mounted))

    async def _modify(self, action: RequestType, settings: MappedDirectory) -> None:
        await modify(self._client, action, ResourceType.MAPPED_DIRECTORY, settings)


def _settings(volume: Volume, port: int) -> MappedDirectory:
    return MappedDirectory(
        mount_path=f"/run/mounts/9p/{port}",
        port=port,
        share_name=diod.SHARE,
        read_only=volume.read_only,
        cache=volume.cache,
        single_file=Path(volume.source).is_file(),
    )


@asynccontextmanager
async def open_volumes(vm: Vm, client: Client, folder: StateFolder) -> AsyncIterator[Volumes]:
    """Let a VM have volumes for the length of the block; their servers end with it."""
    async with (
        open_log(folder.path / "volumes.log") as log,
        open_background() as nursery,
    ):
        yield Volumes(vm, client, folder, log, nursery)


def bind(spec: dict[str, object], mounted: Sequence[Mounted]) -> None:
    """Let a container have volumes that its VM has."""
    mounts = spec["mounts"]
    assert isinstance(mounts, list), "runtime_spec makes one"
    # What is mounted later hides what is below it, so outer folders come first.
    for each in sorted(mounted, key=lambda each: each.volume.target.count("/")):
        mounts.append(
            {
                "destination": each.volume.target,
                "type": "bind",
                "source": each.settings.mount_path,
                "options": ["bind", "rprivate", "ro" if each.volume.read_only else "rw"],
            }
        )
