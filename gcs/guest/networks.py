"""The table of network namespaces, and of the adapters in each.

State only, but that a namespace which is forgotten is closed. It is the host's, known by its
id, from the first adapter or container that names it until the last of both is gone. It is the
kernel's from its first adapter on, or from the container that was made in it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from gcs.errors import InvalidArgumentError, WrongStateError
from gcs.guest.dhcp import Client
from gcs.guest.netplan import Dns, Lease, Plan, merge
from gcs.guest.spec import files
from gcs.linux.nic import Attached
from gcs.wire.resource import NetworkAdapter

__all__ = ["Adapter", "Namespace", "Networks", "key_of"]


@dataclass(slots=True)
class Adapter:
    """One NIC, from its Add to its Remove."""

    key: str
    #: as the host wants it
    asked: Plan
    #: with what DHCP had to add
    plan: Plan
    #: how it was found
    by_mac: bool = False
    #: whether its namespace had no other when it came
    is_first: bool = True
    #: routing table of its own, if it has one
    table: int | None = None
    attached: Attached | None = None
    #: who asks for its address, if the host gives none
    client: Client | None = None
    #: what that one has at the moment
    lease: Lease | None = None
    #: False while it is being added, changed or removed
    settled: bool = False


@dataclass(slots=True)
class Namespace:
    """A network namespace of the host's."""

    namespace_id: str
    #: the kernel's, held open; None as long as there is none, or it is the VM's own
    netns: int | None = None
    #: whether its adapters stay in the VM's own namespace
    is_vm: bool = False
    #: container that is or will be in it, "" before that
    owner: str = ""
    #: folder of that container's resolv.conf
    root: str = ""
    #: in the order in which they were added
    adapters: list[Adapter] = field(default_factory=list)
    #: held while links are moved in or out
    lock: trio.Lock = field(default_factory=trio.Lock)

    def resolv_conf(self, *also: Dns) -> str:
        """Return what its adapters make of resolv.conf. Raises InvalidArgumentError."""
        dns = merge([*(adapter.plan.dns for adapter in self.adapters), *also])
        return files.resolv_conf(dns.search, dns.servers)

    def close(self) -> None:
        """Let go of the kernel's namespace."""
        netns, self.netns = self.netns, None
        if netns is not None:
            os.close(netns)

    def find(self, key: str) -> Adapter | None:
        """Return the adapter of that key, None if there is none."""
        return next((adapter for adapter in self.adapters if adapter.key == key), None)


def key_of(settings: NetworkAdapter) -> str:
    """Return what tells an adapter from others. Raises InvalidArgumentError."""
    key = settings.adapter_id or settings.mac_address or settings.pci_address
    if not key:
        raise InvalidArgumentError("Network: neither ID nor MacAddress nor PciAddress is given")
    return key.lower()


@dataclass(slots=True)
class Networks:
    """All namespaces, by id in lower case."""

    table: dict[str, Namespace] = field(default_factory=dict)

    def find(self, settings: NetworkAdapter) -> tuple[Namespace, Adapter] | None:
        """Return the adapter that settings name, None if there is none.

        Hosts leave out the namespace's id when they remove one; adapters' ids are unique.
        """
        key, wanted = key_of(settings), settings.namespace_id.lower()
        for namespace in self.table.values():
            if wanted in ("", namespace.namespace_id):
                adapter = namespace.find(key)
                if adapter is not None:
                    return namespace, adapter
        return None

    def has(self, settings: NetworkAdapter, plan: Plan) -> bool:
        """Return whether an adapter is in its namespace already, and set up in this way."""
        namespace = self.table.get(settings.namespace_id.lower())
        adapter = None if namespace is None else namespace.find(key_of(settings))
        return adapter is not None and adapter.settled and adapter.asked == plan

    @contextmanager
    def reserve(
        self, settings: NetworkAdapter, plan: Plan, *, by_mac: bool
    ) -> Iterator[tuple[Namespace, Adapter]]:
        """Hold an adapter's place while it is added; it stays only on success.

        Raises WrongStateError, and InvalidArgumentError when it brings too many domains.
        """
        adapter = Adapter(key_of(settings), plan, plan, by_mac)
        self._refuse_double(adapter)
        namespace = self.open(settings.namespace_id)
        try:
            namespace.resolv_conf(plan.dns)
            namespace.adapters.append(adapter)
            yield namespace, adapter
        except BaseException:
            if adapter in namespace.adapters:
                namespace.adapters.remove(adapter)
            self.forget_unused(namespace)
            raise
        adapter.settled = True

    def _refuse_double(self, new: Adapter) -> None:
        """Raise if the NIC is in use, or could not be told from one that is."""
        for namespace in self.table.values():
            for old in namespace.adapters:
                if old.key == new.key:
                    raise WrongStateError(
                        f"network adapter {old.key} is in namespace"
                        f" {namespace.namespace_id!r} already, or set up in another way"
                    )
                if new.by_mac and old.by_mac and old.plan.mac == new.plan.mac:
                    raise WrongStateError(
                        f"network adapter {new.key}: MAC address {new.plan.mac} is that of"
                        f" adapter {old.key}"
                    )

    @contextmanager
    def changing(self, adapter: Adapter) -> Iterator[None]:
        """Hold an adapter while it is changed or removed. Raises WrongStateError."""
        if not adapter.settled:
            raise WrongStateError(f"network adapter {adapter.key} is being changed")
        adapter.settled = False
        try:
            yield
        finally:
            adapter.settled = True

    def open(self, namespace_id: str) -> Namespace:
        """Return a namespace, a new one if it is not known."""
        name = namespace_id.lower()
        return self.table.setdefault(name, Namespace(name))

    def forget_unused(self, namespace: Namespace) -> None:
        """Forget a namespace that has neither adapters nor a container."""
        if namespace.adapters or namespace.owner or not self.is_current(namespace):
            return
        del self.table[namespace.namespace_id]
        namespace.close()

    def is_current(self, namespace: Namespace) -> bool:
        """Return whether a namespace has not been forgotten since it was looked up."""
        return self.table.get(namespace.namespace_id) is namespace

    def tables(self, namespace: Namespace) -> set[int]:
        """Return the routing tables that are in use where a namespace's adapters are."""
        shared = [one for one in self.table.values() if one.is_vm] if namespace.is_vm else []
        everywhere = (namespace, *shared)
        return {a.table for one in everywhere for a in one.adapters if a.table is not None}
