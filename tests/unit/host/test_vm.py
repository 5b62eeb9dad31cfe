"""QEMU's command line, the monitor, and plugging, against a monitor that keeps state."""

import itertools
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import memory_stream_pair

from gcs.errors import (
    DeadlineError,
    DisconnectedError,
    GcsError,
    InvalidArgumentError,
    RemoteProtocolError,
)
from gcs.host import qmp as qmp_module
from gcs.host import vm as vm_module
from gcs.host.child import Child, spawn
from gcs.host.qemu import (
    MAX_NIC_PORTS,
    MAX_PMEM_PORTS,
    VmConfig,
    Wiring,
    kernel_command_line,
    qemu_argv,
)
from gcs.host.qmp import Qmp, QmpError, open_qmp
from gcs.host.vm import Vm, VmError, open_vm
from gcs.host.vsock import KernelVsock
from tests.support.vm import FakeQemu

CONFIG = VmConfig(kernel=Path("/k"), initrd=Path("/i,j"), memory_mib=256, cpus=2, nic_ports=2)
WIRING = Wiring(qmp_fd=7, scratch_fd=8, serial_fd=9, vsock_socket=Path("/v,1"))


def option(argv: tuple[str, ...], flag: str) -> list[str]:
    return [after for word, after in itertools.pairwise(argv) if word == flag]


# -- the command line --------------------------------------------------------------------------


def test_layer_n_has_the_port_with_slot_n_plus_1() -> None:
    """The guest finds layers by slot number, so the numbers must be these and unique."""
    config = VmConfig(kernel=Path("/k"), initrd=Path("/i"), pmem_ports=MAX_PMEM_PORTS)
    ports = [d for d in option(qemu_argv(config, WIRING), "-device") if "root-port" in d]
    found = [(m[1], m[2]) for d in ports if (m := re.search(r"id=layer(\d+),.*slot=(\d+)", d))]
    assert found == [(str(n), str(n + 1)) for n in range(MAX_PMEM_PORTS)]
    addresses = {m[1] for d in ports if (m := re.search(r"addr=([^,]+)", d))}
    assert len(addresses) == MAX_PMEM_PORTS


def test_guest_memory_is_shared_and_leaves_room_for_layers() -> None:
    """vhost-device-vsock maps the guest's memory, and layers need device memory above it."""
    argv = qemu_argv(CONFIG, WIRING)
    assert option(argv, "-object") == ["memory-backend-memfd,id=ram,size=256M,share=on"]
    (memory,) = option(argv, "-m")
    match = re.fullmatch(r"256M,slots=\d+,maxmem=(\d+)M", memory)
    assert match is not None
    assert int(match[1]) > 256


def test_the_guest_tells_of_memory_that_it_has_freed() -> None:
    """By a balloon that is never inflated; and of runs shorter than the kernel's 2 MiB."""
    devices = option(qemu_argv(CONFIG, WIRING), "-device")
    assert "virtio-balloon-pci,free-page-reporting=on" in devices
    (order,) = re.findall(
        r" page_reporting\.page_reporting_order=(\d+)\b", kernel_command_line(CONFIG)
    )
    assert int(order) < 9


def test_an_emulated_processor_has_no_string_instructions_that_are_fast() -> None:
    """The kernel would copy with them, byte by byte; a real one keeps all that it has."""
    emulated = replace(CONFIG, accelerator="tcg")
    assert option(qemu_argv(emulated, WIRING), "-cpu") == ["max,-erms,-fsrm"]
    real = replace(CONFIG, accelerator="kvm")
    assert option(qemu_argv(real, WIRING), "-cpu") == ["host"]


def test_a_comma_in_a_path_is_doubled_where_qemu_splits() -> None:
    """A socket in a folder with a comma does not become another option."""
    assert "socket,id=vsock,path=/v,,1" in option(qemu_argv(CONFIG, WIRING), "-chardev")


def test_the_guest_waits_until_it_is_started() -> None:
    """-S: the host listens on the bridge before the guest can dial."""
    assert "-S" in qemu_argv(CONFIG, WIRING)


