"""Make the images that LinuxKit lays over each other: the guest's tree, part by part.

It will not hold the order (``initramfs/*.yml`` do) nor the boot form (``initrd``).
"""

import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from initramfs.recipes import cache, debian, oci, tree, venv
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step, StepError
from initramfs.recipes.tree import Entry, Tree

LIB = "lib/x86_64-linux-gnu/"
USR_LIB = "usr/lib/x86_64-linux-gnu/"
#: The guest's interpreter: Debian 12's, whatever this machine has.
PYTHON = "python3.11"
STDLIB = f"usr/lib/{PYTHON}"
#: Where the agent and its packages live.
OURS = "usr/lib/gcs"
#: Recipes are text: these modules decide the bytes of every image.
RECIPES = ("images.py", "oci.py", "tree.py")


@dataclass(frozen=True, slots=True)
class FromDebian:
    """An image of files picked from Debian packages."""

    packages: tuple[str, ...]
    #: What is kept of them: paths, patterns, or folders ending in a slash.
    keep: tuple[str, ...]


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
#: Its systemd support is linked in, so the libraries of that come along.
CRUN = FromDebian(
    (
        *("crun", "libcap2", "libyajl2", "libsystemd0", "libgcrypt20", "libgpg-error0"),
        *("liblzma5", "liblz4-1", "libzstd1"),
    ),
    (
        *("usr/bin/crun", f"{LIB}libcap.so.*", f"{USR_LIB}libyajl.so.*"),
        *(f"{USR_LIB}libsystemd.so.*", f"{USR_LIB}libgcrypt.so.*", f"{LIB}libgpg-error.so.*"),
        *(f"{LIB}liblzma.so.*", f"{USR_LIB}liblz4.so.*", f"{USR_LIB}libzstd.so.*"),
    ),
)
INTERPRETER = FromDebian(
    (
        *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
        *("libexpat1", "zlib1g", "libffi8"),
    ),
    (
        *(f"usr/bin/{PYTHON}", f"{STDLIB}/", f"{LIB}libexpat.so.*", f"{LIB}libz.so.*"),
        f"{USR_LIB}libffi.so.*",
    ),
)
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
PICKED = {"runc": RUNC, "crun": CRUN, "chrony": CHRONY, "xfs": XFS, "cryptsetup": CRYPTSETUP}
#: What of the standard library stays behind: build tools, graphics, terminals, databases,
#: and extension modules whose libraries (OpenSSL, SQLite, …) the guest does not carry.
LEFT_OUT = tuple(
    f"{STDLIB}/{name}"
    for name in (
        *("test/", "tests/", "idlelib/", "tkinter/", "turtledemo/", "ensurepip/", "distutils/"),
        *("lib2to3/", "pydoc_data/", "pydoc.py", "doctest.py", "turtle.py", "venv/", "curses/"),
        *("sqlite3/", "dbm/", "wsgiref/", "xmlrpc/", "config-3.11-*", "LICENSE.txt"),
        *("ssl.py", "sitecustomize.py", "__phello__/", "EXTERNALLY-MANAGED"),
        *("xml/", "html/", "msilib/", "_pydecimal.py", "_pyio.py"),
        *(
            f"{name}.py"
            for name in ("mailbox", "smtpd", "smtplib", "nntplib", "imaplib", "cgi")
        ),
        *(f"{name}.py" for name in ("ftplib", "poplib", "telnetlib", "pdb", "pickletools")),
        *(f"{name}.py" for name in ("aifc", "wave", "sunau", "sndhdr", "chunk", "webbrowser")),
        *(f"{name}.py" for name in ("trace", "modulefinder", "pstats", "profile", "cProfile")),
        # Text here is UTF-8; zipfile's cp437 is for archives older than that.
        *(
            f"encodings/{name}*"
            for name in ("cp", "iso", "mac", "koi", "big5", "euc", "gb", "hz")
        ),
        *(f"lib-dynload/_{name}.*" for name in ("ssl", "hashlib", "sqlite3", "dbm", "gdbm")),
        *(f"lib-dynload/_{name}*" for name in ("codecs_", "curses", "bz2", "lzma", "crypt")),
        *(f"lib-dynload/{name}.*" for name in ("readline", "nis", "ossaudiodev", "audioop")),
        *(f"lib-dynload/_{name}.*" for name in ("uuid", "lsprof", "tkinter", "zoneinfo")),
        *(
            "lib-dynload/_test*",
            "lib-dynload/_ctypes_test*",
            "lib-dynload/_xxtest*",
            "lib-dynload/xx*",
        ),
    )
)
#: The C programs by their place in the guest: their sources, and how they are linked. PID 1
#: is static, so that it can say what is wrong in a VM whose libraries are missing.
PROGRAMS = {
    "init": (("init.c", "setup.c", "store.c", "dial.c"), ("-static",)),
    "bin/vsockexec": (("vsockexec.c", "relay.c", "store.c", "dial.c"), ()),
}
C_FLAGS = ("-Os", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none")
#: Modules of others that ours stand in for, by their place among the packages.
STAND_INS = {"ssl.py": "ssl.py", "pyroute2/__init__.py": "pyroute2.py"}
PACKAGES_LOCK = "initramfs/lock/guest.txt"
#: Wheels are picked for the guest's interpreter, not for this machine's.
WHEEL_TARGET = (
    *("--python-version", "3.11", "--implementation", "cp"),
    *("--abi", "cp311", "--abi", "abi3", "--abi", "none"),
    *("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"),
)
#: What wheels carry that no program imports.
WHEEL_WASTE = (
    "*.dist-info/*",
    "*/tests/*",
    "*/_tests/*",
    "*.pyi",
    "*.c",
    "*.h",
    "*.pxd",
    "*/py.typed",
)


def make(engine: Engine, name: str) -> Path:
    """Return the archive of one image, by the name that the yml files give it."""
    makers: dict[str, Callable[[], Path]] = {
        "base": lambda: _debian(engine, "base", BASE, _base),
        "python": lambda: _debian(engine, "python", INTERPRETER, _python),
        "packages": lambda: _packages(engine),
        "agent": lambda: _agent(engine),
        "init": lambda: _init(engine),
    }
    if name in PICKED:
        return _debian(engine, name, PICKED[name], _plain)
    if name not in makers:
        known = ", ".join((*PICKED, *makers))
        raise StepError(f"images: no recipe for gcs/{name}; there are {known}")
    return makers[name]()


def debian_packages() -> set[str]:
    """Return every Debian package that some image takes files from."""
    return {name for part in (BASE, INTERPRETER, *PICKED.values()) for name in part.packages}


def _recipe_inputs(engine: Engine) -> dict[str, str | bytes]:
    folder = engine.repo / "initramfs" / "recipes"
    return {name: (folder / name).read_bytes() for name in RECIPES}


def _make(
    engine: Engine,
    name: str,
    inputs: Mapping[str, str | bytes],
    contents: Callable[[Step, Path], Tree],
) -> Path:
    """Return the archive of one image, building its tree in a scratch folder if need be."""
    key = cache.key_of(_recipe_inputs(engine) | dict(inputs) | {"name": name})

    def build(step: Step, folder: Path) -> None:
        scratch = folder / "scratch"
        scratch.mkdir()
        tar = tree.to_tar(contents(step, scratch))
        shutil.rmtree(scratch)
        write_archive(folder, f"docker.io/gcs/{name}:v1", tar)

    return engine.make(f"image-{name}", key, build) / "image.tar"


def write_archive(folder: Path, name: str, tar: bytes) -> None:
    """Write ``image.tar``, of the one shape that LinuxKit imports.

    The index is nested and has a platform (it panics without), the layer is gzip (it cannot
    read others), and the name is an annotation (the import is otherwise lost).
    """
    layout = folder / "layout"
    layout.mkdir()
    writer = oci.Layout(layout)
    # Fast compression: this layer lives only until LinuxKit has unpacked it.
    manifest = writer.image(oci.Image([oci.gzip_layer(tar, level=1)]))
    nested = writer.blob(oci.INDEX, oci.encode(oci.index([manifest])))
    writer.finish([nested | {"annotations": {"io.containerd.image.name": name}}])
    oci.pack(layout, folder / "image.tar")
    shutil.rmtree(layout)


def _debian(
    engine: Engine, name: str, part: FromDebian, finish: Callable[[Step, Path, Tree], Tree]
) -> Path:
    pool = debian.Pool(engine)
    used = pool.resolve(part.packages)

    def contents(step: Step, scratch: Path) -> Tree:
        picked: Tree = {}
        for package in used:
            whole = tree.from_deb(step, pool.path(package), scratch)
            picked |= {p: e for p, e in whole.items() if tree.matches(p, part.keep)}
        return finish(step, scratch, picked)

    return _make(engine, name, {package.name: package.sha256 for package in used}, contents)


def _plain(step: Step, scratch: Path, picked: Tree) -> Tree:
    return picked


def _base(step: Step, scratch: Path, picked: Tree) -> Tree:
    busybox = scratch / "busybox"
    busybox.write_bytes(picked["bin/busybox"].data)
    busybox.chmod(0o755)
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    applets = {name for name in listed.stdout.split() if name not in ("busybox", "init")}
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
            "etc/hosts": tree.regular("127.0.0.1 localhost\n::1 localhost\n"),
            "var/run": tree.symlink("../run"),
        }
    )


