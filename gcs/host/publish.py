"""Published ports: those of this machine that lead to one of a container.

QEMU forwards the ones of IPv4 addresses itself. It knows none of IPv6 (7.2; `hostfwd` is IPv4
alone), so such a connection is relayed from here to a port of this machine's IPv4 loopback that
QEMU forwards: the container sees it as any other.
"""

import errno
import ipaddress
import re
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import trio

from gcs.errors import GcsError, InvalidArgumentError
from gcs.host.background import open_background

__all__ = ["Published", "free_port", "open_relays", "parse_published"]

_FORM = re.compile(
    r"(?:(?P<v4>[0-9.]+):|\[(?P<v6>[0-9A-Fa-f:.]+)\]:)?"
    r"(?P<host>[0-9]{1,5}):(?P<own>[0-9]{1,5})(?:/(?P<kind>tcp|udp))?"
)
_MAX_PORT = 65535
#: Nobody else's containers, unless somebody says so.
_LOOPBACK = "127.0.0.1"
#: Below those that the kernel gives to whoever connects (ip_local_port_range): what is free
#: stays so until a program asks for it by its number, and no connection to it can meet itself.
_FREE_PORTS = range(20_000, 32_768)
#: With half of them in use, as many would be taken by chance once in 10^30.
_TRIES = 100
#: Connections through one port at once: each takes two descriptors, and a process has 1024.
_MAX_RELAYED = 200
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Published:
    """A port of this machine that leads to one of the container."""

    ip: str
    port: int
    container_port: int
    #: "tcp" or "udp"
    protocol: str = "tcp"

    def __str__(self) -> str:
        host = f"[{self.ip}]" if self.is_ipv6 else self.ip
        return f"{host}:{self.port}:{self.container_port}/{self.protocol}"

    @property
    def is_ipv6(self) -> bool:
        """Tell whether it is a port of an IPv6 address."""
        return ":" in self.ip


def parse_published(text: str) -> Published:
    """Read `[IP:]PORT:CONTAINER-PORT[/udp]`. Raises InvalidArgumentError."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise InvalidArgumentError(f"{text!r}: expected [IP:]PORT:CONTAINER-PORT[/udp]")
    ports = int(match["host"]), int(match["own"])
    if not all(1 <= port <= _MAX_PORT for port in ports):
        raise InvalidArgumentError(f"{text!r}: ports go from 1 to {_MAX_PORT}")
    try:
        ip = _address(match)
    except ValueError:
        address = match["v4"] or match["v6"]
        raise InvalidArgumentError(f"{text!r}: {address} is no IP address") from None
    published = Published(ip, *ports, match["kind"] or "tcp")
    if published.is_ipv6 and published.protocol != "tcp":
        raise InvalidArgumentError(f"{text!r}: of IPv6 addresses only TCP can be published")
    return published


def _address(match: "re.Match[str]") -> str:
    if match["v6"]:
        return str(ipaddress.IPv6Address(match["v6"]))
    return str(ipaddress.IPv4Address(match["v4"] or _LOOPBACK))


@asynccontextmanager
async def open_relays(published: Sequence[Published]) -> AsyncIterator[Sequence[Published]]:
    """Relay ports of IPv6 addresses for the length of the block; yield what QEMU is to forward.

    Raises GcsError when a port is taken.
    """
    forwards: list[Published] = []
    listeners: list[tuple[trio.SocketListener, int]] = []
    async with AsyncExitStack() as stack:
        for one in published:
            if not one.is_ipv6:
                forwards.append(one)
                continue
            listener = await stack.enter_async_context(await _listen(one))
            forwards.append(replace(one, ip=_LOOPBACK, port=free_port()))
            listeners.append((listener, forwards[-1].port))
        limit = trio.CapacityLimiter(_MAX_RELAYED)
        # Entered last: nobody accepts any more when the listeners are closed.
        nursery = await stack.enter_async_context(open_background())
        for listener, port in listeners:
            nursery.start_soon(trio.serve_listeners, partial(_relay, port, limit), [listener])
        yield forwards


async def _listen(one: Published) -> trio.SocketListener:
    sock = trio.socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The same port of IPv4 addresses is QEMU's, if it is published at all.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await sock.bind((one.ip, one.port))
        sock.listen()
    except OSError as error:
        sock.close()
        raise GcsError(
            f"publish {one}: is another program using it? {error.strerror}"
        ) from error
    return trio.SocketListener(sock)


def free_port(ip: str = _LOOPBACK) -> int:
    """Return a port of an address that nobody has; a program that is told takes it later.

    Raises GcsError when the address is not of this machine, or none was found.
    """
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    for _ in range(_TRIES):
        port = _FREE_PORTS[secrets.randbelow(len(_FREE_PORTS))]
        with socket.socket(family) as sock:
            try:
                sock.bind((ip, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise GcsError(f"a free port of {ip}: {error.strerror}") from error
            else:
                return port
    raise GcsError(f"a free port of {ip}: {_TRIES} that were tried are in use")


async def _relay(port: int, limit: trio.CapacityLimiter, client: trio.SocketStream) -> None:
    """Copy both ways until both ends have said all; one that breaks off ends the other.

    One too many is closed: it would wait with a descriptor, of which the service has not many.
    """
    async with client:
        try:
            limit.acquire_on_behalf_of_nowait(client)
        except trio.WouldBlock:
            return
        try:
            await _connect(port, client)
        finally:
            limit.release_on_behalf_of(client)


async def _connect(port: int, client: trio.SocketStream) -> None:
    try:
        server = await trio.open_tcp_stream(_LOOPBACK, port)
    except OSError:
        return
    async with server, trio.open_nursery() as nursery:
        nursery.start_soon(_copy, client, server, nursery.cancel_scope)
        nursery.start_soon(_copy, server, client, nursery.cancel_scope)


async def _copy(
    source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
) -> None:
    try:
        while data := await source.receive_some(_CHUNK):
            await sink.send_all(data)
        await sink.send_eof()
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        scope.cancel()