def test_words_for_init_follow_two_dashes() -> None:
    """The kernel leaves what follows "--" to init, and gets no dashes without such words."""
    words = kernel_command_line(CONFIG)
    assert words.startswith("console=ttyS0 panic=-1 quiet ")
    assert "--" not in words
    config = VmConfig(kernel=Path("/k"), initrd=Path("/i"), init_args=("-e", "1"))
    assert kernel_command_line(config) == f"{words} -- -e 1"


def test_a_kernel_with_vhost_vsock_needs_no_program() -> None:
    """The device is then the kernel's, with the cid that was chosen."""
    wiring = Wiring(qmp_fd=7, scratch_fd=None, serial_fd=9, cid=1234567)
    argv = qemu_argv(CONFIG, wiring)
    assert "vhost-vsock-pci,guest-cid=1234567" in option(argv, "-device")
    assert "-add-fd" not in argv


def test_a_root_image_is_shared_persistent_memory_and_no_layer() -> None:
    """It is on the root bus, behind no port that a layer's number names, and has no initrd."""
    config = VmConfig(kernel=Path("/k"), root_image=Path("/r,1"), init_args=("-e", "1"))
    argv = qemu_argv(config, replace(WIRING, root_size=4 << 20))
    assert "-initrd" not in argv
    (_, memory) = option(argv, "-object")
    words = "id=root,mem-path=/r,,1,size=4194304,share=on,readonly=on"
    assert memory == f"memory-backend-file,{words}"
    assert "virtio-pmem-pci,memdev=root" in option(argv, "-device")
    words = kernel_command_line(config)
    assert " root=/dev/pmem0 rootfstype=erofs rootflags=dax=always ro rootwait=60 " in words
    assert words.endswith(" init=/init -- -e 1")


@pytest.mark.parametrize("image", [None, Path("/i")])
def test_a_vm_has_one_image_to_boot_from(image: Path | None) -> None:
    """Without one the kernel would look for its root in vain, and of two ignore one."""
    with pytest.raises(InvalidArgumentError, match="an initrd or from a root image"):
        VmConfig(kernel=Path("/k"), initrd=image, root_image=image)


# -- the monitor -------------------------------------------------------------------------------


@asynccontextmanager
async def monitored() -> AsyncIterator[tuple[Qmp, FakeQemu]]:
    ours, theirs = memory_stream_pair()
    qemu = FakeQemu()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(qemu.serve, theirs)
        async with open_qmp(ours) as qmp:
            yield qmp, qemu
        nursery.cancel_scope.cancel()


async def test_a_refused_command_raises_with_request_and_answer() -> None:
    """QmpError holds what was asked and what QEMU said."""
    async with monitored() as (qmp, _):
        with pytest.raises(
            QmpError, match="QEMU no-such: The command no-such has not"
        ) as caught:
            await qmp.execute("no-such", some_word=1)
    assert caught.value.arguments == {"some-word": 1}


async def test_commands_under_way_at_once_get_their_own_answers() -> None:
    """Answers come in order, whoever waits."""
    async with monitored() as (qmp, qemu), trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(_add_object, qmp, number)
    assert set(qemu.objects) == {f"o{number}" for number in range(20)}


async def _add_object(qmp: Qmp, number: int) -> None:
    await qmp.execute("object-add", id=f"o{number}")
    with pytest.raises(QmpError, match=f"Duplicate ID 'o{number}'"):
        await qmp.execute("object-add", id=f"o{number}")


async def test_the_end_of_qemu_fails_who_waits_for_it() -> None:
    """A command and a wait for an event both end when the monitor does."""
    ours, theirs = memory_stream_pair()

    async def greet_and_die() -> None:
        await theirs.send_all(b'{"QMP": {}}\r\n')
        await theirs.receive_some()
        await theirs.send_all(b'{"return": {}}\r\n')
        await theirs.receive_some()
        await theirs.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet_and_die)
        async with open_qmp(ours) as qmp:
            with pytest.raises(DisconnectedError, match="QEMU quit: QEMU closed"):
                await qmp.execute("quit")
            with pytest.raises(DisconnectedError, match="QEMU event SHUTDOWN"):
                await qmp.wait_event("SHUTDOWN")


