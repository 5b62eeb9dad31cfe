"""The process that owns one VM, from its first byte to its last.

gcsctl starts it with a connected socket, the first client, and asks it to run a container. It
makes its state folder, boots the VM, hands the ends of the container's streams to the client,
reports the exit, takes everything down and ends. It also ends, with everything in it, when
SIGTERM comes, and when the first client is gone, unless the container is detached. More clients
can connect to the socket in its folder.

`python -m gcs.host.service --control-fd N --vm-id ID`
"""

import argparse
import logging
import os
import secrets
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
from gcs.wire.control import DescribeReply

__all__ = ["main"]

_log = logging.getLogger("gcs.host.service")

#: A container's id has 64 hexadecimal digits, as Docker's; the VM's are the first of them.
_ID_BYTES = 32


async def _end_on_signal(
    scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            _log.info("told to end", extra={"signal": signal.Signals(number).name})
            scope.cancel()


async def _serve(
    control: socket.socket, folder: StateFolder, container_id: str
) -> tuple[bool, DescribeReply | None]:
    """Serve until there is nothing left to own.

    Returns whether all went well, and what is to be left of the container.
    """
    async with trio.open_nursery() as nursery:
        owner = Owner(folder, container_id, nursery)
        await nursery.start(_end_on_signal, nursery.cancel_scope)
        await nursery.start(serve_control, folder.path / "control", owner.handle)
        nursery.start_soon(owner.serve_first, FdStream(control))
    return not owner.has_failed, owner.record()


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
    container_id = options.vm_id + secrets.token_hex(_ID_BYTES - len(options.vm_id) // 2)
    record = None
    try:
        with open_journal(folder.path / "service.log"):
            is_well, record = trio.run(_serve, control, folder, container_id)
            return 0 if is_well else 1
    finally:
        if record is None:
            folder.remove()
        else:
            folder.retire(record)


if __name__ == "__main__":
    sys.exit(main())
