"""Build the guest's kernel from Debian's source package and ``kconfig/``.

It will not choose options: the fragments do, and each says why. What was asked for is
compared with what came out, because Kconfig drops an unmet option without a word; `check` does
that without a build.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from initramfs.recipes import cache, debian, filler
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step, StepError

SOURCE = "linux-source-6.12"
#: Fixed so that the same source and configuration give the same image.
STAMP = {
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "gcs",
    "KBUILD_BUILD_HOST": "gcs",
    "KBUILD_BUILD_VERSION": "1",
}
#: Raised when the commands below, or `filler`, change what comes out.
RECIPE = "2"
#: How many compilers at once, for who wants another number than that of the processors.
JOBS = "KERNEL_JOBS"
#: What is in build/ → what it is called where it is made.
FILES = {"kernel": "bzImage", "vmlinux": "vmlinux"}
#: All that Kconfig reads of the source.
_KCONFIG = ("*/Kconfig*", "*/Makefile*", "*/Kbuild*", "*/scripts/*", "*/configs/*.config")


def fragments(repo: Path, debug: bool) -> list[Path]:
    """Return the configuration fragments in the order they are merged in."""
    paths = sorted((repo / "kconfig").glob("*.config"))
    plain = [path for path in paths if path.stem != "debug"]
    return plain + ([repo / "kconfig" / "debug.config"] if debug else [])


def parse_config(text: str) -> dict[str, str]:
    """Return the options that a configuration or fragment sets, without ``CONFIG_``."""
    lines = (line for line in text.splitlines() if line.startswith("CONFIG_"))
    pairs = (line.removeprefix("CONFIG_").split("=", 1) for line in lines)
    return dict(pairs)


def unmet(wanted: dict[str, str], got: dict[str, str]) -> list[str]:
    """Return a line for each option that is not in the result as it was asked for."""
    return [
        f"CONFIG_{name}={value} became {got.get(name, 'n')}"
        for name, value in sorted(wanted.items())
        if got.get(name, "n") != value
    ]


def make(engine: Engine, *, debug: bool = False) -> Path:
    """Return the folder of ``bzImage``, ``vmlinux`` and ``config``."""
    deb, parts, options, key = _inputs(engine, debug=debug)

    def build(step: Step, folder: Path) -> None:
        tree = _unpack(step, deb, folder)
        _configure(step, tree, parts, options)
        jobs = f"-j{os.environ.get(JOBS) or os.cpu_count() or 1}"
        step.run(["make", jobs, "bzImage", "vmlinux"], cwd=tree, env=STAMP)
        shutil.copy(tree / "arch/x86/boot/bzImage", folder / "bzImage")
        shutil.copy(tree / "vmlinux", folder / "vmlinux")
        filler.leave_out(folder / "vmlinux")
        shutil.copy(tree / ".config", folder / "config")
        shutil.rmtree(folder / "source")

    return engine.make(f"kernel{'-debug' if debug else ''}", key, build)


def check(engine: Engine, *, debug: bool = False) -> Path:
    """Return the folder of the ``config`` that a kernel would be built with: a minute's work.

    Raises:
        StepError: when an option of a fragment did not come out as it was asked for.
    """
    deb, parts, options, key = _inputs(engine, debug=debug)

    def resolve(step: Step, folder: Path) -> None:
        tree = _unpack(step, deb, folder, ("--wildcards", *_KCONFIG))
        _configure(step, tree, parts, options)
        shutil.copy(tree / ".config", folder / "config")
        shutil.rmtree(folder / "source")

    return engine.make(f"kernel-config{'-debug' if debug else ''}", key, resolve)


def _inputs(engine: Engine, *, debug: bool) -> tuple[Path, list[Path], dict[str, str], str]:
    """Return the source's .deb, the fragments, what they ask for, and the key of all that."""
    parts = fragments(engine.repo, debug)
    pool = debian.Pool(engine)
    (source,) = pool.resolve((SOURCE,))
    options: dict[str, str] = {}
    for part in parts:
        options |= parse_config(part.read_text())
    # The options alone: a reason reworded must not cost ten minutes.
    inputs = {f"option {name}": value for name, value in options.items()}
    key = cache.key_of(inputs | STAMP | {"source": source.sha256, "recipe": RECIPE})
    return pool.path(source), parts, options, key


def _unpack(step: Step, deb: Path, folder: Path, only: Sequence[str] = ()) -> Path:
    source = folder / "source"
    source.mkdir()
    member = f"./usr/src/{SOURCE}.tar.xz"
    debian.unpack(step, deb, source, member)
    step.run(["tar", "-xf", source / member, "-C", source, *only])
    return source / SOURCE


def _configure(step: Step, tree: Path, parts: list[Path], wanted: dict[str, str]) -> None:
    step.run(["make", "tinyconfig"], cwd=tree)
    merge = tree / "scripts/kconfig/merge_config.sh"
    step.run([merge, "-m", ".config", *parts], cwd=tree)
    step.run(["make", "olddefconfig"], cwd=tree)
    missing = unmet(wanted, parse_config((tree / ".config").read_text()))
    if missing:
        raise StepError("kernel: options not met: " + "; ".join(missing))
