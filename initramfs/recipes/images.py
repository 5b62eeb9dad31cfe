"""Make the images that LinuxKit lays over each other: the guest's tree, part by part.

It will not hold the order (``initramfs/*.yml`` do) nor the boot form (``initrd``).
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

from initramfs.recipes import archive, python, tree
from initramfs.recipes.archive import LIB, USR_LIB, FromDebian
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step, StepError
from initramfs.recipes.tree import Tree

#: The C library, the way to format a scratch disk, and a shell to look around with.
BASE = FromDebian(
    (
        *("busybox-static", "libc6", "libgcc-s1", "e2fsprogs", "libext2fs2", "libcom-err2"),
        *("libblkid1", "libuuid1"),
    ),
    (
        *("bin/busybox", "lib64/", "sbin/mke2fs", "etc/mke2fs.conf"),
        *(f"{LIB}ld-linux-x86-64.so.2", f"{LIB}libc.so.6", f"{LIB}libm.so.6"),
        *(
            f"{LIB}libdl.so.2",
            f"{LIB}libpthread.so.0",
            f"{LIB}librt.so.1",
            f"{LIB}libutil.so.1",
        ),
        *(f"{LIB}libresolv.so.2", f"{LIB}libnss_dns.so.2", f"{LIB}libnss_files.so.2"),
        *(f"{LIB}libgcc_s.so.1", f"{LIB}libext2fs.so.*", f"{LIB}libe2p.so.*"),
        *(f"{LIB}libcom_err.so.*", f"{USR_LIB}libblkid.so.*", f"{USR_LIB}libuuid.so.*"),
        *(f"{LIB}libblkid.so.*", f"{LIB}libuuid.so.*"),
    ),
)
RUNC = FromDebian(("runc", "libseccomp2"), ("usr/sbin/runc", f"{USR_LIB}libseccomp.so.*"))
#: Its systemd support is linked in; the libraries of that, ten times its size, are not here: a
#: stand-in says that there is no systemd.
CRUN = FromDebian(
    ("crun", "libcap2", "libyajl2"),
    ("usr/bin/crun", f"{LIB}libcap.so.*", f"{USR_LIB}libyajl.so.*"),
)
#: Names of busybox that the guest has no use for: package managers, and ways in for somebody.
UNWANTED = frozenset(
    (
        *("dpkg", "dpkg-deb", "rpm", "rpm2cpio"),
        *("getty", "login", "su", "sulogin", "svc", "svok", "telnetd"),
    )
)
#: What LinuxKit puts there, whatever an image has.
HOSTS = """\
127.0.0.1       localhost
::1     localhost ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""
SYSTEMD = f"{USR_LIB}libsystemd.so.0"
#: What the full image has over the base one, each a part of its own: `full.yml` has a line for
#: each, and what else they are linked with is in the base image.
CHRONY = FromDebian(
    (
        *("chrony", "libgnutls30", "libnettle8", "libhogweed6", "libgmp10", "libp11-kit0"),
        *("libidn2-0", "libunistring2", "libtasn1-6"),
    ),
    (
        *("usr/sbin/chronyd", f"{USR_LIB}libgnutls.so.*", f"{USR_LIB}libnettle.so.*"),
        *(f"{USR_LIB}libhogweed.so.*", f"{USR_LIB}libgmp.so.*", f"{USR_LIB}libp11-kit.so.*"),
        *(f"{USR_LIB}libidn2.so.*", f"{USR_LIB}libunistring.so.*", f"{USR_LIB}libtasn1.so.*"),
    ),
)
XFS = FromDebian(
    ("xfsprogs", "libinih1", "liburcu8"),
    ("sbin/mkfs.xfs", f"{USR_LIB}libinih.so.*", f"{USR_LIB}liburcu.so.*"),
)
CRYPTSETUP = FromDebian(
    (
        *("cryptsetup-bin", "libcryptsetup12", "libpopt0", "libdevmapper1.02.1", "libssl3"),
        *("libargon2-1", "libjson-c5", "libudev1", "libselinux1", "libpcre2-8-0"),
    ),
    (
        *("sbin/cryptsetup", f"{LIB}libcryptsetup.so.*", f"{LIB}libdevmapper.so.*"),
        *(f"{USR_LIB}libpopt.so.*", f"{USR_LIB}libcrypto.so.*", f"{USR_LIB}libargon2.so.*"),
        *(f"{USR_LIB}libjson-c.so.*", f"{USR_LIB}libudev.so.*", f"{LIB}libselinux.so.*"),
        f"{USR_LIB}libpcre2-8.so.*",
    ),
)
#: The parts that are files of Debian packages and nothing else, by the names of the yml files.
PICKED = {"runc": RUNC, "chrony": CHRONY, "xfs": XFS, "cryptsetup": CRYPTSETUP}
#: The C programs by their place in the guest: their sources, and how they are linked. PID 1
#: is static, so that it can say what is wrong in a VM whose libraries are missing.
PROGRAMS = {
    "init": (("init.c", "root.c", "setup.c", "store.c", "dial.c"), ("-static",)),
    "bin/vsockexec": (("vsockexec.c", "relay.c", "store.c", "dial.c"), ()),
}
C_FLAGS = ("-Os", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none")


def make(engine: Engine, name: str) -> Path:
    """Return the archive of one image, by the name that the yml files give it."""
    if name in PICKED:
        return archive.from_debian(engine, name, PICKED[name])
    if name not in MAKERS:
        known = ", ".join((*PICKED, *MAKERS))
        raise StepError(f"images: no recipe for gcs/{name}; there are {known}")
    return MAKERS[name](engine)


def debian_packages() -> set[str]:
    """Return every Debian package that some image takes files from."""
    parts = (BASE, CRUN, python.INTERPRETER, *PICKED.values())
    return {name for part in parts for name in part.packages}


def _base(engine: Engine) -> Path:
    return archive.from_debian(engine, "base", BASE, _with_folders)


def _with_folders(step: Step, scratch: Path, picked: Tree) -> Tree:
    busybox = scratch / "busybox"
    busybox.write_bytes(picked["bin/busybox"].data)
    busybox.chmod(0o755)
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    applets = {*listed.stdout.split()} - {"busybox", "init"} - UNWANTED
    links = {f"bin/{name}": tree.symlink("busybox") for name in applets}
    # Below these the init mounts; its own root is read-only by then.
    folders = ("dev", "proc", "sys", "run", "tmp", "root", "etc", "var", "mnt")
    return (
        {name: tree.directory() for name in folders}
        | links
        | picked
        | {
            "sbin/mkfs.ext4": tree.symlink("mke2fs"),
            "etc/passwd": tree.regular("root:x:0:0:root:/root:/bin/sh\n"),
            "etc/group": tree.regular("root:x:0:\ntty:x:5:\n"),
            "etc/nsswitch.conf": tree.regular(
                "passwd: files\ngroup: files\nhosts: files dns\n"
            ),
            "etc/hosts": tree.regular(HOSTS),
            "var/run": tree.symlink("../run"),
        }
    )


def _crun(engine: Engine) -> Path:
    folder = engine.repo / "initramfs" / "crun"
    source, versions = folder / "systemd.c", folder / "systemd.map"

    def finish(step: Step, scratch: Path, picked: Tree) -> Tree:
        out = scratch / "library"
        named = f"-Wl,-soname,libsystemd.so.0,--version-script={versions}"
        step.run(["gcc", *C_FLAGS, "-shared", "-fPIC", named, "-o", out, source])
        return picked | {SYSTEMD: tree.regular(out.read_bytes())}

    inputs = {path.name: path.read_bytes() for path in (source, versions)}
    return archive.from_debian(engine, "crun", CRUN, finish, inputs)


def _init(engine: Engine) -> Path:
    folder = engine.repo / "initramfs" / "init"

    def contents(step: Step, scratch: Path) -> Tree:
        made: Tree = {}
        for place, (sources, linking) in PROGRAMS.items():
            out = scratch / "program"
            argv: list[str | Path] = ["gcc", *C_FLAGS, *linking, "-o", out]
            step.run([*argv, *(folder / source for source in sources)])
            made[place] = tree.regular(out.read_bytes(), 0o755)
        return made

    sources = {path.name: path.read_bytes() for path in folder.glob("*.[ch]")}
    return archive.make(engine, "init", sources, contents)


#: The parts that take more than picking files.
MAKERS: dict[str, Callable[[Engine], Path]] = {
    "base": _base,
    "crun": _crun,
    "python": python.interpreter,
    "packages": python.packages,
    "agent": python.agent,
    "init": _init,
}
