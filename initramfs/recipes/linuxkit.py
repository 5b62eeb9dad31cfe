"""Build LinuxKit, and run it on images of our own making, without registry or Docker.

It will not make the images (``images`` does) nor decide what is in them.
"""

import shutil
from pathlib import Path

from initramfs.recipes import cache, toolchain
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step

MODULE = "initramfs/linuxkit"
PROGRAM = "github.com/linuxkit/linuxkit/src/cmd/linuxkit"


def make(engine: Engine) -> Path:
    """Return the folder of the ``linuxkit`` program, built from the pinned modules."""
    module = engine.repo / MODULE
    names = ("go.mod", "go.sum", "tools.go")
    key = cache.key_of({name: (module / name).read_bytes() for name in names})
    if engine.cache.entry("linuxkit", key).is_dir():
        engine.progress.found("linuxkit")
        return engine.cache.entry("linuxkit", key)
    go = toolchain.find(engine, toolchain.GO)

    def build(step: Step, folder: Path) -> None:
        engine.progress.say(f"  fetching by go, from its module proxy: {MODULE}/go.sum")
        env = {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -trimpath", "CGO_ENABLED": "0"}
        argv: list[str | Path] = [go, "build", "-v", "-o", folder / "linuxkit", PROGRAM]
        step.run(argv, cwd=module, env=env)

    return engine.make("linuxkit", key, build)


def assemble(step: Step, program: Path, recipe: Path, images: list[Path], out: Path) -> None:
    """Lay the images over each other as a recipe says.

    Leaves: in ``out`` the same tree twice, ``<recipe>-initrd.img``, a cpio packed by gzip, and
    ``<recipe>.tar``.
    """
    store = out / ".store"
    for image in images:
        step.run([program, "cache", "import", "--cache", store, image])
    argv: list[str | Path] = [program, "build", "--cache", store, "--no-sbom", "--dir", out]
    # A tar must be the only format of its run.
    for form in ("kernel+initrd", "tar"):
        step.run([*argv, "--format", form, recipe])
    shutil.rmtree(store)
