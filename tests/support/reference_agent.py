"""The reference host beside a natively run agent: unix sockets stand in for vsock."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.support.agent import AgentHost, open_agent
from tests.support.reference_host.container import Container
from tests.support.reference_host.frames import BRIDGE_PORT
from tests.support.reference_host.guest import Guest, open_guest
from tests.support.reference_host.layers import Layout
from tests.support.reference_host.logs import decode_log
from tests.support.reference_host.specs import oci_spec
from tests.support.reference_host.streams import Listen, Listener

__all__ = ["Stand", "listen_beside", "open_stand"]


@dataclass
class Stand:
    """A guest whose layers are folders of this machine."""

    guest: Guest
    listen: Listen
    layer: str

    async def create(self, layout: Layout, *argv: str, terminal: bool = False) -> Container:
        """Mount a container's files, and create it."""
        await layout.combine(self.guest, [self.layer])
        return await self.create_mounted(layout, *argv, terminal=terminal)

    async def create_mounted(
        self, layout: Layout, *argv: str, terminal: bool = False
    ) -> Container:
        """Create a container whose files are mounted."""
        spec = oci_spec(layout.rootfs, *argv, terminal=terminal)
        return await self.guest.create(layout.container_id, layout.bundle, spec, layout.scratch)


def listen_beside(host: AgentHost) -> Listen:
    """Return how to listen for that agent."""

    async def listen(port: int) -> Listener:
        if port == BRIDGE_PORT:
            # The agent's own; it outlives connections, as during a move.
            return Listener(lambda: _accept(host.listener), lambda: None)
        path = host.folder / str(port)
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.bind(str(path))
        sock.listen(1)

        def close() -> None:
            sock.close()
            path.unlink(missing_ok=True)

        return Listener(lambda: _accept(sock), close)

    return listen


async def _accept(listener: trio.socket.SocketType) -> trio.SocketStream:
    sock, _ = await listener.accept()
    return trio.SocketStream(sock)


@asynccontextmanager
async def open_stand(folder: Path) -> AsyncIterator[Stand]:
    """Start an agent and be its host for the length of the block; its log must be JSON."""
    async with open_agent(folder) as agent:
        listen = listen_beside(agent)
        async with open_guest(listen) as guest:
            yield Stand(guest, listen, str(agent.rootfs))
    decode_log((folder / "agent.log").read_bytes())
