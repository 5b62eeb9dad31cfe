"""A network of its own for gcsctl and its VMs: a namespace with names, a tap device and DHCP.

In the namespace 127.0.0.1, 10.9.0.1, fd09::1 and 2001:db8::1 are this machine's. All of them
answer http://…/, a name server knows `host.test` and `lan.test`, and /etc/resolv.conf names it.
The default routes lead nowhere, over the tap device `tap0`.

`python -m tests.support.lan` is those servers.
"""

import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import trio
import trio.testing

__all__ = ["PAGE", "Lan", "open_lan"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = b"from this machine\n"
#: A user needs a namespace of users for the others, where that user is root.
_AS_ROOT = () if os.getuid() == 0 else ("--map-root-user",)
_SETUP = """
set -e
ip link set lo up
ip address add 2001:db8::1/128 dev lo
ip tuntap add tap0 mode tap
ip address add 10.9.0.1/24 dev tap0
ip address add fd09::1/64 dev tap0 nodad
ip link set tap0 up
ip route add default via 10.9.0.99 dev tap0
ip -6 route add default via fd09::99 dev tap0
mount --bind "$1" /etc/resolv.conf
echo ready
exec sleep infinity
"""
_DHCP = """
interface tap0
start 10.9.0.50
end 10.9.0.60
option subnet 255.255.255.0
option router 10.9.0.1
option dns 10.9.0.1
option domain lan.example
option lease 600
lease_file {folder}/leases
pidfile {folder}/udhcpd.pid
"""
#: Of the name server, by name and type of record.
_NAMES: Mapping[tuple[str, int], str] = {
    ("host.test", 1): "10.0.2.2",
    ("host.test", 28): "fec0::2",
    ("lan.test", 1): "10.9.0.1",
    ("lan.test", 28): "fd09::1",
}


@dataclass(frozen=True)
class Lan:
    """A namespace that exists."""

    pid: int

    @property
    def prefix(self) -> Sequence[str]:
        """What to put before a command that is to run in it, in this repository's folder."""
        user = () if os.getuid() == 0 else ("--user", "--preserve-credentials")
        return ("nsenter", "-t", str(self.pid), *user, "-n", "-m", "env", "-C", str(ROOT))

    def fetch(self, url: str, patience_s: float = 30) -> bytes:
        """Return a page as it is seen from within; empty when there is none until then."""
        asked = (sys.executable, "-m", "tests.support.http", url, str(patience_s))
        done = subprocess.run(
            [*self.prefix, *asked], capture_output=True, timeout=120, check=False
        )
        return done.stdout


@contextmanager
def open_lan(folder: Path) -> Iterator[Lan]:
    """Have such a network for the length of the block; its files are in the folder."""
    resolver = folder / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is one of the packages that the build installs"
    (folder / "udhcpd.conf").write_text(_DHCP.format(folder=folder))
    with ExitStack() as stack:
        own = ("unshare", "--net", "--mount", *_AS_ROOT)
        lan = Lan(_start(stack, *own, "sh", "-c", _SETUP, "sh", str(resolver)))
        _start(stack, *lan.prefix, sys.executable, "-m", "tests.support.lan")
        with (folder / "udhcpd.log").open("wb") as log:
            dhcp = [*lan.prefix, busybox, "udhcpd", "-f", str(folder / "udhcpd.conf")]
            server = subprocess.Popen(dhcp, stdout=log, stderr=log)
        stack.callback(server.wait)
        stack.callback(server.kill)
        yield lan


def _start(stack: ExitStack, *argv: str) -> int:
    """Start a program, wait until it says that it is ready, and return its pid."""
    process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE))
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", f"{argv[0]} did not start"
    return process.pid


# -- the servers -------------------------------------------------------------------------------


async def _serve_names(address: str) -> None:
    """Answer questions for addresses. Source: RFC 1035, 4.1."""
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await sock.bind((address, 53))
    while True:
        question, asker = await sock.recvfrom(512)
        await sock.sendto(answer(question), asker)


def answer(question: bytes) -> bytes:
    """Return the answer to a question; a name that is not known does not exist."""
    end = question.index(b"\0", 12)
    labels, at = [], 12
    while at < end:
        size = question[at]
        labels.append(question[at + 1 : at + 1 + size].decode())
        at += 1 + size
    name = ".".join(labels).lower()
    kind, _ = struct.unpack_from(">HH", question, end + 1)
    asked = question[12 : end + 5]
    value = _NAMES.get((name, kind))
    is_known = any(known == name for known, _ in _NAMES)
    flags = 0x8180 if is_known else 0x8183
    header = question[:2] + struct.pack(">HHHHH", flags, 1, 1 if value else 0, 0, 0)
    if value is None:
        return header + asked
    family = socket.AF_INET6 if ":" in value else socket.AF_INET
    data = socket.inet_pton(family, value)
    return header + asked + struct.pack(">HHHIH", 0xC00C, kind, 1, 60, len(data)) + data


async def _serve_page(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.receive_some(4096)
        head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(PAGE)}\r\n\r\n".encode()
        await stream.send_all(head + PAGE)


async def _serve(output: IO[str]) -> None:
    async with trio.open_nursery() as nursery:
        for address in ("127.0.0.1", "10.9.0.1"):
            nursery.start_soon(_serve_names, address)
        for host in ("0.0.0.0", "::"):
            listeners = await trio.open_tcp_listeners(80, host=host)
            nursery.start_soon(trio.serve_listeners, _serve_page, listeners)
        await trio.testing.wait_all_tasks_blocked()
        output.write("ready\n")
        output.flush()


if __name__ == "__main__":
    trio.run(_serve, sys.stdout)