async def test_what_does_not_greet_like_qemu_is_refused() -> None:
    """The error shows what came instead."""
    ours, theirs = memory_stream_pair()
    await theirs.send_all(b"SSH-2.0-OpenSSH\r\n")
    with pytest.raises(RemoteProtocolError, match="SSH-2"):
        async with open_qmp(ours):
            pass


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"}\r\n", "QEMU sent"),
        (b'{"return": ' + b"[" * 30_000 + b"\r\n", "recursion"),
        (b'{"return": "\xff"}\r\n', "utf-8"),
        (b'{"return": {}, "error": 5}\r\n', "Expected"),
        (b'{"event": 5}\r\n', "Expected `str`"),
        (b'{"return": {}}\r\n{"return": {}}\r\n', "what was not asked"),
        (b"x" * 100_000, "a line of more than"),
    ],
)
async def test_a_monitor_that_makes_no_sense_is_over(line: bytes, what: str) -> None:
    """Who waits gets what QEMU sent, in a sentence of bounded length."""
    ours, theirs = memory_stream_pair()

    async def greet_and_talk() -> None:
        await theirs.send_all(b'{"QMP": {}}\r\n')
        await theirs.receive_some()
        await theirs.send_all(b'{"return": {}}\r\n')
        await theirs.receive_some()
        await theirs.send_all(line)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet_and_talk)
        async with open_qmp(ours) as qmp:
            with trio.fail_after(60):
                with suppress(DisconnectedError):
                    await qmp.execute("cont")
                with pytest.raises(DisconnectedError, match=what) as caught:
                    await qmp.wait_event("SHUTDOWN")
    assert len(str(caught.value)) < 1000


