"""What a service does for its clients: each request of the control socket, acted on.

One `Owner` has one VM, and in it one container or those of a pod. The VM ends with its last
container. A container ends by itself, on demand, and with the client that has asked for it,
unless it is detached.
"""

import logging
import secrets
from functools import partial
from weakref import WeakKeyDictionary, WeakSet

import trio

from gcs.errors import (
    ContainerNotFoundError,
    ContainerStoppedError,
    DisconnectedError,
    GcsError,
    WrongStateError,
)
from gcs.host.background import together
from gcs.host.container import CommandRefusedError
from gcs.host.control import Answer, Conversation
from gcs.host.fdstream import FdStream
from gcs.host.machine import Machine, open_machine
from gcs.host.outcome import Outcome
from gcs.host.output import keep_streams
from gcs.host.owned import Owned
from gcs.host.run import Course, read_image
from gcs.host.state import ID_DIGITS, Claim, StateError, StateFolder, keep_logs
from gcs.host.steps import Steps
from gcs.wire.control import Remove, Run, RunReply, Stop, Wait
from gcs.wire.schema import Reply, Request

__all__ = ["Owner"]

_log = logging.getLogger("gcs.host.owner")

#: How long clients may take to ask what they have left to ask, to get the answers and to close.
#: They do it at once, as far as their machine has time for them.
_DRAIN_S = 10.0
#: A container's id has 64 hexadecimal digits, as Docker's; its state folder has the first of
#: them, as many as a VM's id has.
_ID_BYTES = 32


