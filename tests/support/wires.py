"""NICs for an agent without a VM: ends of virtual cables whose other ends are elsewhere.

The far ends are in a namespace of their own, where the rest of the network can be played.

Needs: CAP_NET_ADMIN
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gcs.linux import netns

__all__ = ["Wires", "links_of", "open_wires"]


def _run(namespace: str, *command: str) -> str:
    done = subprocess.run(
        ("nsenter", f"--net={namespace}", *command), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def links_of(namespace: str) -> list[str]:
    """Return the names of the links in a namespace, given by a path."""
    shown = json.loads(_run(namespace, "ip", "-j", "link"))
    return sorted(str(link["ifname"]) for link in shown)


@dataclass
class Wires:
    """The far ends of all cables."""

    netns: int

    @property
    def path(self) -> str:
        """The namespace of the far ends."""
        return f"/proc/{os.getpid()}/fd/{self.netns}"

    def run(self, *command: str) -> str:
        """Run a program among the far ends; return what it prints."""
        return _run(self.path, *command)

    def plug(self, pid: int, number: int, *addresses: str) -> str:
        """Give the namespace of a process a NIC; return its MAC address.

        Args:
            pid: The process.
            number: Of the cable: its ends are called `w` and `nic` and that number.
            addresses: Of the far end.
        """
        mac = f"02:00:00:00:00:{number:02x}"
        self.run(
            *("ip", "link", "add", f"w{number}", "type", "veth"),
            *("peer", "name", f"nic{number}", "address", mac, "netns", str(pid)),
        )
        self.run("ip", "link", "set", f"w{number}", "up")
        for address in addresses:
            self.run("ip", "address", "add", address, "dev", f"w{number}", "nodad")
        return mac

    def unplug(self, number: int) -> None:
        """Take a cable away, and with it its NIC."""
        self.run("ip", "link", "delete", f"w{number}")


@contextmanager
def open_wires() -> Iterator[Wires]:
    """Make a namespace for the far ends, for the length of the block."""
    descriptor = netns.create()
    try:
        yield Wires(descriptor)
    finally:
        os.close(descriptor)  # the cables go with the namespace
