"""SCSI: disks by controller and LUN in a made-up sysfs, and links to them."""

from pathlib import Path

import pytest

from gcs.linux import scsi
from tests.support.sysfs import Sysfs


@pytest.fixture
def controllers(tmp_path: Path) -> list[Path]:
    """Return two controllers, by PCI address; the kernel numbered them the other way round."""
    sysfs = Sysfs(tmp_path)
    second = sysfs.add_virtio_scsi(0, "0000:00:1e.0", "0000:02:00.0")
    first = sysfs.add_virtio_scsi(10, "0000:00:02.0", "0000:01:00.0")
    sysfs.add_disk(first, 0, "sda")
    sysfs.add_disk(second, 0, "sdb")
    sysfs.add_disk(second, 63, "sdaa")
    return [first, second]


@pytest.mark.usefixtures("controllers")
def test_controllers_are_in_the_order_of_their_addresses(tmp_path: Path) -> None:
    """Not in that of the kernel's numbers, which follow the probing."""
    assert list(scsi.host_numbers(tmp_path).items()) == [
        ("0000:01:00.0", 10),
        ("0000:02:00.0", 0),
    ]


@pytest.mark.usefixtures("controllers")
@pytest.mark.parametrize(
    ("controller", "lun", "node"),
    [
        (0, 0, "/dev/sda"),
        (1, 0, "/dev/sdb"),
        (1, 63, "/dev/sdaa"),
        (0, 1, None),
        (2, 0, None),
    ],
)
def test_disks_are_found_by_controller_and_lun(
    tmp_path: Path, controller: int, lun: int, node: str | None
) -> None:
    """What is not there is None, whether the disk or the controller."""
    assert scsi.find(controller, lun, sysfs=tmp_path) == node


@pytest.mark.usefixtures("controllers")
def test_a_pci_address_overrides_the_number(tmp_path: Path) -> None:
    """The controller that it names, or none at all."""
    assert scsi.find(0, 0, "0000:02:00.0", sysfs=tmp_path) == "/dev/sdb"
    assert scsi.find(0, 0, "0000:03:00.0", sysfs=tmp_path) is None


def test_without_a_controller_there_is_no_disk(tmp_path: Path) -> None:
    """The driver's folder need not exist."""
    Sysfs(tmp_path)
    assert scsi.host_numbers(tmp_path) == {}
    assert scsi.find(0, 0, sysfs=tmp_path) is None


def test_a_disk_is_let_go_of(tmp_path: Path, controllers: list[Path]) -> None:
    """That one, and no other."""
    scsi.remove(1, 63, sysfs=tmp_path)
    written = {
        path.parent.name: path.read_text() for path in tmp_path.glob("devices/**/delete")
    }
    assert written == {"10:0:0:0": "", "0:0:0:0": "", "0:0:0:63": "1\n"}
    assert len(controllers) == 2


@pytest.mark.usefixtures("controllers")
def test_an_absent_disk_is_let_go_of_already(tmp_path: Path) -> None:
    """Nothing is made where it would have been."""
    before = sorted(tmp_path.rglob("*"))
    scsi.remove(0, 7, sysfs=tmp_path)
    scsi.remove(5, 0, sysfs=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_partition_is_found_by_its_number(tmp_path: Path) -> None:
    """Whatever its name: those of disks that end in a digit have a letter before the number."""
    sysfs = Sysfs(tmp_path)
    device = sysfs.add_disk(sysfs.add_virtio_scsi(0, "0000:00:02.0", "0000:01:00.0"), 0, "sda")
    for name, number in (("sda1", "1\n"), ("sda12", "12\n")):
        (device / "block/sda" / name).mkdir()
        (device / "block/sda" / name / "partition").write_text(number)
    (device / "block/sda/queue").mkdir()
    assert scsi.find(0, 0, partition=0, sysfs=tmp_path) == "/dev/sda"
    assert scsi.find(0, 0, partition=1, sysfs=tmp_path) == "/dev/sda1"
    assert scsi.find(0, 0, partition=12, sysfs=tmp_path) == "/dev/sda12"
    assert scsi.find(0, 0, partition=2, sysfs=tmp_path) is None


def test_a_link_to_a_disk_is_made_once_and_removed_as_one(tmp_path: Path) -> None:
    """The same link is fine, another one is refused; what is no link is not removed."""
    link = tmp_path / "a/b/link"
    scsi.make_link("/dev/sda", str(link))
    scsi.make_link("/dev/sda", str(link))
    assert str(link.readlink()) == "/dev/sda"
    with pytest.raises(FileExistsError, match="link"):
        scsi.make_link("/dev/sdb", str(link))
    scsi.remove_link(str(link))
    scsi.remove_link(str(link))
    assert not link.is_symlink()
    link.write_text("mine")
    with pytest.raises(FileExistsError, match="link"):
        scsi.make_link("/dev/sda", str(link))
    with pytest.raises(OSError, match=f"unlink {link}: not a symbolic link"):
        scsi.remove_link(str(link))
    assert link.read_text() == "mine"


def test_a_link_that_can_not_be_made_leaves_no_folder(tmp_path: Path) -> None:
    """The folders on the way to it go again."""
    with pytest.raises(OSError, match="File name too long"):
        scsi.make_link("/dev/sda", f"{tmp_path}/a/b/{'x' * 300}")
    assert list(tmp_path.iterdir()) == []
