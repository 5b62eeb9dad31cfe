"""From an image to an exit status: the one way of a container through a VM.

Nothing here knows of clients: what becomes known on the way is set as an outcome.
"""

import logging
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from gcs.errors import CallError, ContainerStoppedError, DisconnectedError, GcsError
from gcs.host import network, pod, volumes
from gcs.host.container import Container, rootfs_path
from gcs.host.contents import Contents, find_image, prepare
from gcs.host.deadline import deadline
from gcs.host.images import Image, ImageConfig
from gcs.host.machine import Machine, Storage
from gcs.host.outcome import Outcome
from gcs.host.process import Streams
from gcs.host.spec import Command, runtime_spec
from gcs.host.steps import Steps
from gcs.host.users import find_user
from gcs.host.volumes import Mounted
from gcs.host.vsock import Ports
from gcs.wire.control import Run, StreamName

__all__ = ["Course", "Life", "Started", "read_image", "wanted_streams"]

_log = logging.getLogger("gcs.host.run")

#: SIGKILL of a container's init ends it in milliseconds.
_KILL_S = 10.0


@dataclass(frozen=True, slots=True)
class Started:
    """A container whose init runs, and the connections of its streams."""

    container: Container
    streams: Streams
    #: of the VM, for more processes
    ports: Ports
    image: ImageConfig
    #: of the image as file systems, bottom first
    layers: Sequence[Path]
    #: init's, as the spec has it
    process: Mapping[str, object]


