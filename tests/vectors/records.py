"""What the golden frames say, written out as records."""

from msgspec.structs import replace

from gcs.wire import control, extensions, messages, metrics, properties
from gcs.wire.resource import (
    CombinedLayers,
    ContainerConstraints,
    IPConfig,
    Layer,
    MappedDirectory,
    MappedVirtualDisk,
    MappingInfo,
    ModificationRequest,
    NetworkAdapter,
    NetworkRoute,
    PodCgroupMemoryLimit,
    RequestType,
    ResourceSettings,
    ScsiDevice,
    TemporaryFilesystem,
    VpciDevice,
    VPMemDevice,
)
from gcs.wire.schema import NULL_CONTAINER_ID, ErrorRecord, Notification, Reply, Request

__all__ = ["ACTIVITY", "NOTIFICATIONS", "NO_CONTAINER", "REPLIES", "REQUESTS"]

ACTIVITY = "5eed0000-0000-4000-8000-00000000000a"


def of_c1(request: Request[Reply]) -> Request[Reply]:
    return replace(request, container_id="c1", activity_id=ACTIVITY)


def of_vm(request: Request[Reply]) -> Request[Reply]:
    return replace(request, container_id=NULL_CONTAINER_ID, activity_id=ACTIVITY)


def change(
    resource: str, settings: ResourceSettings, kind: RequestType = RequestType.ADD
) -> Request[Reply]:
    request = ModificationRequest(request_type=kind, resource_type=resource, settings=settings)
    return of_vm(messages.ModifySettings(request=request))


def execute(
    parameters: messages.ProcessParameters, **ports: int
) -> messages.ExecuteProcessSettings:
    return messages.ExecuteProcessSettings(
        process_parameters=parameters,
        vsock_stdio_relay_settings=messages.VsockStdioRelaySettings(**ports),
    )


SPEC: dict[str, object] = {
    "ociVersion": "1.2.0",
    "process": {"args": ["/bin/sh", "-c", 'echo "<&>" ü'], "terminal": False},
    "root": {"path": "rootfs"},
    "linux": {
        "namespaces": [{"type": "pid"}],
        "resources": {"memory": {"limit": 8_589_934_592}},
    },
}