def _python(step: Step, scratch: Path, picked: Tree) -> Tree:
    kept = {p: e for p, e in picked.items() if not tree.matches(p, LEFT_OUT)}
    sources = {p: e for p, e in kept.items() if p.endswith(".py")}
    rest = {p: e for p, e in kept.items() if not p.endswith((".py", ".pyc"))}
    return rest | _compiled(step, scratch, sources) | {"usr/bin/python3": tree.symlink(PYTHON)}


def _compiled(step: Step, scratch: Path, sources: Tree) -> Tree:
    """Return the same modules as .pyc in place of .py.

    They are never compared with a source: the guest has none, and its clock may be wrong.
    """
    root = scratch / "compile"
    for path, entry in sources.items():
        if entry.kind == tarfile.REGTYPE:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(entry.data)
    mode = "unchecked-hash"
    argv: list[str | Path] = [PYTHON, "-I", "-m", "compileall", "-b", "-q", "-j0"]
    # The guest's paths, not the scratch folder's, are what tracebacks show.
    step.run([*argv, "-s", root, "-p", "/", "--invalidation-mode", mode, root])
    compiled = {
        str(path.relative_to(root)): tree.regular(path.read_bytes())
        for path in root.rglob("*.pyc")
    }
    shutil.rmtree(root)
    return compiled


