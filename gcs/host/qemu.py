"""The QEMU command line of a utility VM, as a pure function of its configuration.

Every layer's device has a root port of its own, with slot number n + 1 for DeviceNumber n: the
guest finds a layer by that number and by nothing else. Ports 1 … n are given to layers, so no
other port may use a slot number below 200. NICs have those from 200 on; the guest tells them
apart by their MAC addresses. A root image has no port: it is on the root bus from the start, so
no number of a layer is its.

Source: qemu-system-x86_64(1), QEMU's docs/pcie.txt.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gcs.errors import InvalidArgumentError

__all__ = [
    "DEVICE_MEMORY_GIB",
    "MAX_NIC_PORTS",
    "MAX_PMEM_PORTS",
    "VmConfig",
    "Wiring",
    "cpu_model",
    "nic_port",
    "pmem_port",
    "qemu_argv",
]

#: v4 hosts map at most 128 layers. Root ports are functions of multi-function devices, eight to
#: a device number, so 128 take 16 of the 31 device numbers of the root bus.
MAX_PMEM_PORTS = 128
_FIRST_PORT_DEVICE = 0x08
#: The devices that are left behind those of the layers, 0x18 to 0x1b; q35 has some of its own
#: at 0x1f.
MAX_NIC_PORTS = 32
_FIRST_NIC_DEVICE = 0x18
_FIRST_NIC_SLOT = 200
#: Guest-physical room for hot-plugged memory devices, address space only: the layers of an
#: image as large as any in public registries, twice. A processor with 40 address bits has 1
#: TiB.
DEVICE_MEMORY_GIB = 64
#: The device is found long before; without an end the kernel would wait in silence.
_ROOT_WAIT_S = 60
#: With dax=always the mount fails where it would have to copy. Only with an initrd would the
#: kernel look for /init by itself. No other pmem device is there so early.
_ROOT_WORDS = (
    *("root=/dev/pmem0", "rootfstype=erofs", "rootflags=dax=always", "ro"),
    f"rootwait={_ROOT_WAIT_S}",
    "init=/init",
)
#: Words for the kernel that have a VM of 256 MiB at rest take 3 MiB less of the host's:
_SMALL_WORDS = (
    # Free runs of at least 2 to the power of this pages are told to the host, which takes them
    # back. By default they are of 2 MiB, and 4 MiB of shorter ones are left after a boot.
    "page_reporting.page_reporting_order=2",
    # Variables that each CPU has are laid out by pages. By default memory for them is taken by
    # 2 MiB for all CPUs together, most of it unused, and as much for whose cgroup each word is.
    "percpu_alloc=page",
)
#: Without spawn, privileges and resource control a QEMU that a guest has taken over can't start
#: programs.
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmConfig:
    """What a VM is made of; fixed once it has started.

    It boots from one of two: an initrd, or a read-only root file system on persistent memory.
    Raises InvalidArgumentError for both and for neither.
    """

    kernel: Path
    initrd: Path | None = None
    #: erofs, a multiple of 2 MiB long; None with an initrd
    root_image: Path | None = None
    memory_mib: int = 256
    cpus: int = 2
    #: root ports for layers
    pmem_ports: int = 8
    #: whether there is one more, for a scratch on persistent memory
    has_scratch_port: bool = False
    #: root ports for NICs
    nic_ports: int = 0
    #: "kvm" or "tcg"
    accelerator: str = "tcg"
    #: words after "--", which the kernel leaves to init
    init_args: tuple[str, ...] = ()
    #: further words for the kernel itself
    kernel_args: tuple[str, ...] = ()
    #: UEFI firmware, which starts a bzImage only; None is QEMU's own BIOS
    firmware: Path | None = None

    def __post_init__(self) -> None:
        if (self.initrd is None) == (self.root_image is None):
            raise InvalidArgumentError("a VM boots from an initrd or from a root image")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """How QEMU is connected to the process that runs it."""

    #: inherited socket of the monitor
    qmp_fd: int
    #: inherited descriptor of the scratch disk, or None
    scratch_fd: int | None
    #: inherited socket that the guest's console is printed into
    serial_fd: int
    #: vhost-user socket of vhost-device-vsock; None when the kernel has vhost-vsock
    vsock_socket: Path | None = None
    cid: int = 3
    #: bytes of the root image, if there is one
    root_size: int = 0
    extra: tuple[str, ...] = field(default=())


def pmem_port(number: int) -> str:
    """Return the name of the root port for the layer with this DeviceNumber.

    That of a scratch has the number after those of the layers.
    """
    return f"layer{number}"


def nic_port(number: int) -> str:
    """Return the name of the root port for the NIC of this number, from 0."""
    return f"nic{number}-port"


def qemu_argv(config: VmConfig, wiring: Wiring) -> tuple[str, ...]:
    """Return the command that starts the VM."""
    return (
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
        # -S: the guest waits for the host to listen on the ports that it will dial.
        *("-S", "-no-reboot", "-sandbox", _SANDBOX),
        *_machine(config),
        *(() if config.firmware is None else ("-bios", str(config.firmware))),
        *("-kernel", str(config.kernel)),
        *_boot(config, wiring),
        *("-append", kernel_command_line(config)),
        *("-chardev", f"socket,id=serial,fd={wiring.serial_fd}"),
        *("-serial", "chardev:serial"),
        *("-chardev", f"socket,id=qmp,fd={wiring.qmp_fd}"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-rng-pci"),
        *("-device", "virtio-scsi-pci,id=scsi0"),
        *_vsock(wiring),
        *("-device", "virtio-balloon-pci,free-page-reporting=on"),
        *_ports(config.pmem_ports + config.has_scratch_port, pmem_port, _FIRST_PORT_DEVICE, 1),
        *_ports(config.nic_ports, nic_port, _FIRST_NIC_DEVICE, _FIRST_NIC_SLOT),
        *(() if wiring.scratch_fd is None else ("-add-fd", f"fd={wiring.scratch_fd},set=1")),
        *wiring.extra,
    )


def cpu_model(accelerator: str) -> str:
    """Return the processor with everything that the accelerator can do, and does well.

    Emulated, "rep movsb" takes a turn for each byte. The kernel uses it where erms, and for
    short copies fsrm, say that it is fast: a fourth as fast as "rep movsq" then.
    """
    return "host" if accelerator == "kvm" else "max,-erms,-fsrm"


def _machine(config: VmConfig) -> tuple[str, ...]:
    memory = config.memory_mib
    machine = f"q35,accel={config.accelerator},memory-backend=ram,vmport=off,sata=off,smbus=off"
    return (
        *("-machine", machine, "-cpu", cpu_model(config.accelerator)),
        *("-smp", str(config.cpus)),
        *("-m", f"{memory}M,slots=1,maxmem={memory + DEVICE_MEMORY_GIB * 1024}M"),
        # Shared, because vhost-device-vsock reads and writes the rings in the guest's memory.
        *("-object", f"memory-backend-memfd,id=ram,size={memory}M,share=on"),
    )


def kernel_command_line(config: VmConfig) -> str:
    """Return the words for the kernel, and after "--" those for init.

    panic=-1: the kernel resets at once, and QEMU ends (-no-reboot), so a dead guest is seen.
    """
    root = () if config.root_image is None else _ROOT_WORDS
    words = ["console=ttyS0", "panic=-1", "quiet", *_SMALL_WORDS, *root, *config.kernel_args]
    return " ".join([*words, *(("--", *config.init_args) if config.init_args else ())])


def _boot(config: VmConfig, wiring: Wiring) -> tuple[str, ...]:
    if config.root_image is None:
        return ("-initrd", str(config.initrd))
    file = f"mem-path={_escaped(config.root_image)},size={wiring.root_size}"
    # Shared and read-only: all VMs of this machine have the same pages of it.
    memory = f"memory-backend-file,id=root,{file},share=on,readonly=on"
    return ("-object", memory, "-device", "virtio-pmem-pci,memdev=root")


def _vsock(wiring: Wiring) -> tuple[str, ...]:
    if wiring.vsock_socket is None:
        return ("-device", f"vhost-vsock-pci,guest-cid={wiring.cid}")
    chardev = f"socket,id=vsock,path={_escaped(wiring.vsock_socket)}"
    return ("-chardev", chardev, "-device", "vhost-user-vsock-pci,chardev=vsock")


def _ports(
    count: int, name: Callable[[int], str], first_device: int, first_slot: int
) -> tuple[str, ...]:
    """One root port for each device, without an I/O window: only old devices need one."""
    words: list[str] = []
    for number in range(count):
        device, function, slot = first_device + number // 8, number % 8, first_slot + number
        port = f"pcie-root-port,id={name(number)},bus=pcie.0,addr={device:#x}.{function}"
        many = ",multifunction=on" if function == 0 else ""
        words += ["-device", f"{port},chassis={slot},slot={slot},io-reserve=0{many}"]
    return tuple(words)


def _escaped(path: Path) -> str:
    """Return a path as an option's value, where a comma is written twice."""
    return str(path).replace(",", ",,")
