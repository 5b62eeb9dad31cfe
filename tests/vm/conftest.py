"""The ladder: `vm` (configured) → `vm_booted` → `vm_connected` → `container` (created).

One VM is shared by all tests that stand on the ladder; `gcsctl` boots one for each run. What a
VM has left to say (its console, QEMU's command line, the bridge's calls) is shown with a
failure.
"""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from gcs.host.artifacts import find_boot_image, find_kernel, find_vsock_program
from gcs.host.container import Container, rootfs_path
from gcs.host.qemu import VmConfig
from gcs.host.spec import Command, User, runtime_spec
from gcs.host.state import LOG_NAMES
from gcs.host.vm import find_vhost_vsock
from tests.support.shared_vm import SharedVm
from tests.support.stage import ROOT, Stage
from tests.support.web import web_server

#: The lines of each log that are shown with a failure.
_SHOWN_LINES = 60
#: Of the image, in the guest, bottom first.
_LAYERS = tuple(f"/run/layers/p{n}" for n in range(7))


@pytest.fixture(scope="session")
def image() -> Path:
    """The seven-layer image that `make run` shows."""
    path = ROOT / "build" / "nyancat"
    assert path.exists(), f"{path} is missing; make setup builds it"
    return path


@pytest.fixture(scope="session")
def memory_mib() -> int:
    """Dimension: the VM's memory."""
    return 256


@pytest.fixture(scope="session")
def vcpus() -> int:
    """Dimension: the VM's processors."""
    return 2


@pytest.fixture(scope="session")
def accel() -> str:
    """Dimension: kvm or tcg."""
    return os.environ.get("GCS_TEST_ACCEL", "tcg")


@pytest.fixture(scope="session")
def vm(image: Path, memory_mib: int, vcpus: int, accel: str) -> Iterator[SharedVm]:
    """A VM that is configured."""
    boots_from = find_boot_image()
    config = VmConfig(
        kernel=find_kernel(None),
        initrd=boots_from.initrd,
        root_image=boots_from.root_image,
        memory_mib=memory_mib,
        cpus=vcpus,
        pmem_ports=len(_LAYERS) + 4,
        nic_ports=10,
        accelerator=accel,
    )
    program = None if find_vhost_vsock() else str(find_vsock_program(None))
    # Sockets lie in it, so its name is short.
    folder = Path(tempfile.mkdtemp(prefix="gcs-vm-", dir="/tmp"))
    # It tells of lost packets on this level only.
    os.environ.setdefault("RUST_LOG", "debug")
    machine = SharedVm(config, folder, program, image)
    yield machine
    machine.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def vm_booted(vm: SharedVm) -> SharedVm:
    """The VM, its agent connected."""
    vm.boot()
    return vm


@pytest.fixture(scope="session")
def vm_connected(vm_booted: SharedVm) -> SharedVm:
    """The VM, its agent negotiated with, seven layers and a scratch disk mounted."""
    vm_booted.connect()
    return vm_booted


@pytest.fixture
def command() -> Sequence[str]:
    """What the container runs; a test parametrises it."""
    return ("true",)


@pytest.fixture
def container(vm_connected: SharedVm, command: Sequence[str]) -> Iterator[Container]:
    """A container that is created, not started; it is removed afterwards if it has exited."""
    cid = secrets.token_hex(32)
    made = vm_connected.container(cid)
    wish = Command(arguments=tuple(command))
    config = vm_connected.image.config
    spec = runtime_spec(config, wish, User(), cid, rootfs_path(cid))
    vm_connected.call(made.create, spec, _LAYERS)
    yield made
    vm_connected.call(made.remove)


@pytest.fixture(scope="session")
def urls() -> Iterator[Sequence[str]]:
    """Two servers of this machine, as a container in QEMU's user network sees them."""
    with (
        web_server("127.0.0.1", socket.AF_INET) as v4,
        web_server("::1", socket.AF_INET6) as v6,
    ):
        yield f"http://10.0.2.2:{v4}/", f"http://[fec0::2]:{v6}/"


@pytest.fixture
def gcsctl(image: Path) -> Iterator[Stage]:
    """gcsctl, as a user has it, in folders of its own for state and logs of failures."""
    with _stage(image) as stage:
        yield stage


@pytest.fixture(scope="module")
def gcsctl_for_module(image: Path) -> Iterator[Stage]:
    """The same for all tests of a module, so that they can share a VM."""
    with _stage(image) as stage:
        yield stage


@contextmanager
def _stage(image: Path) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp") as name:
        folder = Path(name)
        for child in ("run", "state", "tmp"):
            (folder / child).mkdir(mode=0o700)
        environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "XDG_STATE_HOME": str(folder / "state"),
            "TMPDIR": str(folder / "tmp"),
        }
        yield Stage(environment, image, folder / "run", folder / "state")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the VMs of the test have left to say."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            for log in _logs(value):
                lines = log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
                report.sections.append((str(log), "\n".join(lines)))
    return report


def _logs(value: object) -> list[Path]:
    if isinstance(value, SharedVm):
        folders = [value.folder]
    elif isinstance(value, Stage):
        folders = [*value.state.glob("gcs/failed/*"), *value.runtime.glob("gcs/[!.]*/")]
    elif isinstance(value, Path):
        folders = [value]  # of a test that opens its VM itself
    else:
        folders = []
    return [
        folder / name for folder in folders for name in LOG_NAMES if (folder / name).exists()
    ]