def _packages(engine: Engine) -> Path:
    wheels = venv.download(engine, "guest-wheels", PACKAGES_LOCK, WHEEL_TARGET)

    def contents(step: Step, scratch: Path) -> Tree:
        files: Tree = {}
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                files |= {
                    f"{OURS}/{name}": tree.regular(archive.read(name))
                    for name in archive.namelist()
                    if not name.endswith("/") and not tree.matches(name, WHEEL_WASTE)
                }
        sources = {p: e for p, e in files.items() if p.endswith(".py")}
        rest = {
            path: _stripped(step, scratch, entry) if path.endswith(".so") else entry
            for path, entry in files.items()
            if path not in sources
        }
        return rest | _compiled(step, scratch, sources)

    return _make(engine, "packages", {"wheels": wheels.name}, contents)


def _stripped(step: Step, scratch: Path, library: Entry) -> Entry:
    """Return an extension module without the symbols that only a debugger reads."""
    path = scratch / "library.so"
    path.write_bytes(library.data)
    step.run(["strip", "--strip-unneeded", path])
    return tree.regular(path.read_bytes())


def agent_modules(repo: Path) -> Tree:
    """Return the agent's modules by their place in the guest, the host's side left out."""
    package = repo / "gcs"
    return {
        f"{OURS}/gcs/{path.relative_to(package)}": tree.regular(path.read_bytes())
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] not in ("host", "shim")
    }


def _agent(engine: Engine) -> Path:
    modules = agent_modules(engine.repo)
    ours = engine.repo / "initramfs" / "agent"
    for place, name in STAND_INS.items():
        modules[f"{OURS}/{place}"] = tree.regular((ours / name).read_bytes())
    launcher = (ours / "gcs").read_bytes()

    def contents(step: Step, scratch: Path) -> Tree:
        return _compiled(step, scratch, modules) | {"bin/gcs": tree.regular(launcher, 0o755)}

    inputs = {path: entry.data for path, entry in modules.items()}
    return _make(engine, "agent", inputs | {"launcher": launcher}, contents)


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
    return _make(engine, "init", sources, contents)