async def test_events_without_end_take_bounded_memory() -> None:
    """The newest are kept, and commands are answered meanwhile."""
    ours, theirs = memory_stream_pair()
    qemu = FakeQemu()

    async def flood() -> None:
        for number in range(2000):
            event = {"event": "RTC_CHANGE", "data": {"offset": number}}
            await theirs.send_all(json.dumps(event).encode() + b"\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(qemu.serve, theirs)
        async with open_qmp(ours) as qmp:
            await flood()
            await qmp.execute("cont")
            assert len(qmp._events) == 256
            assert (await qmp.wait_event("RTC_CHANGE", offset=1999)).data["offset"] == 1999
        nursery.cancel_scope.cancel()


async def test_a_qemu_that_does_not_answer_is_waited_for_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the command, and a late answer does not go to the next one."""
    monkeypatch.setattr(qmp_module, "_ANSWER_S", 0.05)
    ours, theirs = memory_stream_pair()
    asked = trio.Event()

    async def greet_and_stall() -> None:
        await theirs.send_all(b'{"QMP": {}}\r\n')
        await theirs.receive_some()
        await theirs.send_all(b'{"return": {}}\r\n')
        await theirs.receive_some()
        await asked.wait()
        await theirs.receive_some()
        await theirs.send_all(b'{"return": "late"}\r\n{"return": "own"}\r\n')

    async with trio.open_nursery() as nursery:
        nursery.start_soon(greet_and_stall)
        async with open_qmp(ours) as qmp:
            with pytest.raises(DeadlineError, match="QEMU stop: its answer: not within"):
                await qmp.execute("stop")
            monkeypatch.setattr(qmp_module, "_ANSWER_S", 5)
            asked.set()
            assert await qmp.execute("cont") == "own"


async def test_a_qemu_that_does_not_read_ends_the_monitor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command that can't be sent whole leaves nothing to say after it."""
    monkeypatch.setattr(qmp_module, "_ANSWER_S", 0.1)
    ours, theirs = (stream_of(sock) for sock in socket.socketpair())

    async def greet_and_stop_reading() -> None:
        await theirs.send_all(b'{"QMP": {}}\r\n')
        await theirs.receive_some()
        await theirs.send_all(b'{"return": {}}\r\n')

    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(greet_and_stop_reading)
        async with open_qmp(ours) as qmp:
            with pytest.raises(DisconnectedError, match="QEMU long"):
                await qmp.execute("long", word="x" * 4_000_000)
            with pytest.raises(DisconnectedError, match="QEMU cont"):
                await qmp.execute("cont")


def stream_of(sock: socket.socket) -> trio.SocketStream:
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


# -- plugging ----------------------------------------------------------------------------------


@asynccontextmanager
async def machine(tmp_path: Path) -> AsyncIterator[tuple[Vm, FakeQemu]]:
    with (tmp_path / "log").open("wb") as log:
        sleeper = spawn("a program", ["sleep", "60"], output=log.fileno())
        async with sleeper as child, monitored() as (qmp, qemu):
            yield Vm(CONFIG, qmp, KernelVsock(3), child), qemu


async def test_layers_go_read_only_behind_their_own_ports(tmp_path: Path) -> None:
    """The image is shared and read-only, and its size is the file's."""
    image = tmp_path / "layer"
    image.write_bytes(b"\0" * 4096)
    async with machine(tmp_path) as (vm, qemu):
        await vm.add_layer(0, image)
        await vm.add_layer(6, image)
    assert [device["bus"] for device in qemu.devices.values()] == ["layer0", "layer6"]
    memory = qemu.objects["layer6-memory"]
    assert (memory["mem-path"], memory["size"]) == (str(image), 4096)
    assert (memory["share"], memory["readonly"]) == (True, True)


async def test_a_layer_that_can_not_be_plugged_leaves_no_memory(tmp_path: Path) -> None:
    """When the port is taken, the object that was made for it is gone again."""
    image = tmp_path / "layer"
    image.write_bytes(b"\0" * 4096)
    async with machine(tmp_path) as (vm, qemu):
        qemu.devices["other"] = {"bus": "layer1", "memdev": "x"}
        with pytest.raises(QmpError, match="layer1 is full"):
            await vm.add_layer(1, image)
    assert qemu.objects == {}


async def test_a_disk_is_plugged_and_unplugged_with_its_file(tmp_path: Path) -> None:
    """After the guest has let go, neither device nor block node is left."""
    async with machine(tmp_path) as (vm, qemu):
        await vm.add_disk(3, "/dev/fdset/1")
        assert qemu.devices["disk3"]["lun"] == 3
        assert qemu.nodes["disk3-node"]["file"] == {
            "driver": "file",
            "filename": "/dev/fdset/1",
            "discard": "unmap",
        }
        await vm.remove_disk(3)
    assert qemu.devices == {}
    assert qemu.nodes == {}


async def test_a_guest_that_keeps_a_disk_is_waited_for_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the disk."""
    monkeypatch.setattr(vm_module, "_UNPLUG_S", 0.05)
    async with machine(tmp_path) as (vm, qemu):
        qemu.stuck.add("disk0")
        await vm.add_disk(0, "/dev/fdset/1")
        with pytest.raises(DeadlineError, match="unplug disk 0"):
            await vm.remove_disk(0)


async def test_a_nic_is_plugged_and_unplugged_with_its_network(tmp_path: Path) -> None:
    """Behind the port of its number, under the address that the guest is told."""
    async with machine(tmp_path) as (vm, qemu):
        await vm.add_nic(0, "52:54:00:00:00:01", {"type": "user"})
        device = qemu.devices["nic0"]
        assert device["bus"] == "nic0-port"
        assert device["mac"] == "52:54:00:00:00:01"
        assert qemu.networks[str(device["netdev"])]["type"] == "user"
        await vm.remove_nic(0)
    assert qemu.devices == {}
    assert qemu.networks == {}


async def test_a_nic_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """Neither one beyond the ports, nor one that QEMU refuses."""
    async with machine(tmp_path) as (vm, qemu):
        await vm.add_nic(0, "52:54:00:00:00:01", {"type": "user"})
        networks = dict(qemu.networks)
        qemu.devices["other"] = {"bus": "nic1-port"}
        with pytest.raises(QmpError, match="is full"):
            await vm.add_nic(1, "52:54:00:00:00:02", {"type": "user"})
        with pytest.raises(GcsError, match="NIC 2: the VM was started with ports for 2"):
            await vm.add_nic(2, "52:54:00:00:00:03", {"type": "user"})
        assert qemu.networks == networks


def test_ports_of_nics_are_none_of_the_layers() -> None:
    """Slots, chassis and addresses are unique, however many there are of both."""
    config = VmConfig(
        kernel=Path("/k"),
        initrd=Path("/i"),
        pmem_ports=MAX_PMEM_PORTS,
        nic_ports=MAX_NIC_PORTS,
    )
    ports = [d for d in option(qemu_argv(config, WIRING), "-device") if "root-port" in d]
    for name in ("id", "addr", "chassis", "slot"):
        found = {m[1] for d in ports if (m := re.search(rf"\b{name}=([^,]+)", d))}
        assert len(found) == MAX_PMEM_PORTS + MAX_NIC_PORTS


# -- start and death ---------------------------------------------------------------------------


#: Stands in for vhost-device-vsock, which takes one connection after a moment.
_LISTEN = (
    "import socket, sys, time;"
    "sock = socket.socket(socket.AF_UNIX);"
    "sock.bind(sys.argv[1]); time.sleep(0.5); sock.listen();"
    "time.sleep(600)"
)


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def start(tmp_path: Path, record: Callable[[Child], None], vsock: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    async with open_vm(CONFIG, state, vsock_program=str(vsock), record=record):
        await trio.sleep_forever()


async def test_an_early_death_of_the_vsock_program_is_told_with_its_words(
    tmp_path: Path,
) -> None:
    """No wait for a socket that will never come."""
    vsock = program(tmp_path, "vsock", "echo bad socket >&2; exit 3")
    with pytest.raises(
        VmError, match="vhost-device-vsock ended with status 3; it printed: bad socket"
    ):
        await start(tmp_path, lambda _: None, vsock)


async def test_an_early_death_of_qemu_is_told_and_leaves_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other program is ended, and its sockets are removed."""
    vsock = program(tmp_path, "vsock", f"exec python3 -c '{_LISTEN}' $4")
    program(tmp_path, "qemu-system-x86_64", "echo no such machine >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    started: list[Child] = []
    with pytest.raises(VmError, match="QEMU ended with status 1; it printed: no such machine"):
        await start(tmp_path, started.append, vsock)
    assert [child.exit_status is not None for child in started] == [True, True]
    left = {path.name for path in (tmp_path / "state").iterdir()}
    assert left == {"qemu.log", "serial.log", "vsock.log"}


async def test_a_cancelled_start_leaves_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while QEMU has not greeted yet ends both programs."""
    monkeypatch.setattr("gcs.host.child.TERM_GRACE_S", 60.0)
    vsock = program(tmp_path, "vsock", f"exec python3 -c '{_LISTEN}' $4")
    program(tmp_path, "qemu-system-x86_64", "exec sleep 600")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    started: list[Child] = []
    async with trio.open_nursery() as nursery:

        def record(child: Child) -> None:
            started.append(child)
            if len(started) == 2:
                nursery.cancel_scope.cancel()

        nursery.start_soon(start, tmp_path, record, vsock)
    assert [child.exit_status for child in started] == [-15, -15]


async def test_qemu_starts_when_the_vsock_program_takes_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket is there before that: who connects then is refused."""
    vsock = program(tmp_path, "vsock", f"exec python3 -c '{_LISTEN}' $4")
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    path = tmp_path / "state" / "vhost-user"
    qemu = f"python3 -c '{connect}' {path} && echo connected; exit 3"
    program(tmp_path, "qemu-system-x86_64", qemu)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(VmError, match="QEMU ended with status 3; it printed: connected"):
        await start(tmp_path, lambda _: None, vsock)


def test_names_of_other_sockets_are_any_bytes(tmp_path: Path) -> None:
    """They are no text, and what would end a line of one ends none here."""
    path = tmp_path / "vhost\x85\x0cuser"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as ours:
        other.bind(b"\0gcs-test \xff\xfe\x0c%d" % os.getpid())
        ours.bind(str(path))
        assert not vm_module._is_listened_on(path)
        ours.listen()
        assert vm_module._is_listened_on(path)
