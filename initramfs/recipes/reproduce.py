"""Build the guest twice, in different folders, and compare what came of it.

What was downloaded, and the tools that were built to build with, are shared; everything that
ends up in an image is made twice, with another time zone, language and umask.
"""

import os
import shutil
import tempfile
from pathlib import Path

from initramfs.recipes import cache
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step, StepError

#: Steps of the cache that no image is.
SHARED = ("pool", "wheels", "guest-wheels", "linuxkit", "go", "rust")
#: Targets, and what each leaves in build/.
GUEST = {"initrd": ("initrd", "root-image"), "initrd-full": ("initrd-full", "root-image-full")}
KERNEL = {"kernel": ("kernel", "vmlinux")}
#: What differs between the two builds beside their folders.
PLACES = (
    ("a", {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"}, 0o022),
    ("another/folder", {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"}, 0o077),
)


def prove(engine: Engine, *, with_kernel: bool) -> None:
    """Build twice and say the hashes.

    Raises:
        StepError: when they differ, naming what does.
    """
    targets = GUEST | (KERNEL if with_kernel else {})
    names = [name for names in targets.values() for name in names]
    with tempfile.TemporaryDirectory(prefix="reproduce-", dir=engine.cache.root) as folder:
        found = []
        for place, environment, umask in PLACES:
            root = Path(folder) / place
            log = engine.cache.log("reproduce")
            with engine.progress.step(f"reproduce in {place}", log) as step:
                checkout = _checkout(engine, step, root)
                argv = ["sh", "-c", f'umask {umask:03o}; exec "$@"', "sh"]
                argv += ["/usr/bin/python3", "-m", "initramfs.recipes", *targets]
                env = environment | {"XDG_CACHE_HOME": str(root / "cache")}
                step.run(argv, cwd=checkout, env=env)
            found.append({name: cache.file_digest(checkout / "build" / name) for name in names})
    for name, digest in found[0].items():
        engine.progress.say(f"  {digest}  {name}")
    different = [name for name in names if found[0][name] != found[1][name]]
    if different:
        raise StepError(f"reproduce: two builds differ in {', '.join(different)}")


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
