"""A NIC by the identity that the host states, and its way into a namespace and back.

The VM's own namespace is the one that the agent runs in; a NIC starts there, and returns there
when it is no longer used.

Source: Documentation/ABI/testing/sysfs-class-net.
Needs: CONFIG_VIRTIO_NET
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from gcs.linux import link, netns, pci

__all__ = [
    "Attached",
    "attach",
    "change",
    "create_namespace",
    "detach",
    "mtu_of",
    "on_pci",
    "with_mac",
]

T = TypeVar("T")

_LOOPBACK = "lo"
#: Of a namespace; a VM has 32 slots for each of its PCI buses.
_MAX_NAMES = 256


@dataclass(frozen=True, slots=True)
class Attached:
    """A NIC that is in use."""

    #: in its namespace
    index: int
    name: str
    #: the MTU and the MAC address that it came with
    mtu: int
    mac: str
    #: as it was called in the VM's own namespace
    old_name: str
    config: link.Config


# -- identity --------------------------------------------------------------------------------


def with_mac(mac: str, sysfs: Path = pci.SYSFS) -> str | None:
    """Return the name of the NIC that has an address, None if there is none.

    Raises ENOTUNIQ when there are two: the host has to name them by something else.
    """
    found = [
        folder.name
        for folder in sorted((sysfs / "class/net").iterdir())
        if folder.name != _LOOPBACK and _read(folder / "address") == mac
    ]
    if len(found) > 1:
        raise OSError(errno.ENOTUNIQ, f"NICs with MAC address {mac}: {', '.join(found)}")
    return found[0] if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # it has gone meanwhile
        return ""


def on_pci(address: str, sysfs: Path = pci.SYSFS) -> str | None:
    """Return the name of the NIC that is a PCI device, None while there is none."""
    device = sysfs / "bus/pci/devices" / address
    # A virtio device is a child of the PCI device.
    paths = [*device.glob("net/*"), *device.glob("virtio*/net/*")]
    names = sorted(path.name for path in paths)
    if len(names) > 1:
        raise OSError(errno.ENOTUNIQ, f"NICs of PCI device {address}: {', '.join(names)}")
    return names[0] if names else None


def mtu_of(name: str, sysfs: Path = pci.SYSFS) -> int:
    """Return the MTU of a NIC in the VM's own namespace."""
    return int((sysfs / "class/net" / name / "mtu").read_text())


# -- use -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Visit:
    """Sockets in the VM's own namespace and in another, of one thread that is in the other."""

    vm: int
    outside: link.Session
    inside: link.Session


def _visit(target: int | None, work: Callable[[_Visit], T]) -> T:
    """Do some work in a namespace; None is the VM's own."""
    vm = netns.of_process(os.getpid())

    def enter_and_work() -> T:
        with link.open_session() as outside:
            if target is None:
                return work(_Visit(vm, outside, outside))
            netns.enter(target)
            with link.open_session() as inside:
                return work(_Visit(vm, outside, inside))

    try:
        return netns.run(vm, enter_and_work)
    finally:
        os.close(vm)


def create_namespace() -> int:
    """Return a descriptor of a new namespace whose loopback is up."""
    with ExitStack() as undo:
        target = netns.create()
        undo.callback(os.close, target)
        _visit(target, lambda visit: visit.inside.set_loopback_up())
        undo.pop_all()
    return target


def attach(name: str, target: int | None, config: link.Config) -> Attached:
    """Move a NIC of the VM into a namespace, as the next ethN, and set it up there.

    For None it stays where it is, and keeps its name. When this fails it is as it was before,
    but down.
    """

    def work(visit: _Visit) -> Attached:
        found = moved = visit.outside.find(name)
        if target is not None:
            moved = _move(visit.outside, found, visit.inside, target, _names())
        attached = Attached(moved.index, moved.name, found.mtu, found.mac, name, config)
        with _undoing(lambda: _withdraw(visit, attached, target)):
            visit.inside.apply(moved, link.Config(), config)
        return attached

    return _visit(target, work)


def _names(first: str = "eth0") -> Iterator[str]:
    """Yield what a NIC may be called, the best name first."""
    yield first
    yield from (name for n in range(_MAX_NAMES) if (name := f"eth{n}") != first)


def _move(
    source: link.Session, nic: link.Link, to: link.Session, netns_: int, names: Iterator[str]
) -> link.Link:
    """Move a NIC into another namespace, under the first of the names that is free there.

    Whether it is free is for the kernel to say when it moves it: others may be at work there,
    and root in a container can make links of any name. But when it says no it has often moved
    the NIC, and warns of that in its log: so names that are known to be taken are passed over.
    Raises EEXIST when none is free.
    """
    for name in names:
        if _is_taken(to, name):
            continue
        try:
            source.move(nic, netns_, name)
        except FileExistsError:
            if source.at(nic.index) is None:  # moved, with the name that it had
                return _rename(to, to.find(nic.name), names)
        else:
            return to.find(name)
    raise OSError(errno.EEXIST, f"no name is free for link {nic.name}")


def _is_taken(session: link.Session, name: str) -> bool:
    try:
        session.find(name)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return False
    return True


def _rename(session: link.Session, nic: link.Link, names: Iterator[str]) -> link.Link:
    """Call a NIC by the first of the names that is free, which may be the one that it has."""
    for name in names:
        with suppress(FileExistsError):
            session.rename(nic, name)
            return replace(nic, name=name)
    return nic


def change(attached: Attached, target: int | None, config: link.Config) -> Attached:
    """Set a NIC up in another way. When this fails it is as it was before."""

    def work(visit: _Visit) -> Attached:
        found = visit.inside.at(attached.index)
        if found is None:
            raise OSError(errno.ENODEV, f"NIC {attached.name} is no longer there")
        before = attached.config
        with _undoing(lambda: visit.inside.apply(found, config, before, is_undo=True)):
            visit.inside.apply(found, before, config)
        return replace(attached, config=config)

    return _visit(target, work)


def detach(attached: Attached, target: int | None) -> str:
    """Take all that was set off a NIC, and move it back; one that was unplugged is fine.

    Returns its name in the VM's own namespace, "" if it was unplugged.
    """
    return _visit(target, lambda visit: _withdraw(visit, attached, target))


@contextmanager
def _undoing(undo: Callable[[], object]) -> Iterator[None]:
    """Undo what the block has done so far when it fails; a failure of that is a note."""
    try:
        yield
    except OSError as error:
        try:
            undo()
        except OSError as second:
            error.add_note(f"and it can't be undone: {second}")
        raise


def _withdraw(visit: _Visit, attached: Attached, target: int | None) -> str:
    visit.inside.remove_rules(attached.config.rules)
    found = visit.inside.at(attached.index)
    if found is None:
        return ""
    if target is None:
        visit.inside.apply(found, attached.config, link.Config(mtu=attached.mtu))
        visit.inside.set_down(found)
        _restore_mac(visit.inside, found, attached)
        return found.name
    if found.mtu != attached.mtu:
        visit.inside.set_mtu(found, attached.mtu)
    names = _names(attached.old_name)
    returned = _move(visit.inside, found, visit.outside, visit.vm, names)
    _restore_mac(visit.outside, returned, attached)
    return returned.name


def _restore_mac(session: link.Session, nic: link.Link, attached: Attached) -> None:
    """Let the host find a NIC again whose address was changed by root in a container."""
    if nic.mac != attached.mac:
        session.set_mac(nic, attached.mac)
