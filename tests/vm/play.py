"""A VM whose host notes what it asks for, and what one scene leaves for the next."""

import re
from dataclasses import dataclass, field

import trio

from gcs.errors import CallError
from gcs.host.bridge import modify
from gcs.host.container import Container
from gcs.host.process import Process, Streams
from gcs.host.spec import Command, exec_process
from gcs.wire import messages
from gcs.wire.container_storage import Scratch, ScratchKind
from gcs.wire.control import StreamName
from gcs.wire.properties import PropertyType
from gcs.wire.resource import (
    RESOURCES,
    ModificationRequest,
    RequestType,
    ResourceSettings,
    ResourceType,
)
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.support.scenario import refused
from tests.vm.test_start import Started

__all__ = ["GUID", "KINDS", "MIB", "PATH", "SCRATCH", "Play", "Tree", "changed"]

MIB = 1024 * 1024
PATH = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
GUID = "5d2f8a3c-0f6b-4c0a-9a52-3f1d7f2f3b11"
KINDS = {record: ResourceType(name) for name, record in RESOURCES.items()}
_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
SCRATCH = Scratch(kind=ScratchKind.PMEM, size_mib=64)
_STDIN, _STDOUT, _STDERR = StreamName.STDIN, StreamName.STDOUT, StreamName.STDERR

Tree = dict[str, object]


@dataclass
class Play(Started):
    """The VM, and what one scene leaves for the next."""

    #: containers by their part, and what their first processes were made of
    cast: dict[str, Container] = field(default_factory=dict)
    processes: dict[str, Tree] = field(default_factory=dict)
    #: the streams of the workload's terminal: without them it would end
    terminal: dict[StreamName, trio.SocketStream] = field(default_factory=dict)

    async def change(self, action: RequestType, settings: ResourceSettings) -> None:
        """Change one resource of the VM. Raises CallError."""
        await modify(self.client, action, KINDS[type(settings)], settings)

    async def refused(self, action: RequestType, settings: ResourceSettings) -> CallError:
        """Ask for a change of the VM that must be refused."""
        return await refused(self.client, changed(NULL_CONTAINER_ID, action, settings))

    async def shell(self, script: str) -> str:
        """Run a script in the VM; return what it printed."""
        return (await self.in_vm("sh", "-c", f"exec 2>&1; {script}")).strip()

    async def pci_address(self, path: str) -> str:
        """Return the PCI address of a device in sysfs."""
        found: str = _PCI.findall(await self.shell(f"readlink -f {path}"))[-1]
        return found

    async def executed(
        self, part: str, wish: Command, **given: object
    ) -> tuple[Process, Streams]:
        """Start one more process of a container, with all the streams that it can have."""
        process = {**exec_process(self.processes[part], wish, None, ""), **given}
        names = (_STDIN, _STDOUT) if wish.terminal else (_STDIN, _STDOUT, _STDERR)
        return await self.cast[part].execute(self.ports, names, process)

    async def properties_of(self, container_id: str) -> None:
        """Ask for each property by itself."""
        for kind in PropertyType:
            found = await self.properties(container_id, kind)
            is_vms = kind in (PropertyType.MEMORY, PropertyType.LOAD)
            members = (found.process_list, found.lcow_metrics, found.memory, found.load)
            expected = 0 if is_vms and container_id != NULL_CONTAINER_ID else 1
            assert len([each for each in members if each]) == expected, (kind, found)


def changed(
    container_id: str, action: RequestType, settings: ResourceSettings
) -> messages.ModifySettings:
    """Return the request that changes a resource of the VM or of a container."""
    request = ModificationRequest(
        request_type=action, resource_type=KINDS[type(settings)], settings=settings
    )
    return messages.ModifySettings(container_id=container_id, request=request)
