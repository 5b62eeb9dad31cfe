"""Pin again what the build downloads: ``make lock``.

It will not build anything; the files it writes are to be reviewed and committed.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from initramfs.recipes import debian, images, kernel, nyancat, python, system, toolbox, venv
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step, StepError

#: Names no index, so that a lock made behind one mirror reads the same behind another.
COMPILE = (
    *("pip-compile", "-q", "--no-config", "--strip-extras", "--allow-unsafe"),
    *("--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-header"),
)


def refresh(engine: Engine) -> None:
    """Pin the newest versions that apt and PyPI offer, within what pyproject.toml allows."""
    with engine.progress.step("lock", engine.cache.log("lock")) as step:
        system.refresh_lists(step)
        _debian(engine, step)
        with tempfile.TemporaryDirectory() as scratch:
            _python(engine, step, Path(scratch))


def _debian(engine: Engine, step: Step) -> None:
    names = images.debian_packages() | {kernel.SOURCE}
    names |= {name for layer in nyancat.PACKAGES for name in layer} | set(toolbox.PACKAGES)
    pool = engine.cache.root / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    found = debian.download(pool, step, [(name, "") for name in sorted(names)])
    if not found:
        raise StepError(f"lock: apt has not all of the packages (log: {step.log})")
    (engine.repo / debian.LOCK).write_text(debian.format_lock(list(found.values())))


def _python(engine: Engine, step: Step, scratch: Path) -> None:
    step.run([sys.executable, "-m", "venv", scratch / "venv"])
    step.run([scratch / "venv/bin/pip", "install", "pip-tools"])
    everything = ("--extra", "guest", "--extra", "host", "--extra", "dev")
    for lock, extras in (
        (venv.LOCK, everything),
        # The guest's packages are the venv's, so both sides are tested with one version.
        (python.PACKAGES_LOCK, ("--extra", "guest", "-c", venv.LOCK)),
    ):
        out = scratch / "lock.txt"
        argv = [scratch / "venv/bin" / COMPILE[0], *COMPILE[1:], *extras]
        step.run([*argv, "-o", out, "pyproject.toml"], cwd=engine.repo)
        shutil.move(out, engine.repo / lock)
