"""Find out which Debian packages the build lacks on this machine, and install them.

It will not touch what is installed already, and asks the network only when something is
missing.
"""

import os
import shutil
import subprocess

from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step, StepError

#: Every package that building or running needs, and what for.
PACKAGES = {
    "python3-venv": "makes .venv",
    "gcc": "compiles PID 1 and the kernel",
    "libc6-dev": "headers and static libc for PID 1",
    "binutils": "links them, and strips what the guest does not need",
    "make": "builds the kernel",
    "flex": "makes the kernel's configuration parser",
    "bison": "makes the kernel's configuration parser",
    "bc": "computes the kernel's time constants",
    "libelf-dev": "objtool of the kernel build",
    "libssl-dev": "keys and hashes of the kernel build",
    "xz-utils": "unpacks the kernel's source",
    "zstd": "packs the initrd and image layers",
    "python3.11-minimal": "compiles the guest's Python files with the guest's interpreter",
    "ca-certificates": "checks the servers that Go modules and crates come from",
    "erofs-utils": "makes the root image",
    "e2fsprogs": "makes ext4 images of layers",
    "qemu-system-x86": "runs the utility VM",
    "ipxe-qemu": "option ROMs that QEMU wants for its NICs",
    "seabios": "firmware of the utility VM",
    "ovmf": "UEFI firmware, for the test that boots as generation 2 VMs of Hyper-V do",
    "skopeo": "copies images, and checks ours",
    "diod": "serves folders of the host to utility VMs",
    "bubblewrap": "confines diod to the folder that it serves",
    "passt": "is the network of containers that are run with --network passt",
    "util-linux": "ends QEMU with its service, and makes name spaces for the root tests",
    "runc": "runs containers of the root tests",
    "crun": "runs them as well",
    "busybox-static": "is what those containers are made of",
    "iproute2": "sets up and shows the links of the root tests",
    "procps": "lists processes for the root tests",
}


def ensure(engine: Engine) -> None:
    """Install what is missing of ``PACKAGES``, as root or through sudo.

    Raises:
        StepError: when it cannot, naming the command that would.
    """
    missing = [name for name in PACKAGES if not installed(name)]
    if not missing:
        engine.progress.found("system")
        return
    for name in missing:
        engine.progress.say(f"  installing {name}: {PACKAGES[name]}")
    with engine.progress.step("system", engine.cache.log("system")) as step:
        install(step, *missing)


def installed(name: str) -> bool:
    """Say whether a Debian package is installed."""
    argv = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", name]
    try:
        found = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError as error:
        raise StepError("system: no dpkg here: this build needs Debian 12 or later") from error
    return found.stdout == "installed"


def as_root(*argv: str) -> list[str]:
    """Return a command that runs as root: as it is, or through sudo.

    Raises:
        StepError: when this is neither root nor a user with sudo.
    """
    if os.geteuid() == 0:
        return list(argv)
    if shutil.which("sudo"):
        # Without a terminal there is nobody to type a password.
        return ["sudo", *([] if os.isatty(2) else ["-n"]), *argv]
    raise StepError(f"system: run as root, or as a user with sudo: {' '.join(argv)}")


def refresh_lists(step: Step) -> None:
    """Bring apt's lists up to date."""
    step.run(as_root("apt-get", "update"), foreground=True)


def install(step: Step, *names: str) -> None:
    """Install packages by apt, with fresh lists if the present ones do not do."""
    # Another apt at work (a fresh machine upgrades itself) is waited for, this many seconds.
    patience = ("-o", "DPkg::Lock::Timeout=300")
    argv = ["apt-get", *patience, "install", "--yes", "--no-install-recommends", *names]
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        step.run(as_root(*argv), env=quiet, foreground=True)
    except StepError:
        # On a fresh machine the lists are empty or name files that are gone.
        refresh_lists(step)
        step.run(as_root(*argv), env=quiet, foreground=True)
