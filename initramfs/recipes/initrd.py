"""Make the initrd: LinuxKit lays our images over each other, zstd packs the result.

It will not hold what is in the images (``images``) or their order (``initramfs/*.yml``).
"""

import re
import shutil
from pathlib import Path

from initramfs.recipes import cache, debian, images, linuxkit
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step, StepError

#: Packed one after the other; the kernel unpacks them in this order, later files winning.
PARTS = ("base", "agent")
#: The same with the programs that only some hosts ask for.
FULL_PARTS = ("base", "full", "agent")
#: zstd unpacks as fast from any level; 19 is the smallest without a window that costs memory.
LEVEL = "-19"


def make(engine: Engine, *, full: bool = False) -> Path:
    """Return the folder of ``initrd``, of the base image or of the full one."""
    # All at once: apt takes as long for one package as for twenty.
    debian.Pool(engine).resolve(tuple(sorted(images.debian_packages())))
    parts = [_part(engine, name) for name in (FULL_PARTS if full else PARTS)]

    def join(step: Step, folder: Path) -> None:
        with (folder / "initrd").open("wb") as out:
            for part in parts:
                out.write((part / "part.zst").read_bytes())

    name = "initrd-full" if full else "initrd"
    return engine.make(name, cache.key_of({p.parent.name: p.name for p in parts}), join)


def image_names(recipe: str) -> list[str]:
    """Return the images that a LinuxKit file of ours lays over each other.

    Raises:
        StepError: when it names none, or one that is not ours.
    """
    listed: list[str] = re.findall(r"^ +- (\S+)$", recipe, re.MULTILINE)
    strange = [name for name in listed if not re.fullmatch(r"gcs/[a-z]+:v1", name)]
    if strange or not listed:
        raise StepError(f"initrd: images are gcs/NAME:v1, not {strange or 'none at all'}")
    return [name.removeprefix("gcs/").removesuffix(":v1") for name in listed]


def _part(engine: Engine, name: str) -> Path:
    recipe = engine.repo / "initramfs" / f"{name}.yml"
    program = linuxkit.make(engine) / "linuxkit"
    parts = {one: images.make(engine, one) for one in image_names(recipe.read_text())}
    inputs: dict[str, str | bytes] = {one: path.parent.name for one, path in parts.items()}
    inputs |= {"recipe": recipe.read_bytes(), "linuxkit": program.parent.name, "zstd": LEVEL}

    def build(step: Step, folder: Path) -> None:
        work = folder / "work"
        work.mkdir()
        linuxkit.assemble(step, program, recipe, list(parts.values()), work)
        plain = work / "plain.cpio"
        step.run(["gzip", "-dc", work / f"{name}-initrd.img"], stdout=plain)
        step.run(["zstd", LEVEL, "-T0", "-q", plain, "-o", folder / "part.zst"])
        shutil.rmtree(work)

    return engine.make(f"initrd-{name}", cache.key_of(inputs), build)
