"""The process that owns one VM, from its first byte to its last.

gcsctl starts it with a connected socket, the first client, and asks it to run a container. It
makes its state folder, boots the VM, hands the ends of the container's streams to the client,
reports the exit, takes everything down and ends. It also ends, with everything in it, when
SIGTERM comes, and when the first client is gone, unless the container is detached. More clients
can connect to the socket in its folder, and start more containers if the first is one of a pod;
then it ends with the last of them.

`python -m gcs.host.service --control-fd N --vm-id ID`
"""

import argparse
import logging
import os
import signal
import socket
import sys

import trio

from gcs.errors import GcsError
from gcs.host.control import serve_control
from gcs.host.fdstream import FdStream
from gcs.host.journal import open_journal
from gcs.host.owner import Owner
from gcs.host.state import StateFolder, root_folder

__all__ = ["main"]

_log = logging.getLogger("gcs.host.service")


async def _end_on_signal(
    scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            _log.info("told to end", extra={"signal": signal.Signals(number).name})
            scope.cancel()


async def _serve(control: socket.socket, folder: StateFolder, owners: list[Owner]) -> None:
    """Serve until there is nothing left to own; the one who owns it is put into the list."""
    async with trio.open_nursery() as nursery:
        owner = Owner(folder, nursery)
        owners.append(owner)
        await nursery.start(_end_on_signal, nursery.cancel_scope)
        await nursery.start(serve_control, folder.path / "control", owner.handle)
        nursery.start_soon(owner.serve_first, FdStream(control))


def main() -> int:
    """Own a VM; return the exit status of the process."""
    parser = argparse.ArgumentParser(prog="gcs.host.service", description=main.__doc__)
    parser.add_argument("--control-fd", type=int, required=True, help="socket of the client")
    parser.add_argument("--vm-id", required=True, help="name of the state folder")
    options = parser.parse_args()
    try:
        folder = StateFolder.create(root_folder(), options.vm_id)
    except (GcsError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    # A detached service must not keep a file system busy that it was started from.
    os.chdir("/")
    control = socket.socket(fileno=options.control_fd)
    owners: list[Owner] = []
    try:
        with open_journal(folder.path / "service.log"):
            trio.run(_serve, control, folder, owners)
            return 1 if any(owner.has_failed for owner in owners) else 0
    finally:
        for owner in owners:
            owner.settle()
        if not owners:
            folder.remove()


if __name__ == "__main__":
    sys.exit(main())
