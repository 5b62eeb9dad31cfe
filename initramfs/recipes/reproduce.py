"""Build the guest twice, in different folders, and compare what came of it.

What was downloaded, and the tools that were built to build with, are shared; everything that
ends up in an image is made twice, with another time zone, language, user name and umask. A
kernel takes so long that the one of the cache counts as the first: it was made in a folder of
its own, too.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from initramfs.recipes import cache, kernel
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step, StepError

#: Steps of the cache that no image is.
SHARED = ("pool", "wheels", "guest-wheels", "linuxkit", "go", "rust")
#: Targets, and what each leaves in build/.
GUEST = {"initrd": ("initrd", "root-image"), "initrd-full": ("initrd-full", "root-image-full")}
KERNEL = {"kernel": ("kernel", "vmlinux")}


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a build is made, as far as that must not matter."""

    folder: str
    environment: Mapping[str, str]
    umask: int


FIRST = Place(
    "a",
    {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1", "USER": "one", "LOGNAME": "one"},
    0o022,
)
SECOND = Place(
    "another/folder",
    {
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "2",
        "USER": "another",
        "LOGNAME": "another",
        # One more than a kernel is built with otherwise.
        kernel.JOBS: str((os.cpu_count() or 1) + 1),
    },
    0o077,
)


def prove(engine: Engine) -> None:
    """Build initrd and root image, base and full, twice; say the hashes.

    Raises:
        StepError: when they differ, naming what does.
    """
    with _folder(engine) as folder:
        first, second = (_built(engine, folder, at, GUEST) for at in (FIRST, SECOND))
    _compare(engine, first, second)


def prove_kernel(engine: Engine) -> None:
    """Build the kernel once more, and compare it with that of the cache, made now if need be.

    Raises:
        StepError: when they differ, naming what does.
    """
    made = kernel.make(engine)
    first = {name: cache.file_digest(made / file) for name, file in kernel.FILES.items()}
    with _folder(engine) as folder:
        second = _built(engine, folder, SECOND, KERNEL)
    _compare(engine, first, second)


def _compare(engine: Engine, first: Mapping[str, str], second: Mapping[str, str]) -> None:
    for name, digest in first.items():
        engine.progress.say(f"  {digest}  {name}")
    different = [name for name in first if first[name] != second[name]]
    if different:
        raise StepError(f"reproduce: two builds differ in {', '.join(different)}")


@contextmanager
def _folder(engine: Engine) -> Iterator[Path]:
    """Have a folder beside what is shared: that is linked, not copied."""
    engine.cache.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="reproduce-", dir=engine.cache.root) as name:
        yield Path(name)


def _built(
    engine: Engine, folder: Path, place: Place, targets: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """Build targets in a place; return the digest of each thing that is there then."""
    root, log = folder / place.folder, engine.cache.log("reproduce")
    with engine.progress.step(f"reproduce in {place.folder}", log) as step:
        checkout = _checkout(engine, step, root)
        argv = ["sh", "-c", f'umask {place.umask:03o}; exec "$@"', "sh"]
        argv += ["/usr/bin/python3", "-m", "initramfs.recipes", *targets]
        env = {**place.environment, "XDG_CACHE_HOME": str(root / "cache")}
        step.run(argv, cwd=checkout, env=env)
    names = [name for found in targets.values() for name in found]
    return {name: cache.file_digest(checkout / "build" / name) for name in names}


def _checkout(engine: Engine, step: Step, root: Path) -> Path:
    """Make a copy of what git knows of, as it is now, and a cache with what is shared."""
    checkout = root / "checkout"
    listed = root / "files"
    root.mkdir(parents=True)
    which = ("--cached", "--others", "--exclude-standard")
    step.run(["git", "-C", engine.repo, "ls-files", "-z", *which], stdout=listed)
    for name in filter(None, listed.read_text().split("\0")):
        source, target = engine.repo / name, checkout / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for shared in SHARED:
        source = engine.cache.root / shared
        if source.is_dir():
            target = root / "cache/gcs" / shared
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target, copy_function=os.link)
    return checkout
