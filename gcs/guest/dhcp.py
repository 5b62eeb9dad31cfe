"""An IPv4 address by DHCP, for a NIC that the host gives none: busybox's client does it.

It runs in the NIC's namespace, asks a few times and ends. What it is told goes through a script
of ours into a file, and is set by the agent, so that nothing is left when a later step fails.
The lease is not renewed.

Source: networking/udhcp/dhcpc.c of busybox, its variables for scripts.
Needs: CONFIG_PACKET
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from gcs.errors import DeadlineError, GcsError
from gcs.guest.netplan import Lease
from gcs.guest.reaper import Children

__all__ = ["request"]

#: Four questions, three seconds apart; and a moment for starting the program.
_QUESTIONS, _INTERVAL_S = 4, 3
_TIMEOUT_S = 15.0
#: Of the file that the script writes; a DHCP packet has less.
_MAX_LEASE = 4096
_SCRIPT = """#!/bin/sh
[ "$1" = bound ] && printf '%s\\n' "$ip" "${{mask:-$subnet}}" "$router" "$dns" \\
    "$search $domain" >{lease}
exit 0
"""


async def request(children: Children, ifname: str, netns: int | None) -> Lease:
    """Return what a DHCP server offers; the link must be up.

    Raises DeadlineError when none does.

    Args:
        children: Owner of the client's process.
        ifname: Name of the NIC in its namespace.
        netns: That namespace; None is the VM's own.
    """
    with (
        tempfile.TemporaryDirectory(prefix="dhcp-", dir="/run") as folder,
        _program(_SCRIPT.format(lease=f"{folder}/lease")) as script,
    ):
        await _ask(children, _command(ifname, netns, script), ifname)
        return _read_lease(folder, ifname)


@contextmanager
def _program(text: str) -> Iterator[str]:
    """Yield the path of a program in memory: nothing that can be written to lets it be run."""
    descriptor = os.memfd_create("dhcp-script")
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _read_lease(folder: str, ifname: str) -> Lease:
    try:
        with Path(folder, "lease").open(errors="replace") as file:
            return _parse(file.read(_MAX_LEASE))
    except FileNotFoundError:
        raise GcsError(f"DHCP on {ifname}: the client ended without a lease") from None


def _command(ifname: str, netns: int | None, script: str) -> list[str]:
    times = ("-t", str(_QUESTIONS), "-T", str(_INTERVAL_S))
    # In the foreground, until there is a lease or the questions are asked.
    client = ("busybox", "udhcpc", "-f", "-q", "-n", *times, "-i", ifname, "-s", script)
    if netns is None:
        return list(client)
    return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{netns}", *client]


async def _ask(children: Children, command: list[str], ifname: str) -> None:
    no_answer = f"DHCP on {ifname}: no server has given an address within"
    try:
        with trio.fail_after(_TIMEOUT_S):
            await children.check_output(command)
    except trio.TooSlowError:
        raise DeadlineError(f"{no_answer} {_TIMEOUT_S:g} s") from None
    except GcsError as error:
        if "no lease" not in str(error):
            raise
        raise DeadlineError(f"{no_answer} {_QUESTIONS * _INTERVAL_S} s") from error


def _parse(text: str) -> Lease:
    ip, mask, routers, servers, search = (text.splitlines() + [""] * 5)[:5]
    return Lease(
        ip=ip,
        prefixlen=mask,
        routers=tuple(routers.split()),
        servers=tuple(servers.split()),
        search=tuple(search.split()),
    )
