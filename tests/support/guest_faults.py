"""Make each step of an Add fail in the VM itself: a script for its own Python, with faults.py.

The handlers are the agent's, on the VM's own kernel and devices; only who calls them is not.
Its arguments are a folder of its own, not below /run, and, as JSON, kinds and settings. For
each it prints how many steps there were, all of which have failed once; it ends when one has
left anything behind.
"""

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from gcs.guest.agent import Agent
from gcs.guest.handlers import shares, storage
from gcs.guest.reaper import Children
from gcs.guest.runc import Runc
from gcs.guest.transport import VsockTransport
from gcs.linux import probe
from gcs.wire.resource import MappedDirectory, MappedVirtualDisk, MappingInfo, VPMemDevice
from tests.support import faults

_MOST = 200

Step = Callable[[Agent], Awaitable[None]]


def _state() -> list[str]:
    """Return all that an Add could leave: mounts, folders, devices, descriptors."""
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    tops = ("layers", "shares", "disks")
    folders = [str(p) for top in tops for p in Path("/run", top).glob("*")]
    devices = [path.name for path in Path("/sys/block").iterdir()]
    descriptors = str(len(list(Path("/proc/self/fd").iterdir())))
    # The first of a mount's numbers is never used twice.
    mounts = [line.partition(" ")[2] for line in table]
    return [*sorted(mounts), *sorted(folders), *sorted(devices), descriptors]


def _calls(kind: str, settings: dict[str, object]) -> tuple[Step, Step]:
    """Return what adds and what removes it."""
    if kind == "encrypted":
        return _encrypted(int(str(settings["lun"])), str(settings["node"]))
    if kind == "share":
        share = MappedDirectory(
            mount_path="/run/shares/faulty",
            port=int(str(settings["port"])),
            share_name=str(settings["name"]),
        )
        return (
            lambda agent: shares.add_share(agent, share),
            lambda agent: shares.remove_share(agent, share),
        )
    layer = VPMemDevice(
        device_number=int(str(settings["device"])),
        mount_path="/run/layers/faulty",
        mapping_info=MappingInfo(
            device_offset_in_bytes=int(str(settings["offset"])),
            device_size_in_bytes=int(str(settings["size"])),
        ),
        root_digest=str(settings["digest"]),
    )
    return (
        lambda agent: storage.add_pmem(agent, layer),
        lambda agent: storage.remove_pmem(agent, layer),
    )


def _encrypted(lun: int, node: str) -> tuple[Step, Step]:
    """Return what encrypts a disk, and what makes it blank again."""
    disk = MappedVirtualDisk(
        lun=lun, mount_path="/run/disks/faulty", ensure_filesystem=True, encrypted=True
    )

    async def remove(agent: Agent) -> None:
        await storage.remove_disk(agent, disk)
        probe.blank(node)

    return lambda agent: storage.add_disk(agent, disk), remove


async def _go_through(agent: Agent, made: faults.Faults, add: Step, remove: Step) -> int:
    before, steps = _state(), list[str]()
    for number in range(_MOST):
        made.arm(number)
        try:
            await add(agent)
        except OSError as error:
            steps = made.disarm()
            said = "; ".join((str(error), *getattr(error, "__notes__", ())))
            assert faults.INJECTED in said, said
            assert "undoing it" not in said, said
            assert _state() == before, (steps, before, _state())
        else:
            steps = made.disarm()
            break
    else:
        raise AssertionError(f"more than {_MOST} steps: {steps}")
    await remove(agent)
    assert _state() == before
    return len(steps)


async def main() -> None:
    """Go through everything that is asked for."""
    folder = Path(sys.argv[1])
    faults.install(str(folder))
    children, counts = Children(), []
    async with trio.open_nursery() as nursery:
        agent = Agent(VsockTransport(), children, Runc(children), nursery)
        for kind, settings in json.loads(sys.argv[2]):
            add, remove = _calls(kind, settings)
            # Once without a fault: what is opened for good is opened then.
            await add(agent)
            await remove(agent)
            counts.append(await _go_through(agent, faults.Faults(folder), add, remove))
    print(json.dumps(counts))  # noqa: T201 - its result


if __name__ == "__main__":
    trio.run(main)
