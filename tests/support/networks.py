"""Network adapters of an agent under test: requests for them, and looks into a pod."""

from dataclasses import dataclass

import trio.testing
from msgspec.structs import replace

from gcs.guest.spec import annotations
from gcs.host.client import Client
from gcs.wire.messages import (
    DeleteContainerState,
    ModifySettings,
    ProcessParameters,
    SignalProcess,
)
from gcs.wire.resource import (
    IPConfig,
    ModificationRequest,
    NetworkAdapter,
    NetworkRoute,
    RequestType,
)
from gcs.wire.schema import NULL_CONTAINER_ID
from tests.support.agent import VM, AgentHost, Streams, vm_process, wait
from tests.support.wires import Wires, links_of

__all__ = [
    "GUID",
    "Pod",
    "adapter",
    "change",
    "gateway",
    "in_vm",
    "make_pod",
    "own_links",
    "plug",
]

#: of the host's namespace
GUID = "4F34A8C8-6D4B-4B6C-9E6A-0D5C5B3F9A11"


def gateway(number: int) -> tuple[str, str]:
    """Return the addresses of a cable's far end."""
    return f"10.0.{number}.1/24", f"fd00:{number}::1/64"


def adapter(number: int, namespace: str = GUID, **given: object) -> NetworkAdapter:
    """Return the settings of the NIC on a cable: two addresses, and routes over its far end."""
    settings = NetworkAdapter(
        namespace_id=namespace,
        adapter_id=f"A{number}",
        mac_address=f"02-00-00-00-00-{number:02X}",
        ip_configs=(
            IPConfig(ip_address=f"10.0.{number}.2", prefix_length=24),
            IPConfig(ip_address=f"fd00:{number}::2", prefix_length=64),
        ),
        routes=(
            NetworkRoute(
                next_hop=f"10.0.{number}.1", destination_prefix=f"10.1{number}.0.0/16"
            ),
        ),
    )
    return replace(settings, **given)


def change(settings: NetworkAdapter, kind: RequestType = RequestType.ADD) -> ModifySettings:
    """Return the request that adds, changes or removes an adapter."""
    return ModifySettings(
        container_id=NULL_CONTAINER_ID,
        request=ModificationRequest(
            request_type=kind, resource_type="Network", settings=settings
        ),
    )


def own_links(host: AgentHost) -> list[str]:
    """Return the links in the namespace that stands for the VM's own, but loopback."""
    # unshare is there itself; what it started is in a pid namespace as well.
    found = links_of(f"/proc/{host.process.pid}/ns/net")
    return [name for name in found if name != "lo"]


def plug(host: AgentHost, wires: Wires, *numbers: int) -> None:
    """Plug cables into the VM, whose far ends answer."""
    for number in numbers:
        wires.plug(host.process.pid, number, *gateway(number))


async def in_vm(host: AgentHost, client: Client, *argv: str) -> str:
    """Return what a program of the VM prints; it must succeed."""
    streams = Streams()
    pid = await host.execute(client, VM, streams, vm_process(*argv, PATH="/usr/bin:/bin:/sbin"))
    assert await wait(client, VM, pid) == 0, bytes(streams.stderr)
    await trio.testing.wait_all_tasks_blocked(0.05)
    return streams.stdout.decode()


@dataclass
class Pod:
    """A running container, looked at from inside as root."""

    host: AgentHost
    client: Client
    container_id: str
    pid: int

    async def run(self, *argv: str) -> tuple[int, str]:
        """Run a program of busybox in it; return its exit status and what it printed."""
        streams = Streams()
        process: dict[str, object] = {
            "cwd": "/",
            "args": ["/bin/busybox", *argv],
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": {
                kind: ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"]
                for kind in ("bounding", "effective", "permitted")
            },
        }
        parameters = ProcessParameters(oci_process=process)
        pid = await self.host.execute(self.client, self.container_id, streams, parameters)
        status = await wait(self.client, self.container_id, pid)
        await trio.testing.wait_all_tasks_blocked(0.05)
        return status, streams.stdout.decode() + streams.stderr.decode()

    async def output(self, *argv: str) -> str:
        """Return what a program prints; it must succeed."""
        status, text = await self.run(*argv)
        assert status == 0, text
        return text

    async def links(self) -> list[str]:
        """Return its links but loopback."""
        text = await self.output("ip", "-o", "link")
        names = [line.split(":")[1].strip().partition("@")[0] for line in text.splitlines()]
        return [name for name in names if name != "lo"]

    async def reaches(self, address: str) -> bool:
        """Return whether an address answers a ping; the second one may take its time."""
        for seconds in ("2", "8"):
            status, _ = await self.run("ping", "-c", "1", "-W", seconds, address)
            if status == 0:
                return True
        return False

    async def remove(self) -> None:
        """Kill and delete it."""
        kill = SignalProcess(container_id=self.container_id, process_id=self.pid)
        await self.client.call(kill)
        await wait(self.client, self.container_id, self.pid)
        await self.client.call(DeleteContainerState(container_id=self.container_id))


async def make_pod(
    host: AgentHost,
    client: Client,
    container_id: str = "p",
    namespace: str = GUID,
    joins: str = "",
    **given: str,
) -> Pod:
    """Start a sandbox, or a workload of the pod that it joins, that does nothing."""
    spec = host.spec("sleep", "1000")
    marks = {annotations.CONTAINER_TYPE: "container" if joins else "sandbox", **given}
    if joins:
        marks[annotations.SANDBOX_ID] = joins
    spec["annotations"] = marks
    spec["windows"] = {"network": {"networkNamespace": namespace}}
    await client.call(host.create_request(container_id, spec))
    pid = await host.execute(client, container_id, Streams())
    return Pod(host, client, container_id, pid)
