"""`gcsctl mounts` and `gcsctl stats`: what is asked of services, and what is said of it."""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from gcs.errors import CallError, DisconnectedError, GcsError, Hresult
from gcs.host.background import together
from gcs.host.connect import connect
from gcs.host.containers import Known
from gcs.host.deadline import deadline
from gcs.host.display import show_table, size_text, write_line
from gcs.host.footprint import Footprint, footprint, summed
from gcs.host.state import recorded_pids
from gcs.wire.control import ListMounts, ListMountsReply, Measure, MeasureReply
from gcs.wire.extensions import MountReport

__all__ = ["all_mounts", "show_mounts", "show_stats"]

#: A guest has a minute for each of the few questions that a service asks it for us.
_ANSWER_S = 200.0
#: Of an id, as everywhere.
_SHORT = 12
_ID = re.compile("[0-9a-f]{64}")
#: A container that is not running yet, or any more; of a pod, one that is not known any more.
_NOT_NOW = frozenset(
    {Hresult.INVALID_STATE, Hresult.SYSTEM_ALREADY_STOPPED, Hresult.SYSTEM_NOT_FOUND}
)


# -- mounts ------------------------------------------------------------------------------------

#: 128 layers and a root for each of a hundred containers.
_MOST_MOUNTS = 16_384
_MOUNT_COLUMNS = ("PATH", "KIND", "SOURCE", "TYPE", "DAX", "CACHE", "OPTIONS", "USERS")


async def show_mounts(known: Known, *, is_json: bool) -> int:
    """Write what is mounted in a container's VM; return the exit status."""
    mounts = await _mounts(known)
    if is_json:
        for each in mounts:
            write_line(msgspec.json.encode(each).decode())
    else:
        show_table(_MOUNT_COLUMNS, map(_mount_cells, mounts))
    return 0


async def _mounts(known: Known) -> Sequence[MountReport]:
    with deadline(_ANSWER_S, f"container {known.shown}: what is mounted"):
        async with connect(known.vm_folder) as service:

            async def ask(after: str) -> ListMountsReply:
                request = ListMounts(container_id=known.container_id, after=after)
                return await service.client.call(request)

            return await all_mounts(ask)


async def all_mounts(
    ask: Callable[[str], Awaitable[ListMountsReply]],
) -> Sequence[MountReport]:
    """Ask for what is mounted, part by part, until there is no more.

    Raises GcsError when a guest does not get on, or to an end: it is not to be believed.
    """
    found: list[MountReport] = []
    while True:
        after = found[-1].mount_path if found else ""
        reply = await ask(after)
        paths = [after, *(each.mount_path for each in reply.mounts)]
        if paths != sorted(set(paths)) or len(found) > _MOST_MOUNTS:
            raise GcsError(f"mounts: the guest's table has no end after {after!r}")
        found += reply.mounts
        if not (reply.is_partial and reply.mounts):
            return found


def _mount_cells(each: MountReport) -> Sequence[str]:
    return (
        _short(each.mount_path),
        each.resource_type,
        _short(each.source),
        each.filesystem or "-",
        {True: "on", False: "off", None: "-"}[each.dax],
        each.cache or "-",
        ",".join(each.options) or "-",
        " ".join(map(_short, each.users)) or "-",
    )


def _short(path: str) -> str:
    """Return a path for a table, with containers' ids as they are in lists."""
    return _ID.sub(lambda match: f"{match[0][:_SHORT]}…", path)


# -- stats -------------------------------------------------------------------------------------

_STATS_COLUMNS = (
    *("VM", "CONTAINERS", "USED / SIZE", "GUEST", "LAYERS", "THEIR SHARE", "OTHER", "ALL"),
)


class _ContainerStats(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A container, as the guest has it."""

    container_id: str
    name: str
    memory_bytes: int
    cpu_nanoseconds: int
    tasks: int


class _VmStats(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A VM, as its guest and as this machine have it."""

    vm: str
    containers: Sequence[_ContainerStats]
    #: the guest's own words
    total_bytes: int
    available_bytes: int
    host: Footprint


class _Stats(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What `stats --json` says; in the total what VMs share counts once."""

    vms: Sequence[_VmStats]
    total: Footprint


#: A container, and what its service has answered.
_Answer = tuple[Known, MeasureReply]


async def show_stats(known: Iterable[Known], *, is_json: bool) -> int:
    """Write what the VMs of containers take of memory; return the exit status.

    Those that have not started yet, and those that end meanwhile, are left out.
    """
    answers: list[_Answer] = []
    running = [each for each in known if each.record() is None]
    await together(*(partial(_ask, each, answers) for each in running))
    by_vm: dict[Path, list[_Answer]] = {}
    for answer in answers:
        by_vm.setdefault(answer[0].vm_folder, []).append(answer)
    # All at one moment, after the guests have done their work.
    found = (_vm_stats(*each) for each in sorted(by_vm.items()))
    vms = [vm for vm in found if vm is not None]
    stats = _Stats(vms=vms, total=summed([vm.host for vm in vms]))
    if is_json:
        write_line(msgspec.json.encode(stats).decode())
    else:
        show_table(_STATS_COLUMNS, [*map(_vm_cells, vms), _total_cells(stats.total)])
    return 0


async def _ask(known: Known, answers: list[_Answer]) -> None:
    try:
        with deadline(_ANSWER_S, f"container {known.shown}: its measures"):
            async with connect(known.vm_folder) as service:
                request = Measure(container_id=known.container_id)
                answers.append((known, await service.client.call(request)))
    except DisconnectedError:
        return
    except CallError as error:
        if error.result not in _NOT_NOW:
            raise


def _vm_stats(folder: Path, answers: Sequence[_Answer]) -> _VmStats | None:
    """Return what there is to know of a VM; None when it has ended meanwhile."""
    _, of_vm = answers[-1]
    files = {file for _, reply in answers for file in reply.mapped_files}
    try:
        host = footprint(recorded_pids(folder), [Path(file) for file in files])
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _VmStats(
        vm=folder.name,
        containers=[_container_stats(*each) for each in answers],
        total_bytes=of_vm.total_bytes,
        available_bytes=of_vm.available_bytes,
        host=host,
    )


def _container_stats(known: Known, reply: MeasureReply) -> _ContainerStats:
    return _ContainerStats(
        container_id=known.container_id,
        name=known.claim.name,
        memory_bytes=reply.memory_bytes,
        cpu_nanoseconds=reply.cpu_nanoseconds,
        tasks=reply.tasks,
    )


def _vm_cells(vm: _VmStats) -> Sequence[str]:
    names = (each.name or each.container_id[:_SHORT] for each in vm.containers)
    used = size_text(max(vm.total_bytes - vm.available_bytes, 0))
    return (
        *(vm.vm, " ".join(names), f"{used} / {size_text(vm.total_bytes)}"),
        *_sizes(vm.host),
    )


def _total_cells(total: Footprint) -> Sequence[str]:
    return ("total", "", "", *_sizes(total))


def _sizes(host: Footprint) -> Sequence[str]:
    sizes = (
        *(host.guest_bytes, host.layers_resident_bytes, host.layers_bytes, host.other_bytes),
        host.bytes,
    )
    return tuple(map(size_text, sizes))