REQUESTS: dict[str, Request[Reply]] = {
    "NegotiateProtocol": messages.NegotiateProtocol(
        activity_id=ACTIVITY, minimum_version=4, maximum_version=4
    ),
    "Create": of_c1(
        messages.Create(
            container_config=messages.ContainerConfig(
                schema_version=messages.SchemaVersion(major=2, minor=1),
                oci_bundle_path="/run/gcs/c/c1",
                oci_specification=SPEC,
                scratch_dir_path="/run/scratch/c1",
            ),
        )
    ),
    "Start": of_c1(
        messages.Start(
            otsc={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        )
    ),
    "ShutdownGraceful": of_c1(messages.ShutdownGraceful()),
    "ShutdownForced": of_c1(messages.ShutdownForced()),
    "DeleteContainerState": of_c1(messages.DeleteContainerState()),
    "ExecuteProcess": of_c1(
        messages.ExecuteProcess(
            settings=execute(
                messages.ProcessParameters(create_std_out_pipe=True, create_std_err_pipe=True),
                std_out=1_073_741_825,
                std_err=1_073_741_826,
            ),
        )
    ),
    "ExecuteProcess.exec": of_c1(
        messages.ExecuteProcess(
            settings=messages.ExecuteProcessSettings(
                process_parameters=messages.ProcessParameters(
                    oci_process={"args": ["ps"], "cwd": "/"}
                )
            )
        )
    ),
    "ExecuteProcess.vm": of_vm(
        messages.ExecuteProcess(
            settings=execute(
                messages.ProcessParameters(
                    command_args=("ls", "-l"),
                    working_directory="/",
                    environment={"PATH": "/bin", "path": "kept"},
                    create_std_in_pipe=True,
                    create_in_utility_vm=True,
                ),
                std_in=1_073_741_827,
            ),
        )
    ),
    "WaitForProcess": of_c1(
        messages.WaitForProcess(process_id=300, timeout_in_ms=4_294_967_295)
    ),
    "SignalProcess": of_c1(
        messages.SignalProcess(process_id=300, options=messages.SignalOptions(signal=10))
    ),
    "ResizeConsole": of_c1(messages.ResizeConsole(process_id=300, height=24, width=80)),
    "GetProperties": of_c1(
        messages.GetProperties(query=properties.PropertyQuery(property_types=("ProcessList",)))
    ),
    "ModifySettings.VPMemDevice": change(
        "VPMemDevice",
        VPMemDevice(
            device_number=3,
            mount_path="/run/layers/p3",
            mapping_info=MappingInfo(
                device_offset_in_bytes=4096, device_size_in_bytes=1_099_511_627_776
            ),
            pci_address="0000:03:00.0",
        ),
    ),
    "ModifySettings.MappedVirtualDisk": change(
        "MappedVirtualDisk",
        MappedVirtualDisk(
            mount_path="/run/scratch", lun=1, ensure_filesystem=True, filesystem="ext4"
        ),
    ),
    "ModifySettings.VPMemDevice.scratch": change(
        "VPMemDevice",
        VPMemDevice(device_number=8, mount_path="/run/scratch", writable=True),
    ),
    "ModifySettings.TemporaryFilesystem": change(
        "TemporaryFilesystem",
        TemporaryFilesystem(mount_path="/run/t", size_in_bytes=67_108_864),
    ),
    "ModifySettings.MappedDirectory": change(
        "MappedDirectory",
        MappedDirectory(
            mount_path="/run/shares/0", port=564, share_name="7", read_only=True, cache="mmap"
        ),
    ),
    "ModifySettings.SCSIDevice": change(
        "SCSIDevice", ScsiDevice(controller=1, lun=255), RequestType.REMOVE
    ),
    "ModifySettings.CombinedLayers": change(
        "CombinedLayers",
        CombinedLayers(
            container_id="c1",
            container_root_path="/run/gcs/c/c1/rootfs",
            layers=(Layer(path="/run/layers/p1"), Layer(path="/run/layers/p0")),
            scratch_path="/run/scratch/c1",
        ),
    ),
    "DumpStacks": of_vm(messages.DumpStacks()),
    "ReportMounts": of_vm(extensions.ReportMounts(after="/run/l")),
    "WaitForOutOfMemory": of_vm(extensions.WaitForOutOfMemory(after=6, timeout_in_ms=60_000)),
    "GetProperties.statistics": of_c1(
        messages.GetProperties(query=properties.PropertyQuery(property_types=("Statistics",)))
    ),
    "GetProperties.vm": of_vm(
        messages.GetProperties(
            query=properties.PropertyQuery(property_types=("ProcessList", "Memory", "Load"))
        )
    ),
    "ModifySettings.ContainerConstraints": of_c1(
        messages.ModifySettings(
            request=ModificationRequest(
                request_type=RequestType.UPDATE,
                resource_type="ContainerConstraints",
                settings=ContainerConstraints(linux={"memory": {"limit": 67_108_864}}),
            )
        )
    ),
    "ModifySettings.VPCIDevice": change(
        "VPCIDevice", VpciDevice(vmbus_guid="f8615163-df3e-46c5-913f-f2d2f965ed0e")
    ),
    "ModifySettings.Network.Add": change(
        "Network",
        NetworkAdapter(
            namespace_id="4f34a8c8-6d4b-4b6c-9e6a-0d5c5b3f9a11",
            adapter_id=ACTIVITY,
            mac_address="00-15-5D-00-00-01",
            dns_suffix="svc.cluster.local,cluster.local",
            dns_server_list="10.96.0.10",
            encap_overhead=50,
            ip_configs=(
                IPConfig(ip_address="10.244.1.7", prefix_length=24),
                IPConfig(ip_address="fd00:244::7", prefix_length=64),
            ),
            routes=(
                NetworkRoute(next_hop="10.244.1.1", destination_prefix="0.0.0.0/0"),
                NetworkRoute(next_hop="fd00:244::1", destination_prefix="::/0", metric=256),
            ),
            policy_based_routing=True,
        ),
    ),
    "ModifySettings.Network.Remove": change(
        "Network",
        NetworkAdapter(
            namespace_id="4f34a8c8-6d4b-4b6c-9e6a-0d5c5b3f9a11", adapter_id=ACTIVITY
        ),
        RequestType.REMOVE,
    ),
    "ModifySettings.PodCgroupMemoryLimit": change(
        "PodCgroupMemoryLimit", PodCgroupMemoryLimit(), RequestType.UPDATE
    ),
    "Describe": control.Describe(),
    "Run": control.Run(
        vm=control.VmOptions(kernel="/k", initrd="/i", memory_mib=512),
        image="/images/nyancat",
        cache="/cache",
        arguments=("-t",),
        environment=("TERM=xterm",),
        name="cat",
        network=control.NetworkMode.USER,
        ports=("8080:80",),
        terminal=True,
        height=24,
        width=80,
        stdin=True,
    ),
    "Wait": control.Wait(),
    "Signal": control.Signal(signal=15),
    "Resize": control.Resize(height=24, width=80),
    "Stop": control.Stop(seconds=3),
    "Execute": control.Execute(
        arguments=("ps", "aux"),
        environment=("TERM=xterm",),
        working_directory="/home",
        user="neko",
        terminal=True,
        height=24,
        width=80,
        stdin=True,
        in_vm=True,
    ),
    "Remove": control.Remove(force=True),
    "ListMounts": control.ListMounts(after="/run/l"),
    "Measure": control.Measure(),
}

NO_CONTAINER = "container c1 does not exist"

#: Those that have members of their own; the others are a bare Reply.
REPLIES: dict[str, Reply] = {
    "NegotiateProtocol.reply": messages.NegotiateProtocolReply(
        activity_id=ACTIVITY,
        version=4,
        capabilities=messages.Capabilities(
            supported_schema_versions=(messages.SchemaVersion(major=2, minor=1),),
            runtime_os_type="Linux",
            guest_defined_capabilities=messages.GuestDefinedCapabilities(
                namespace_add_request_supported=True,
                signal_process_supported=True,
                dump_stacks_supported=True,
                delete_container_state_supported=True,
                report_mounts_supported=True,
                wait_for_out_of_memory_supported=True,
                temporary_filesystem_supported=True,
                writable_vpmem_supported=True,
            ),
        ),
    ),
    "ReportMounts.reply": extensions.ReportMountsReply(
        activity_id=ACTIVITY,
        mounts=(
            extensions.MountReport(
                mount_path="/run/layers/p0",
                resource_type="VPMemDevice",
                source="/dev/pmem0",
                filesystem="ext4",
                options=("ro", "relatime"),
                dax=True,
                users=("/run/gcs/c/c1/rootfs",),
            ),
        ),
        is_partial=True,
    ),
    "WaitForOutOfMemory.reply": extensions.WaitForOutOfMemoryReply(
        activity_id=ACTIVITY,
        events=(
            extensions.OutOfMemory(
                number=7,
                container_id="c1",
                time="2026-11-29T09:08:07.060504+00:00",
                oom_kill=2,
                limit=2**64 - 1,
            ),
        ),
    ),
    "Create.reply": messages.CreateReply(activity_id=ACTIVITY, selected_protocol_version=0),
    "ExecuteProcess.reply": messages.ExecuteProcessReply(activity_id=ACTIVITY, process_id=300),
    "ExecuteProcess.exec.reply": messages.ExecuteProcessReply(
        activity_id=ACTIVITY, process_id=4_194_304
    ),
    "ExecuteProcess.vm.reply": messages.ExecuteProcessReply(
        activity_id=ACTIVITY, process_id=23
    ),
    "WaitForProcess.reply": messages.WaitForProcessReply(activity_id=ACTIVITY, exit_code=137),
    "GetProperties.reply": messages.GetPropertiesReply(
        activity_id=ACTIVITY,
        properties=properties.Properties(
            process_list=(
                properties.ProcessDetails(process_id=300),
                properties.ProcessDetails(process_id=301),
            )
        ),
    ),
    "GetProperties.statistics.reply": messages.GetPropertiesReply(
        activity_id=ACTIVITY,
        properties=properties.Properties(
            lcow_metrics=metrics.Metrics(
                pids=metrics.PidsStat(current=2, limit=metrics.UNLIMITED),
                cpu=metrics.CpuStat(usage=metrics.CpuUsage(total=5000, user=5000)),
                memory=metrics.MemoryStat(
                    rss=4096,
                    total_rss=4096,
                    usage=metrics.MemoryEntry(limit=67_108_864, usage=8192, failcnt=1),
                ),
                blkio=metrics.BlkioStat(
                    io_service_bytes_recursive=(
                        metrics.BlkioEntry(op="Read", device="/dev/sda", major=8, value=512),
                    )
                ),
                network=(metrics.NetworkStat(name="eth0", rx_bytes=60, rx_packets=1),),
                memory_oom_control=metrics.MemoryOomControl(oom_kill=1),
            )
        ),
    ),
    "GetProperties.vm.reply": messages.GetPropertiesReply(
        activity_id=ACTIVITY,
        properties=properties.Properties(
            process_list=(
                properties.ProcessDetails(
                    process_id=1,
                    image_name="init",
                    create_timestamp="2026-01-02T03:04:05+00:00",
                    kernel_time_100ns=100_000,
                    memory_working_set_private_bytes=4096,
                ),
            ),
            memory=properties.VmMemory(total_bytes=268_435_456, available_bytes=4096),
            load=properties.VmLoad(one_minute=25, processors=2),
        ),
    ),
    "DumpStacks.reply": messages.DumpStacksReply(
        activity_id=ACTIVITY, guest_stacks="thread 1\n\tmain\n"
    ),
    "error.reply": Reply(
        result=-1_070_137_074,
        activity_id=ACTIVITY,
        error_message=NO_CONTAINER,
        error_records=(
            ErrorRecord(
                result=-1_070_137_074,
                message=NO_CONTAINER,
                module_name="gcs",
                file_name="",
                line=4_294_967_295,
            ),
        ),
    ),
    "Describe.reply": control.DescribeReply(
        container_id="a1b2",
        name="cat",
        image="/images/nyancat",
        command=("nyancat", "-t"),
        state=control.ServiceState.EXITED,
        created_at=1_800_000_000,
        started_at=1_800_000_004,
        finished_at=1_800_000_064,
        exit_status=143,
    ),
    "Run.reply": control.RunReply(
        container_id="a1b2",
        process_id=300,
        streams=(control.StreamName.STDIN, control.StreamName.STDOUT),
    ),
    "Execute.reply": control.ExecuteReply(refusal="ps: not found", refusal_status=127),
    "Wait.reply": control.WaitReply(exit_status=143),
    "ListMounts.reply": control.ListMountsReply(
        mounts=(
            extensions.MountReport(
                mount_path="/run/layers/p0",
                resource_type="VPMemDevice",
                source="/dev/pmem0",
                filesystem="ext4",
                options=("ro", "noatime"),
                dax=True,
                users=("/run/gcs/c/c1/rootfs",),
            ),
        ),
        is_partial=True,
    ),
    "Measure.reply": control.MeasureReply(
        memory_bytes=5_000_000,
        cpu_nanoseconds=30_000_000,
        tasks=2,
        total_bytes=200_000_000,
        available_bytes=150_000_000,
        mapped_files=("/cache/0123-v1.ext4",),
    ),
}

NOTIFICATIONS: dict[str, Notification] = {
    "ContainerNotification": messages.ContainerNotification(
        container_id="c1",
        activity_id=ACTIVITY,
        type=messages.ExitType.FORCED,
        operation="None",
        result=0,
    ),
    "Progress": control.Progress(
        step="convert layers",
        state=control.ProgressState.ADVANCED,
        detail="layer 2 of 7",
        milliseconds=1200,
    ),
}