class Owner:
    """A VM, its containers, and what is known of all of them."""

    def __init__(self, folder: StateFolder, nursery: trio.Nursery) -> None:
        self._folder = folder
        self._nursery = nursery
        self._clients: WeakSet[Conversation] = WeakSet()
        #: those that have started a container and stay for its end; set when they have asked
        self._askers: WeakKeyDictionary[Conversation, trio.Event] = WeakKeyDictionary()
        self._first: Conversation | None = None
        #: by id; of a pod those that are over and left by their clients are not among them
        self._containers: dict[str, Owned] = {}
        #: those that have not been taken down yet
        self._alive: list[Owned] = []
        #: where they live, and in which VM, once that is there
        self._house: tuple[trio.Nursery, Machine] | None = None
        #: how the VM was lost, if it was
        self._loss: DisconnectedError | None = None
        self._is_vacant: Outcome[bool] = Outcome()
        self._pod = ""
        self.has_failed = False

    async def serve_first(self, stream: FdStream) -> None:
        """Serve the client that started us; without a container everything ends with it."""
        self._first = Conversation(stream)
        await self._first.serve(self.handle)
        if not self._containers:
            self._nursery.cancel_scope.cancel()

    async def handle(self, client: Conversation, request: Request[Reply]) -> Answer:
        """Answer one request."""
        self._clients.add(client)
        if isinstance(request, Run):
            return await self._begin(client, request)
        if isinstance(request, Wait) and not request.process_id and client in self._askers:
            self._askers[client].set()
        owned = self._find(request.container_id)
        match request:
            case Stop():
                await self._stop(owned, request.seconds)
            case Remove():
                await self._remove(owned, force=request.force)
            case _:
                return await owned.answer(request)
        return Answer(Reply())

    def _find(self, container_id: str) -> Owned:
        """Return the container of an id; without one the only one there is."""
        if container_id in self._containers:
            return self._containers[container_id]
        if container_id or len(self._containers) != 1:
            raise ContainerNotFoundError(f"container {container_id}: not known to this service")
        (owned,) = self._containers.values()
        return owned

    def settle(self) -> None:
        """Leave the state folders to others, with what is to be left in them.

        Their locks are held to the end of the process.
        """
        for owned in self._containers.values():
            owned.settle()
        if self._pod or not self._containers:
            self._folder.remove()

    # -- the beginning -------------------------------------------------------------------------

    async def _begin(self, client: Conversation, run: Run) -> Answer:
        self._check(client, run)
        # Without a first container there is no VM, and who comes to join has nothing for one.
        if not self._has_place(run) or (run.vm is None and not self._containers):
            return Answer(RunReply(again=True))
        owned = self._claim(run, Steps(client.notify))
        is_first = not self._containers
        self._containers[owned.container_id] = owned
        self._alive.append(owned)
        self._nursery.start_soon(self._watch, client, owned)
        if is_first:
            self._nursery.start_soon(self._own, owned)
        elif self._house is not None:
            rooms, machine = self._house
            rooms.start_soon(self._live, rooms, machine, owned)
        self._askers[client] = trio.Event()
        try:
            answer = await owned.started()
        finally:
            if run.detached or not owned.has_started:
                self._askers.pop(client).set()
        started = owned.life.started.value
        if run.detached and started is not None:
            self._nursery.start_soon(keep_streams, started.streams, owned.folder.path)
        return answer

    def _check(self, client: Conversation, run: Run) -> None:
        """Raise WrongStateError when this is no time for a container."""
        if not self._containers and not self._pod:
            if client is not self._first or run.vm is None:
                raise WrongStateError("run: there is no VM yet, and nothing to make it of")
            return
        if not run.pod or run.pod != self._pod:
            raise WrongStateError("run: this service has its container already")
        if run.vm is not None:
            raise WrongStateError(f"run: pod {run.pod} has its VM already")

    def _has_place(self, run: Run) -> bool:
        """Tell whether its pod, if it has one, is here and stays here."""
        if self._pod:
            return not self._is_vacant.is_set
        if run.pod and self._folder.claim_pod(run.pod):
            self._pod = run.pod
        return self._pod == run.pod

    def _claim(self, run: Run, steps: Steps) -> Owned:
        """Take the container's name, and give it an id and a state folder."""
        vm_id = self._folder.path.name
        if not run.pod:
            container_id = vm_id + secrets.token_hex(_ID_BYTES - len(vm_id) // 2)
            self._folder.claim(Claim(container_id, run.name))
            return Owned(run, container_id, self._folder, steps)
        container_id = secrets.token_hex(_ID_BYTES)
        folder = StateFolder.create(self._folder.path.parent, container_id[:ID_DIGITS])
        try:
            folder.claim(Claim(container_id, run.name, vm=vm_id))
        except (StateError, OSError):
            folder.remove()
            folder.close()
            raise
        return Owned(run, container_id, folder, steps)

    # -- the VM --------------------------------------------------------------------------------

    async def _own(self, first: Owned) -> None:
        """Have the VM until its last container is over; then there is nothing left to own."""
        try:
            # In a pod its own course reads it: a fault of it is nobody else's, and the pod has
            # ports for all that an image takes.
            count = 0
            if not self._pod:
                count = len((await read_image(first.run, first.steps, first.life)).layers)
            home = secrets.token_hex(_ID_BYTES) if self._pod else first.container_id
            opening = open_machine(first.run, count, self._folder, home)
            async with opening as machine:
                await together(
                    partial(machine.serve, first.steps, self._is_vacant),
                    partial(self._keep_house, machine),
                )
        except GcsError as error:
            self._fail_all(error)
        except Exception as error:  # noqa: BLE001 - the edge: a bug, told and logged
            _log.exception("internal error")
            self._fail_all(GcsError(f"run: internal error: {error!r}"))
        await self._finish()

    async def _keep_house(self, machine: Machine) -> None:
        """Have containers live in the VM until none is left. Raises DisconnectedError."""
        try:
            async with trio.open_nursery() as rooms:
                self._house = rooms, machine
                for owned in self._alive:
                    rooms.start_soon(self._live, rooms, machine, owned)
        finally:
            # Who comes now is told with all others how the VM was lost.
            self._house = None
        if self._loss is not None:
            raise self._loss

    async def _live(self, rooms: trio.Nursery, machine: Machine, owned: Owned) -> None:
        """Run a container to its end; when the VM is lost, all end."""
        is_well = False
        course = Course(machine, owned.run, owned.container_id, owned.steps, owned.life)
        try:
            await course.follow()
            is_well = True
        except DisconnectedError as error:
            # Why is seen around the VM, and told there to all that were in it.
            self._loss = error
            self._house = None
            rooms.cancel_scope.cancel()
            return
        except (CommandRefusedError, ContainerStoppedError) as error:
            owned.fail(error)
        except GcsError as error:
            self._fail(owned, error)
        except Exception as error:  # noqa: BLE001 - the edge: a bug, told and logged
            _log.exception("internal error")
            self._fail(owned, GcsError(f"run: internal error: {error!r}"))
        owned.finish()
        self._alive.remove(owned)
        if not self._alive:
            self._is_vacant.succeed(is_well)
            if not (is_well or machine.is_furnished.is_set()):
                # Nobody will come: what boots is for nothing.
                self._nursery.start_soon(self._finish)
            return
        # Others go on. Whoever has asked for it may ask how it ended; others find its record.
        owned.settle()
        owned.folder.close()
        if owned.is_left:
            del self._containers[owned.container_id]

    def _fail_all(self, error: GcsError) -> None:
        """Tell everybody in the VM that it is over, and why."""
        self._note(error)
        self._is_vacant.fail(error)
        for owned in self._alive:
            owned.fail(error, is_told=True)

    def _fail(self, owned: Owned, error: GcsError) -> None:
        self._note(error)
        owned.fail(error, is_told=True)

    def _note(self, error: GcsError) -> None:
        """Log a failure, and keep the logs."""
        _log.error("failed", extra={"error": str(error)})
        self.has_failed = True
        error.add_note(f"logs are in {keep_logs(self._folder.path)}")

    async def _finish(self) -> None:
        """Answer whoever is connected until all have closed, then end everything.

        A client that has its answer closes. One whose question is still on its way gets an
        answer too: if the socket were closed on it, it could not say how the container ended.
        Those that have started a container and stay ask how it ends, and then wait in their
        turn, for our end.
        """
        for owned in self._alive:
            owned.finish()
        with trio.move_on_after(_DRAIN_S):
            for client in list(self._clients):
                if client in self._askers:
                    await self._askers[client].wait()
                if client in self._askers:
                    await client.wait_answered()
                else:
                    await client.wait_gone()
        self._nursery.cancel_scope.cancel()

    # -- the end of a container ----------------------------------------------------------------

    async def _watch(self, client: Conversation, owned: Owned) -> None:
        """End a container that was asked for by a client that has gone, unless it may go on."""
        await client.wait_gone()
        if client in self._askers:
            self._askers[client].set()
        owned.is_left = True
        if owned.is_settled:
            del self._containers[owned.container_id]
        if owned not in self._alive or owned.life.exited.is_set:
            return
        if owned.run.detached and owned.started_at:
            return
        if self._alive == [owned]:
            self._nursery.cancel_scope.cancel()
            return
        try:
            await owned.abandon()
        except GcsError as error:
            _log.warning("not ended", extra={"error": str(error)})

    async def _stop(self, owned: Owned, seconds: int) -> None:
        if owned.has_started:
            await owned.stop(seconds)
        else:
            owned.give_up()
            self._finish_without(owned)

    async def _remove(self, owned: Owned, *, force: bool) -> None:
        is_over = owned.life.exited.is_set
        if not (force or is_over):
            raise WrongStateError(
                f"container {owned.shown} is running: stop it first, or force the removal"
            )
        owned.is_removed = True
        if not owned.has_started:
            owned.give_up()
        elif not is_over:
            try:
                await owned.kill()
            except GcsError as error:
                # The VM goes, and everything in it, if it is the last one.
                _log.warning("not killed", extra={"error": str(error)})
        owned.folder.release()
        self._finish_without(owned)

    def _finish_without(self, owned: Owned) -> None:
        """End the VM at once if nobody else is in it."""
        if self._alive in ([], [owned]):
            self._is_vacant.succeed(False)
            self._nursery.start_soon(self._finish)