@dataclass(slots=True)
class Life:
    """What becomes known of a container, in this order."""

    image: Outcome[Image] = field(default_factory=Outcome)
    started: Outcome[Started] = field(default_factory=Outcome)
    exited: Outcome[int] = field(default_factory=Outcome)
    #: whether nobody wants it any more
    is_given_up: bool = False
    _preparing: trio.CancelScope = field(default_factory=trio.CancelScope)

    def give_up(self) -> None:
        """Have it end as soon as that leaves nothing half done."""
        self.is_given_up = True
        self._preparing.cancel()

    async def prepare(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do once what can be broken off at any moment. Raises ContainerStoppedError."""
        with self._preparing:
            await work()
        self.check()

    def check(self) -> None:
        """Raise ContainerStoppedError when it has been given up."""
        if self.is_given_up:
            raise ContainerStoppedError("the container was given up before it started")


async def read_image(run: Run, steps: Steps, life: Life) -> Image:
    """Open a container's image, unless that is done already."""
    if life.image.value is None:
        async with steps.step("read the image"):
            life.image.succeed(await find_image(run.image, Path(run.cache)))
    return await life.image.get()


@dataclass(frozen=True, slots=True)
class Course:
    """One container's way through a VM that is being served."""

    machine: Machine
    run: Run
    #: the container's id
    cid: str
    #: told of what happens on the way
    steps: Steps
    #: told of what becomes known; not of failures, which are raised
    life: Life

    async def follow(self) -> None:
        """Run the container until it has exited and is taken down.

        Raises CommandRefusedError when the OCI runtime can't execute the command, and any
        GcsError when a step fails. Leaves nothing of the container then in a VM that others
        share.
        """
        contents: list[Contents] = []

        async def make_ready() -> None:
            contents.append(await self._make_ready())
            await self.machine.storage.wait()

        await self.life.prepare(make_ready)
        notifications = self.machine.exits.expect(self.cid)
        try:
            storage = await self.machine.storage.get()
            client = storage.layers.client
            digests = [layer.diff_id for layer in contents[0].image.layers]
            written = storage.scratch.folder(self.cid, digests)
            vm = self.machine.vm
            container = Container(
                *(vm, client, self.cid, notifications), written, storage.scratch.is_kept
            )
            await self._live(container, contents[0], storage)
        finally:
            self.machine.exits.forget(self.cid)

    async def _make_ready(self) -> Contents:
        image = await read_image(self.run, self.steps, self.life)
        name, leases = "prepare the layers", self.machine.leases
        async with self.steps.step(name):
            tell = partial(self.steps.advance, name)
            return await prepare(image, Path(self.run.cache), leases, tell)

    async def _live(self, container: Container, contents: Contents, storage: Storage) -> None:
        """Mount what the container is made of, let it run, and unmount all of it."""
        async with self.steps.step("mount the layers"):
            paths = await storage.layers.mount(contents.places)
        unmount = partial(storage.layers.unmount, contents.places)
        try:
            mounted = await self._mount_volumes(storage)
        except GcsError as error:
            await self._undo(error, unmount)
            raise
        try:
            await self.machine.is_furnished.wait()
            started = await self._start(container, contents, paths, mounted)
        except GcsError as error:
            await self._undo(error, partial(storage.volumes.unmount, mounted))
            await self._undo(error, unmount)
            raise
        takedown = (container.remove, partial(storage.volumes.unmount, mounted), unmount)
        try:
            await self._run(container, started)
        except GcsError as error:
            for call in (partial(_kill, container), *takedown):
                await self._undo(error, call)
            raise
        async with self.steps.step("take the container down"):
            await _call_each(takedown)

    async def _mount_volumes(self, storage: Storage) -> Sequence[Mounted]:
        if not self.run.volumes:
            return ()
        async with self.steps.step("mount the volumes"):
            return await storage.volumes.mount(self.run.volumes)

    async def _run(self, container: Container, started: Started) -> None:
        """Tell that it has started, and wait for its end."""
        self.life.started.succeed(started)
        if self.life.is_given_up:
            for stream in started.streams.values():
                await trio.aclose_forcefully(stream)
            with suppress(CallError):  # it has exited meanwhile
                await container.init.signal(signal.SIGKILL)
        self.life.exited.succeed(await container.init.wait())
        notification = await container.wait_notification()
        _log.info("container exited", extra={"type": notification.type})

    async def _start(
        self,
        container: Container,
        contents: Contents,
        paths: Sequence[str],
        mounted: Sequence[Mounted],
    ) -> Started:
        """Create the container and start its init, or leave neither."""
        async with self.steps.step("create the container"):
            spec = await self._spec(contents)
            volumes.bind(spec, mounted)
            await container.create(spec, paths)
        ports, terminal = self.machine.ports, self.run.terminal
        names = wanted_streams(stdin=self.run.stdin, terminal=terminal)
        try:
            self.life.check()
            async with self.steps.step("start the container"):
                streams = await container.start(ports, names, terminal=terminal)
        except GcsError as error:
            await self._undo(error, container.remove)
            raise
        process = spec["process"]
        assert isinstance(process, dict), "runtime_spec makes one"
        config = contents.image.config
        return Started(container, streams, ports, config, contents.layers, process)

    async def _undo(self, error: GcsError, call: Callable[[], Awaitable[None]]) -> None:
        """Take back a step in a VM that goes on; one of a single container ends with it."""
        if self.machine.is_shared and not isinstance(error, DisconnectedError):
            try:
                await call()
            except GcsError as second:
                error.add_note(f"undoing it: {second}")

    async def _spec(self, contents: Contents) -> dict[str, object]:
        config, run, sandbox = contents.image.config, self.run, self.machine.sandbox
        user = await find_user(config.user, contents.layers)
        wish = Command(
            arguments=run.arguments,
            entrypoint=run.entrypoint,
            environment=run.environment,
            hostname=sandbox.hostname if sandbox else run.hostname,
            terminal=run.terminal,
            height=run.height,
            width=run.width,
        )
        spec = runtime_spec(config, wish, user, self.cid, rootfs_path(self.cid))
        if sandbox:
            pod.join(spec, sandbox)
        elif self.machine.has_network:
            network.use_namespace(spec, self.cid)
        return spec


async def _kill(container: Container) -> None:
    """End a container of which it is not known whether it has ended."""
    with suppress(CallError), deadline(_KILL_S, "the container's end after SIGKILL"):
        await container.init.signal(signal.SIGKILL)
        await container.init.wait()


async def _call_each(calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Make calls one after the other, whatever fails; raise the first failure at the end."""
    failures: list[GcsError] = []
    for call in calls:
        try:
            await call()
        except GcsError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def wanted_streams(*, stdin: bool, terminal: bool) -> tuple[StreamName, ...]:
    """Return the streams to connect; a terminal has one output."""
    first = (StreamName.STDIN,) if stdin else ()
    last = () if terminal else (StreamName.STDERR,)
    return (*first, StreamName.STDOUT, *last)
