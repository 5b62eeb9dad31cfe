"""Ports are published as docker spells them, and those of IPv6 are relayed."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from gcs.errors import GcsError, InvalidArgumentError
from gcs.host import publish
from gcs.host.publish import Published, free_port, open_relays, parse_published


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("8080:80", Published("127.0.0.1", 8080, 80)),
        ("8080:80/tcp", Published("127.0.0.1", 8080, 80)),
        ("53:53/udp", Published("127.0.0.1", 53, 53, "udp")),
        ("0.0.0.0:1:65535", Published("0.0.0.0", 1, 65535)),
        ("[::]:1:2", Published("::", 1, 2)),
        ("[0:0::1]:8080:80/tcp", Published("::1", 8080, 80)),
    ],
)
def test_a_port_is_published_as_docker_spells_it(text: str, published: Published) -> None:
    """Without an address it is this machine's loopback."""
    assert parse_published(text) == published
    assert parse_published(str(published)) == published


@pytest.mark.parametrize(
    "text",
    [
        *("", "80", "80:", ":80", "0:80", "80:65536", "a:80", "1.2.3:80:80", "80:80/sctp"),
        *("1:2:3:4", "8080:80,hostfwd=tcp::22-:22", "\u0661:80", "80:80\n"),
        *("::1:80:80", "[1.2.3.4]:80:80", "[::1]:80:80/udp", "[]:80:80", "[::1%lo]:80:80"),
    ],
)
def test_what_is_no_port_is_refused(text: str) -> None:
    """Nothing of it gets into QEMU's options."""
    with pytest.raises(InvalidArgumentError):
        parse_published(text)


@asynccontextmanager
async def _echo(port: int) -> AsyncIterator[None]:
    """Be what QEMU forwards to: a server that says everything twice."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            said = b""
            async for data in stream:
                said += data
            await stream.send_all(said * 2)

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_tcp, serve, port)
        yield
        nursery.cancel_scope.cancel()


async def test_a_port_of_ipv6_is_relayed_to_one_that_qemu_forwards() -> None:
    """Both ways and to the end of each, many at once; a port of IPv4 is QEMU's as it is."""
    published = [Published("127.0.0.1", 1, 80), Published("::1", free_port("::1"), 80)]
    answers: list[bytes] = []

    async def ask() -> None:
        async with await trio.open_tcp_stream("::1", published[1].port) as stream:
            await stream.send_all(b"hi" * 100_000)
            await stream.send_eof()
            answers.append(b"".join([bytes(data) async for data in stream]))

    with trio.fail_after(60):
        async with open_relays(published) as forwards, _echo(forwards[1].port):
            assert forwards[0] == published[0]
            assert (forwards[1].ip, forwards[1].container_port) == ("127.0.0.1", 80)
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask)
    assert answers == [b"hi" * 200_000] * 20


async def test_connections_beyond_the_limit_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep no descriptor of the service; when others have ended there is room again."""
    monkeypatch.setattr(publish, "_MAX_RELAYED", 2)
    published = [Published("::1", free_port("::1"), 80), Published("::1", free_port("::1"), 81)]

    async def ask(stream: trio.SocketStream) -> bytes:
        await stream.send_all(b"x")
        await stream.send_eof()
        return b"".join([bytes(data) async for data in stream])

    with trio.fail_after(60):
        async with open_relays(published) as forwards, _echo(forwards[0].port):
            port = published[0].port
            idle = [await trio.open_tcp_stream("::1", port) for _ in range(2)]
            for stream in idle:
                await stream.send_all(b"x")
            async with await trio.open_tcp_stream("::1", published[1].port) as late:
                assert await _end_of(late)
            assert await ask(idle[0]) == b"xxxx"
            await idle[0].aclose()
            while await _asked_again(port, ask) != b"xx":  # noqa: ASYNC110 - the relay's state
                await trio.sleep(0.05)
            await idle[1].aclose()


async def _end_of(stream: trio.SocketStream) -> bool:
    try:
        return await stream.receive_some() == b""
    except trio.BrokenResourceError:
        return True


async def _asked_again(
    port: int, ask: Callable[[trio.SocketStream], Awaitable[bytes]]
) -> bytes:
    try:
        async with await trio.open_tcp_stream("::1", port) as stream:
            return await ask(stream)
    except trio.BrokenResourceError:
        return b""


async def test_a_container_that_does_not_listen_ends_the_connection() -> None:
    """At once, as a refused one ends."""
    published = Published("::1", free_port("::1"), 80)
    with trio.fail_after(60):
        async with (
            open_relays([published]),
            await trio.open_tcp_stream("::1", published.port) as stream,
        ):
            assert await stream.receive_some() == b""


async def test_a_port_that_is_taken_is_named() -> None:
    """And nothing is left of the others."""
    free = free_port("::1")
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        sock.listen()
        taken = sock.getsockname()[1]
        published = [Published("::1", free, 80), Published("::1", taken, 80)]
        with pytest.raises(GcsError, match=rf"publish \[::1\]:{taken}:80/tcp: is another"):
            async with open_relays(published):
                pass
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", free))


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_a_free_port_is_none_that_the_kernel_gives_away(ip: str) -> None:
    """It would be gone before the program that is told of it takes it; nor is it taken."""
    first_of_the_kernel = 32_768  # unless a machine's settings say otherwise
    ports = {free_port(ip) for _ in range(100)}
    assert max(ports) < first_of_the_kernel
    assert len(ports) > 50  # two who ask at once get two


def test_an_address_of_another_machine_has_no_free_port() -> None:
    """It is said, and not looked for without end."""
    with pytest.raises(GcsError, match=r"a free port of 203\.0\.113\.1: "):
        free_port("203.0.113.1")
