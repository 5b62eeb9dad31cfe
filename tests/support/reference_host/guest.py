"""The guest, as hosts hold it: from the bridge's first dial on, over moves of the VM too."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from tests.support.reference_host.bridge import Bridge, Call
from tests.support.reference_host.container import Container
from tests.support.reference_host.frames import BRIDGE_PORT, NULL_ID, Hresult, Rpc, go_json
from tests.support.reference_host.process import FOREVER, Process, SavedProcess, Streams
from tests.support.reference_host.shapes import GuestError, Reply
from tests.support.reference_host.streams import Input, Listen, Listener, Output

__all__ = ["Guest", "SavedGuest", "open_guest"]

#: From the start of the VM to the answer to the first request.
_CONNECT_S = 120.0
_ACCEPT_S = 30.0
#: How long a host that took over asks for a process that may be gone.
_PROBE_MS = 50
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAPABILITIES = (
    "NamespaceAddRequestSupported",
    "SignalProcessSupported",
    "DumpStacksSupported",
    "DeleteContainerStateSupported",
)


@dataclass(frozen=True)
class SavedGuest:
    """What one host tells another when the VM moves: no execs, only what inits are."""

    next_id: int
    next_port: int
    processes: Sequence[SavedProcess]


class Guest:
    """One host's connection to a guest."""

    def __init__(self, listen: Listen, nursery: trio.Nursery) -> None:
        self.bridge = Bridge()
        self.listen = listen
        self._nursery = nursery
        #: Ports only grow; none is used twice.
        self.next_port = BRIDGE_PORT + 1
        self._opened: list[Streams] = []

    async def connect(self) -> None:
        """Accept the guest's dial, and negotiate by the next request."""
        with trio.fail_after(_CONNECT_S):
            await self.accept()
            _check_capabilities(await self.negotiate())

    async def accept(self) -> None:
        """Accept the guest's dial."""
        listener = await self.listen(BRIDGE_PORT)
        try:
            stream = await listener.accept()
        finally:
            listener.close()
        self.bridge.attach(stream)
        self._nursery.start_soon(self.bridge.serve)

    async def negotiate(self, minimum: int = 4, maximum: int = 4) -> Reply:
        """Ask for a version."""
        return await self.bridge.call(
            Rpc.NEGOTIATE_PROTOCOL, "", MinimumVersion=minimum, MaximumVersion=maximum
        )

    # -- what hosts ask for --

    async def create(
        self, container_id: str, bundle: str, spec: Mapping[str, object], scratch: str = ""
    ) -> Container:
        """Create a container."""
        container = Container(self, container_id)
        await container.create(bundle, spec, scratch)
        return container

    async def execute(
        self,
        container_id: str,
        parameters: Mapping[str, object],
        *,
        terminal: bool = False,
        streams: bool = True,
    ) -> Process:
        """Start a process with its streams, and wait for it in the background."""
        opened = await self._open_streams(terminal=terminal) if streams else Streams()
        try:
            pid = await self._execute(container_id, parameters, opened)
        except GuestError:
            await opened.aclose()
            raise
        wait = await self._wait(container_id, pid, FOREVER)
        return Process(self.bridge, container_id, pid, opened, wait)

    async def run(
        self,
        *argv: str,
        terminal: bool = False,
        streams: bool = True,
        container_id: str = NULL_ID,
        **more: object,
    ) -> Process:
        """Start a process of the VM itself."""
        parameters: dict[str, object] = {
            "CommandArgs": list(argv),
            "WorkingDirectory": "/",
            "Environment": {"PATH": _PATH},
            **({"EmulateConsole": True} if terminal else {}),
            **more,
        }
        return await self.execute(container_id, parameters, terminal=terminal, streams=streams)

    async def modify(
        self, request_type: str, resource_type: str, settings: Mapping[str, object]
    ) -> None:
        """Change what the VM has."""
        request = {
            "RequestType": request_type,
            "ResourceType": resource_type,
            "Settings": settings,
        }
        await self.bridge.call(Rpc.MODIFY_SETTINGS, NULL_ID, Request=request)

    async def stacks(self) -> str:
        """Return what the guest's threads are doing."""
        return (await self.bridge.call(Rpc.DUMP_STACKS, NULL_ID)).text("GuestStacks")

    # -- moves of the VM --

    async def leave(self) -> None:
        """Lose the bridge."""
        await self.bridge.leave()

    async def aclose(self) -> None:
        """Close the bridge and every stream."""
        await self.leave()
        for streams in self._opened:
            await streams.aclose()

    def save(self, processes: Sequence[Process]) -> SavedGuest:
        """Return what another host needs to go on."""
        saved = [process.save() for process in processes]
        return SavedGuest(self.bridge.next_id, self.next_port, saved)

    async def take_over(self, saved: SavedGuest) -> list[tuple[Container, Process]]:
        """Go on for another host, with the ids and ports that follow its."""
        self.bridge.next_id = max(self.bridge.next_id, saved.next_id)
        self.next_port = max(self.next_port, saved.next_port)
        found = []
        for one in saved.processes:
            container = Container(self, one.container_id)
            wait = self.bridge.preregister(one.wait_id, Rpc.WAIT_FOR_PROCESS)
            await self._probe(one)
            process = Process(self.bridge, one.container_id, one.pid, Streams(), wait)
            found.append((container, process))
        return found

    async def _probe(self, process: SavedProcess) -> None:
        """Look whether a process is there: it is if the wait for it takes too long."""
        call = await self._wait(process.container_id, process.pid, _PROBE_MS)
        try:
            await call.result()
        except GuestError as error:
            if error.result != Hresult.TIMEOUT:
                raise

    # -- steps --

    async def _wait(self, container_id: str, pid: int, timeout_ms: int) -> Call:
        return await self.bridge.send(
            Rpc.WAIT_FOR_PROCESS, container_id, ProcessId=pid, TimeoutInMs=timeout_ms
        )

    async def _execute(
        self, container_id: str, parameters: Mapping[str, object], streams: Streams
    ) -> int:
        document = go_json({**parameters, **streams.flags()})
        settings = {
            "ProcessParameters": document,
            "VsockStdioRelaySettings": streams.ports(),
        }
        reply = await self.bridge.call(Rpc.EXECUTE_PROCESS, container_id, Settings=settings)
        # The guest has dialled before it answered; only our accept may be behind, and what is
        # between us.
        with trio.fail_after(_ACCEPT_S):
            for stream in streams.open():
                await stream.connection()
        return reply.number("ProcessId")

    async def _open_streams(self, *, terminal: bool) -> Streams:
        stdin = Input(*await self._open_port())
        stdout = Output(*await self._open_port())
        stderr = None if terminal else Output(*await self._open_port())
        streams = Streams(stdin, stdout, stderr)
        self._opened.append(streams)
        for stream in streams.open():
            self._nursery.start_soon(stream.serve)
        return streams

    async def _open_port(self) -> tuple[int, Listener]:
        port, self.next_port = self.next_port, self.next_port + 1
        return port, await self.listen(port)


def _check_capabilities(reply: Reply) -> None:
    """Hosts go on with version 4 only, and ask of a guest what it says it can."""
    assert reply.number("Version") == 4
    capabilities = reply.document("Capabilities")
    assert capabilities["RuntimeOsType"] == "Linux"
    assert {"Major": 2, "Minor": 1} in _listed(capabilities["SupportedSchemaVersions"])
    defined = capabilities["GuestDefinedCapabilities"]
    assert isinstance(defined, Mapping)
    assert all(defined.get(name) is True for name in _CAPABILITIES), defined
    assert not any(capabilities.get(f"SendHost{one}Message") for one in ("Create", "Start"))


def _listed(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


@asynccontextmanager
async def open_guest(listen: Listen) -> AsyncIterator[Guest]:
    """Connect to the guest that dials next, for the length of the block."""
    async with trio.open_nursery() as nursery:
        guest = Guest(listen, nursery)
        await guest.connect()
        try:
            yield guest
        finally:
            with trio.CancelScope(shield=True):
                await guest.aclose()
        nursery.cancel_scope.cancel()
