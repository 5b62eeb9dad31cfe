"""mountinfo as the kernel writes it."""

from gcs.linux import mounts
from gcs.linux.mounts import Mount

_ROOT = "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw,discard"


def _parse(line: str) -> Mount:
    (mount,) = mounts.parse(line + "\n")
    return mount


def test_a_line_is_a_mount() -> None:
    """Each field is where proc_pid_mountinfo(5) has it."""
    assert _parse(_ROOT) == Mount(
        mount_id=22,
        target="/",
        options=("rw", "relatime"),
        fstype="ext4",
        source="/dev/root",
        super_options=("rw", "discard"),
    )


def test_optional_fields_may_be_any_number() -> None:
    """None, one or three stand in front of the dash."""
    for optional in ("", "shared:1 ", "shared:1 master:7 propagate_from:2 "):
        mount = _parse(f"36 35 98:0 /mnt1 /mnt2 rw,noatime {optional}- xfs /dev/sda1 rw,dax")
        assert (mount.target, mount.fstype) == ("/mnt2", "xfs")
        assert mount.super_options == ("rw", "dax")


def test_octal_escapes_are_undone() -> None:
    """Space, tab, line end and backslash, in the target and in the source."""
    mount = _parse(r"1 0 0:1 / /a\040b\011c\012d\134e rw - tmpfs x\040y rw")
    assert mount.target == "/a b\tc\nd\\e"
    assert mount.source == "x y"


def test_a_dash_in_a_path_ends_nothing() -> None:
    """The separator has spaces around it, and those of paths are escaped."""
    mount = _parse(r"1 0 0:1 / /a\040-\040b rw - tmpfs - rw")
    assert (mount.target, mount.source, mount.fstype) == ("/a - b", "-", "tmpfs")


def test_a_comma_in_an_option_s_value_ends_nothing() -> None:
    """Overlayfs escapes those of its paths."""
    mount = _parse(r"1 0 0:1 / /m rw - overlay overlay ro,lowerdir=/a\054b:/c\040d,xino=on")
    assert mount.super_options == ("ro", "lowerdir=/a,b:/c d", "xino=on")


def test_an_empty_source_is_a_source() -> None:
    """mount(2) takes "" for one."""
    assert _parse("1 0 0:1 / /m rw - tmpfs  rw").source == ""


def test_only_a_line_end_ends_a_line() -> None:
    """Form feeds and the line ends of Unicode may stand in a path."""
    path = "/a\fb\x1cc\x85d\u2028e\rf"
    text = f"1 0 0:1 / {path} rw - tmpfs t rw\n2 0 0:2 / /z rw - tmpfs t rw\n"
    assert [mount.target for mount in mounts.parse(text)] == [path, "/z"]


def test_nothing_is_no_mount() -> None:
    """An empty file lists none."""
    assert mounts.parse("") == ()
