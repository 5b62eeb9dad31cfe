"""Make ``.venv`` from the locked wheels, and ``gcs`` in it as an editable package.

It will not resolve versions: ``initramfs/lock/venv.txt`` names each file by its hash.
"""

import json
import shutil
import sys
import tomllib
from pathlib import Path

from initramfs.recipes import cache
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step

LOCK = "initramfs/lock/venv.txt"
#: Exactly the files of the lock: nothing that it does not name, no other bytes.
PINNED = ("--no-deps", "--require-hashes")


def make(engine: Engine) -> Path:
    """Return the virtual environment of this checkout, made again if its lock has changed."""
    wheels = download(engine, "wheels", LOCK)
    venv = engine.repo / ".venv"
    stamp = venv / ".key"
    key = cache.key_of(
        {
            "wheels": wheels.name,
            "project": project(engine.repo),
            # Scripts carry the absolute path of their interpreter.
            "place": str(venv),
        }
    )
    if stamp.is_file() and stamp.read_text() == key:
        engine.progress.found("venv")
        return venv
    with engine.progress.step("venv", engine.cache.log("venv")) as step:
        shutil.rmtree(venv, ignore_errors=True)
        try:
            _install(engine, step, wheels, venv)
        except BaseException:
            shutil.rmtree(venv, ignore_errors=True)
            raise
        stamp.write_text(key)
    return venv


def project(repo: Path) -> str:
    """Return the part of pyproject.toml that an installed package comes from.

    The linters' settings are in the same file, and change without a need to install again.
    """
    whole = tomllib.loads((repo / "pyproject.toml").read_text())
    tools = whole.pop("tool", {})
    return json.dumps([whole, tools.get("setuptools")], sort_keys=True)


def download(engine: Engine, name: str, lock: str, target: tuple[str, ...] = ()) -> Path:
    """Return the folder of a lock's wheels, for this interpreter or the one described."""
    path = engine.repo / lock
    interpreter = " ".join(target) or sys.version
    key = cache.key_of({"lock": path.read_bytes(), "python": interpreter})

    def fetch(step: Step, folder: Path) -> None:
        engine.progress.say(f"  fetching by pip, from PyPI or its mirror: {lock}")
        # A throw-away environment: Debian's python3 may come without pip.
        scratch = folder / ".scratch"
        step.run([sys.executable, "-m", "venv", scratch])
        argv: list[str | Path] = [scratch / "bin/python", "-m", "pip", "download", *target]
        step.run([*argv, *PINNED, "--only-binary", ":all:", "-r", path, "-d", folder])
        shutil.rmtree(scratch)

    return engine.make(name, key, fetch)


def _install(engine: Engine, step: Step, wheels: Path, venv: Path) -> None:
    step.run([sys.executable, "-m", "venv", venv])
    pip: list[str | Path] = [
        venv / "bin/python",
        "-m",
        "pip",
        "install",
        "--no-index",
        "--no-deps",
    ]
    lock = engine.repo / LOCK
    step.run([*pip, *PINNED, "--find-links", wheels, "-r", lock])
    # Editable, by the setuptools just installed: isolation would fetch another one.
    step.run([*pip, "--no-deps", "--no-build-isolation", "-e", engine.repo])
