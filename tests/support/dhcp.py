"""A DHCP server among the far ends of virtual cables: busybox's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.support.wires import Wires

__all__ = ["dhcp_server"]

#: Whoever asks over the first cable has this address, whatever is known of it.
_MAC = "02:00:00:00:00:01"


@asynccontextmanager
async def dhcp_server(
    wires: Wires, folder: Path, ip: str, dns: str = "10.0.1.1"
) -> AsyncIterator[None]:
    """Answer on the first cable for the length of the block.

    Args:
        wires: Where the cable ends.
        folder: For the server's files.
        ip: What the NIC at the other end gets.
        dns: The name server.
    """
    (folder / "leases").touch()
    config = folder / "udhcpd.conf"
    config.write_text(
        f"start {ip}\nend {ip}\nstatic_lease {_MAC} {ip}\n"
        f"interface w1\npidfile /dev/null\nlease_file {folder}/leases\n"
        "option subnet 255.255.255.0\noption router 10.0.1.1\n"
        f"option dns {dns}\noption domain dhcp.example\noption lease 30\n"
    )
    server = await trio.lowlevel.open_process(
        ["nsenter", f"--net={wires.path}", "busybox", "udhcpd", "-f", str(config)]
    )
    try:
        yield
    finally:
        server.kill()
        with trio.CancelScope(shield=True):
            await server.wait()
