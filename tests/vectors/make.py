"""Write the golden frames: `python -m tests.vectors.make`.

The frames are made from plain maps, and not with the codec that they are held against. They
change only with the protocol.
Members stand in the order in which the agent writes them: those that all messages have first,
`Result` last when it is 0.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.vectors.frames import Document, Members, Vector

__all__ = ["BRIDGE", "FOLDER", "SERVICE", "text_of"]

FOLDER = Path(__file__).parent

ACTIVITY = "5eed0000-0000-4000-8000-00000000000a"
NULL = "00000000-0000-0000-0000-000000000000"

#: Kind and category of the type words; the number goes to bits 19–8, the version is 1.
_REQUEST, _REPLY, _NOTIFICATION = 0x10000001, 0x20000001, 0x30000001
_BRIDGE, _SERVICE, _EXTENSION = 0x00100000, 0x0F100000, 0x0F200000


@dataclass
class Collection:
    """The vectors of one catalogue; ids count up with the requests."""

    category: int
    #: members that every request begins with
    base: Members
    vectors: list[Vector] = field(default_factory=list)
    next_id: int = 0

    def call(
        self,
        number: int,
        name: str,
        meaning: str,
        request: Members,
        reply: Members | None = None,
        *,
        base: Members | None = None,
        category: int | None = None,
    ) -> None:
        """Add a request and the reply to it."""
        code = (self.category if category is None else category) | number << 8
        word = _REQUEST | code
        start = self.base if base is None else base
        request_id, self.next_id = self.next_id, self.next_id + 1
        self.vectors.append(Vector(name, meaning, word, request_id, {**start, **request}))
        echo = {"ActivityId": ACTIVITY} if "ActivityId" in start else {}
        members = {**echo, **(reply or {}), "Result": 0}
        self.vectors.append(
            Vector(
                f"{name}.reply",
                f"success: {meaning}",
                _REPLY | code,
                request_id,
                members,
                name,
            )
        )


def _settings(resource: str, settings: Members, kind: str = "") -> Members:
    asked = {"RequestType": kind} if kind else {}
    return {"Request": {**asked, "ResourceType": resource, "Settings": settings}}


def _add_containers(bridge: Collection) -> None:
    spec: Members = {
        "ociVersion": "1.2.0",
        "process": {"args": ["/bin/sh", "-c", 'echo "<&>" ü'], "terminal": False},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "pid"}], "resources": {"memory": {"limit": 1 << 33}}},
    }
    config = Document(
        SchemaVersion={"Major": 2, "Minor": 1},
        OciBundlePath="/run/gcs/c/c1",
        OciSpecification=spec,
        ScratchDirPath="/run/scratch/c1",
    )
    bridge.call(
        *(1, "Create", "create container c1"),
        {"ContainerConfig": config},
        {"SelectedProtocolVersion": 0},
    )
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    bridge.call(2, "Start", "acknowledged; with a trace context", {"Otsc": trace})
    bridge.call(3, "ShutdownGraceful", "SIGTERM to the init of c1", {})
    bridge.call(4, "ShutdownForced", "SIGKILL to the init of c1", {})
    bridge.call(13, "DeleteContainerState", "forget c1", {})
    error = {
        "Result": 0xC037010E - (1 << 32),
        "ActivityId": ACTIVITY,
        "ErrorMessage": "container c1 does not exist",
        "ErrorRecords": [
            {
                "Result": 0xC037010E - (1 << 32),
                "Message": "container c1 does not exist",
                "ModuleName": "gcs",
                "FileName": "",
                "Line": 0xFFFFFFFF,
            }
        ],
    }
    deletion = bridge.vectors[-2]
    word = _REPLY | _BRIDGE | 13 << 8
    meaning = "an error: there is no container c1"
    bridge.vectors.append(
        Vector("error.reply", meaning, word, deletion.message_id, error, deletion.name)
    )


def _add_processes(bridge: Collection) -> None:
    vm: Members = {"ContainerId": NULL, "ActivityId": ACTIVITY}
    bridge.call(
        *(5, "ExecuteProcess", "start the init of c1, its output to two ports"),
        {
            "Settings": {
                "ProcessParameters": Document(CreateStdOutPipe=True, CreateStdErrPipe=True),
                "VsockStdioRelaySettings": {"StdOut": 0x40000001, "StdErr": 0x40000002},
            }
        },
        {"ProcessId": 300},
    )
    bridge.call(
        *(5, "ExecuteProcess.exec", "run one more process in c1, without streams"),
        {
            "Settings": {
                "ProcessParameters": Document(OciProcess={"args": ["ps"], "cwd": "/"}),
            }
        },
        {"ProcessId": 4_194_304},
    )
    bridge.call(
        *(5, "ExecuteProcess.vm", "run a process of the VM itself, with a port for stdin"),
        {
            "Settings": {
                "ProcessParameters": Document(
                    CommandArgs=["ls", "-l"],
                    WorkingDirectory="/",
                    Environment={"PATH": "/bin", "path": "kept"},
                    CreateStdInPipe=True,
                    CreateInUtilityVM=True,
                ),
                "VsockStdioRelaySettings": {"StdIn": 0x40000003},
            }
        },
        {"ProcessId": 23},
        base=vm,
    )
    bridge.call(
        *(6, "WaitForProcess", "wait without limit; it was killed by signal 9"),
        {"ProcessId": 300, "TimeoutInMs": 0xFFFFFFFF},
        {"ExitCode": 137},
    )
    bridge.call(
        *(7, "SignalProcess", "SIGUSR1 to process 300 of c1"),
        {"ProcessId": 300, "Options": {"Signal": 10}},
    )
    bridge.call(
        *(8, "ResizeConsole", "24 rows, 80 columns"),
        {"ProcessId": 300, "Height": 24, "Width": 80},
    )


def _add_properties_and_settings(bridge: Collection) -> None:
    vm: Members = {"ContainerId": NULL, "ActivityId": ACTIVITY}
    bridge.call(
        *(9, "GetProperties", "the processes of c1: 300 and 301"),
        {"Query": Document(PropertyTypes=["ProcessList"])},
        {"Properties": Document(ProcessList=[{"ProcessId": 300}, {"ProcessId": 301}])},
    )
    bridge.call(
        *(10, "ModifySettings.VPMemDevice", "mount the layer on device 3"),
        _settings(
            "VPMemDevice",
            {
                "DeviceNumber": 3,
                "MountPath": "/run/layers/p3",
                "MappingInfo": {"DeviceOffsetInBytes": 4096, "DeviceSizeInBytes": 1 << 40},
                "PciAddress": "0000:03:00.0",
            },
        ),
        base=vm,
    )
    bridge.call(
        *(
            10,
            "ModifySettings.MappedVirtualDisk",
            "mount disk 0:1, with a file system if blank",
        ),
        _settings(
            "MappedVirtualDisk",
            {
                "MountPath": "/run/scratch",
                "Lun": 1,
                "EnsureFilesystem": True,
                "Filesystem": "ext4",
            },
        ),
        base=vm,
    )
    bridge.call(
        *(10, "ModifySettings.VPMemDevice.scratch", "mount device 8 to be written"),
        _settings(
            "VPMemDevice",
            {"DeviceNumber": 8, "MountPath": "/run/scratch", "Writable": True},
        ),
        base=vm,
    )
    bridge.call(
        *(10, "ModifySettings.TemporaryFilesystem", "64 MiB in memory"),
        _settings("TemporaryFilesystem", {"MountPath": "/run/t", "SizeInBytes": 1 << 26}),
        base=vm,
    )
    bridge.call(
        *(10, "ModifySettings.MappedDirectory", "mount share 7 of port 564, read-only"),
        _settings(
            "MappedDirectory",
            {
                "MountPath": "/run/shares/0",
                "Port": 564,
                "ShareName": "7",
                "ReadOnly": True,
                "Cache": "mmap",
            },
        ),
        base=vm,
    )
    bridge.call(
        *(10, "ModifySettings.SCSIDevice", "let go of disk 1:255"),
        _settings("SCSIDevice", {"Controller": 1, "Lun": 255}, "Remove"),
        base=vm,
    )
    bridge.call(
        *(10, "ModifySettings.CombinedLayers", "an overlay of two layers, the top one first"),
        _settings(
            "CombinedLayers",
            {
                "ContainerID": "c1",
                "ContainerRootPath": "/run/gcs/c/c1/rootfs",
                "Layers": [{"Path": "/run/layers/p1"}, {"Path": "/run/layers/p0"}],
                "ScratchPath": "/run/scratch/c1",
            },
        ),
        base=vm,
    )
    bridge.call(
        *(12, "DumpStacks", "the stacks of the agent"),
        {},
        {"GuestStacks": "thread 1\n\tmain\n"},
        base=vm,
    )


def _add_statistics_and_limits(bridge: Collection) -> None:
    vm: Members = {"ContainerId": NULL, "ActivityId": ACTIVITY}
    metrics: Members = {
        "pids": {"current": 2, "limit": (1 << 64) - 1},
        "cpu": {"usage": {"total": 5000, "user": 5000}},
        "memory": {
            "rss": 4096,
            "total_rss": 4096,
            "usage": {"limit": 1 << 26, "usage": 8192, "failcnt": 1},
        },
        "blkio": {
            "io_service_bytes_recursive": [
                {"op": "Read", "device": "/dev/sda", "major": 8, "value": 512}
            ]
        },
        "network": [{"name": "eth0", "rx_bytes": 60, "rx_packets": 1}],
        "memory_oom_control": {"oom_kill": 1},
    }
    bridge.call(
        *(9, "GetProperties.statistics", "what c1 uses; a process of it was killed"),
        {"Query": Document(PropertyTypes=["Statistics"])},
        {"Properties": Document(LCOWMetrics=metrics)},
    )
    init = {
        "ProcessId": 1,
        "ImageName": "init",
        "CreateTimestamp": "2026-01-02T03:04:05+00:00",
        "KernelTime100ns": 100_000,
        "MemoryWorkingSetPrivateBytes": 4096,
    }
    bridge.call(
        *(9, "GetProperties.vm", "processes, memory and load of the VM itself"),
        {"Query": Document(PropertyTypes=["ProcessList", "Memory", "Load"])},
        {
            "Properties": Document(
                ProcessList=[init],
                Memory={"TotalBytes": 1 << 28, "AvailableBytes": 4096},
                Load={"OneMinute": 25, "Processors": 2},
            )
        },
        base=vm,
    )
    bridge.call(
        *(10, "ModifySettings.ContainerConstraints", "c1 may have 64 MiB"),
        _settings("ContainerConstraints", {"Linux": {"memory": {"limit": 1 << 26}}}, "Update"),
    )
    bridge.call(
        *(10, "ModifySettings.VPCIDevice", "wait for a device that is passed through"),
        _settings("VPCIDevice", {"VMBusGUID": "f8615163-df3e-46c5-913f-f2d2f965ed0e"}),
        base=vm,
    )
    _network(bridge, vm)
    bridge.call(
        *(10, "ModifySettings.PodCgroupMemoryLimit", "the VM's memory has changed"),
        _settings("PodCgroupMemoryLimit", {}, "Update"),
        base=vm,
    )


def _network(bridge: Collection, vm: Members) -> None:
    adapter = {"NamespaceID": "4f34a8c8-6d4b-4b6c-9e6a-0d5c5b3f9a11", "ID": ACTIVITY}
    settings = {
        **adapter,
        "MacAddress": "00-15-5D-00-00-01",
        "DNSSuffix": "svc.cluster.local,cluster.local",
        "DNSServerList": "10.96.0.10",
        "EncapOverhead": 50,
        "IPConfigs": [
            {"IPAddress": "10.244.1.7", "PrefixLength": 24},
            {"IPAddress": "fd00:244::7", "PrefixLength": 64},
        ],
        "Routes": [
            {"NextHop": "10.244.1.1", "DestinationPrefix": "0.0.0.0/0"},
            {"NextHop": "fd00:244::1", "DestinationPrefix": "::/0", "Metric": 256},
        ],
        "PolicyBasedRouting": True,
    }
    bridge.call(
        *(10, "ModifySettings.Network.Add", "a pod gets a NIC with two addresses"),
        _settings("Network", settings),
        base=vm,
    )
    bridge.call(
        *(10, "ModifySettings.Network.Remove", "the NIC is to be unplugged"),
        _settings("Network", adapter, "Remove"),
        base=vm,
    )


def _add_extensions(bridge: Collection) -> None:
    bridge.call(
        *(1, "ReportMounts", "what is mounted after /run/l"),
        {"After": "/run/l"},
        {
            "Mounts": [
                {
                    "MountPath": "/run/layers/p0",
                    "ResourceType": "VPMemDevice",
                    "Source": "/dev/pmem0",
                    "Filesystem": "ext4",
                    "Options": ["ro", "relatime"],
                    "Dax": True,
                    "Users": ["/run/gcs/c/c1/rootfs"],
                }
            ],
            "IsPartial": True,
        },
        base={"ContainerId": NULL, "ActivityId": ACTIVITY},
        category=_EXTENSION,
    )
    bridge.call(
        *(2, "WaitForOutOfMemory", "the next kills for want of memory, within a minute"),
        {"After": 6, "TimeoutInMs": 60_000},
        {
            "Events": [
                {
                    "Number": 7,
                    "ContainerId": "c1",
                    "Time": "2026-11-29T09:08:07.060504+00:00",
                    "OomKill": 2,
                    "Limit": 2**64 - 1,
                }
            ]
        },
        base={"ContainerId": NULL, "ActivityId": ACTIVITY},
        category=_EXTENSION,
    )


def _bridge() -> list[Vector]:
    bridge = Collection(_BRIDGE, {"ContainerId": "c1", "ActivityId": ACTIVITY})
    capabilities = {
        "NamespaceAddRequestSupported": True,
        "SignalProcessSupported": True,
        "DumpStacksSupported": True,
        "DeleteContainerStateSupported": True,
        "ReportMountsSupported": True,
        "WaitForOutOfMemorySupported": True,
        "TemporaryFilesystemSupported": True,
        "WritableVpmemSupported": True,
    }
    bridge.call(
        *(11, "NegotiateProtocol", "version 4, the first message of a connection"),
        {"MinimumVersion": 4, "MaximumVersion": 4},
        {
            "Version": 4,
            "Capabilities": {
                "SupportedSchemaVersions": [{"Major": 2, "Minor": 1}],
                "RuntimeOsType": "Linux",
                "GuestDefinedCapabilities": capabilities,
            },
        },
        base={"ActivityId": ACTIVITY},
    )
    _add_containers(bridge)
    _add_processes(bridge)
    _add_properties_and_settings(bridge)
    _add_statistics_and_limits(bridge)
    _add_extensions(bridge)
    notification = {
        "ContainerId": "c1",
        "ActivityId": ACTIVITY,
        "Type": "ForcedExit",
        "Operation": "None",
        "Result": 0,
    }
    meaning = "the init of c1 has exited after SIGKILL"
    word = _NOTIFICATION | _BRIDGE | 1 << 8
    bridge.vectors.append(Vector("ContainerNotification", meaning, word, 0, notification))
    return bridge.vectors


def _service() -> list[Vector]:
    service = Collection(_SERVICE, {})
    service.call(
        *(1, "Describe", "what a service owns"),
        {},
        {
            "ContainerId": "a1b2",
            "Name": "cat",
            "Image": "/images/nyancat",
            "Command": ["nyancat", "-t"],
            "State": "exited",
            "CreatedAt": 1_800_000_000,
            "StartedAt": 1_800_000_004,
            "FinishedAt": 1_800_000_064,
            "ExitStatus": 143,
        },
    )
    service.call(
        *(2, "Run", "run nyancat on a terminal"),
        {
            "Vm": {"Kernel": "/k", "Initrd": "/i", "MemoryMib": 512},
            "Image": "/images/nyancat",
            "Cache": "/cache",
            "Arguments": ["-t"],
            "Environment": ["TERM=xterm"],
            "Name": "cat",
            "Network": "user",
            "Ports": ["8080:80"],
            "Terminal": True,
            "Height": 24,
            "Width": 80,
            "Stdin": True,
        },
        {"ContainerId": "a1b2", "ProcessId": 300, "Streams": ["stdin", "stdout"]},
    )
    service.call(3, "Wait", "the container's exit", {}, {"ExitStatus": 143})
    service.call(4, "Signal", "SIGTERM to the container", {"Signal": 15})
    service.call(5, "Resize", "24 rows, 80 columns", {"Height": 24, "Width": 80})
    service.call(6, "Stop", "SIGTERM, and SIGKILL after 3 s", {"Seconds": 3})
    service.call(
        *(7, "Execute", "run ps in the VM, which has none"),
        {
            "Arguments": ["ps", "aux"],
            "Environment": ["TERM=xterm"],
            "WorkingDirectory": "/home",
            "User": "neko",
            "Terminal": True,
            "Height": 24,
            "Width": 80,
            "Stdin": True,
            "InVm": True,
        },
        {"Refusal": "ps: not found", "RefusalStatus": 127},
    )
    service.call(8, "Remove", "end the VM", {"Force": True})
    service.call(
        *(9, "ListMounts", "what is mounted in the VM after /run/l"),
        {"After": "/run/l"},
        {
            "Mounts": [
                {
                    "MountPath": "/run/layers/p0",
                    "ResourceType": "VPMemDevice",
                    "Source": "/dev/pmem0",
                    "Filesystem": "ext4",
                    "Options": ["ro", "noatime"],
                    "Dax": True,
                    "Users": ["/run/gcs/c/c1/rootfs"],
                }
            ],
            "IsPartial": True,
        },
    )
    service.call(
        *(10, "Measure", "what the VM and its container take"),
        {},
        {
            "MemoryBytes": 5_000_000,
            "CpuNanoseconds": 30_000_000,
            "Tasks": 2,
            "TotalBytes": 200_000_000,
            "AvailableBytes": 150_000_000,
            "MappedFiles": ["/cache/0123-v1.ext4"],
        },
    )
    progress = {
        "Step": "convert layers",
        "State": "advanced",
        "Detail": "layer 2 of 7",
        "Milliseconds": 1200,
    }
    word = _NOTIFICATION | _SERVICE | 1 << 8
    service.vectors.append(Vector("Progress", "a step of Run", word, 0, progress))
    return service.vectors


BRIDGE = tuple(_bridge())
SERVICE = tuple(_service())


def text_of(vectors: Sequence[Vector]) -> str:
    """Return the file of some vectors: one object per frame."""
    entries = [vector.entry(encoding) for vector in vectors for encoding in ("json", "cbor")]
    return json.dumps(entries, indent=1) + "\n"


def main() -> None:
    """Write both files."""
    (FOLDER / "bridge.json").write_text(text_of(BRIDGE))
    (FOLDER / "service.json").write_text(text_of(SERVICE))


if __name__ == "__main__":
    main()
