"""Make the initrd and the root image: LinuxKit lays our images over each other.

The initrd is packed by zstd; the root image is the same tree as a file system that a VM maps
instead of unpacking it. It will not hold what is in the images (``images``) or their order
(``initramfs/*.yml``).
"""

import os
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
#: A virtio-pmem that is no multiple of this long can't be mapped by the guest.
PMEM_ALIGNMENT_BYTES = 2 << 20
#: The same bytes from the same tree: no time, no owner, no random id. Tails of files are not
#: kept beside their inodes, since only what has pages of its own can be mapped from there.
EROFS = (
    *("-T0", "--all-root", "-U", "00000000-0000-0000-0000-000000000000", "-x-1"),
    *("-Enoinline_data", "--quiet"),
)


def make(engine: Engine, *, full: bool = False) -> Path:
    """Return the folder of ``initrd``, of the base image or of the full one."""
    parts = _parts(engine, full=full)

    def join(step: Step, folder: Path) -> None:
        with (folder / "initrd").open("wb") as out:
            for part in parts:
                out.write((part / "part.zst").read_bytes())

    name = "initrd-full" if full else "initrd"
    return engine.make(name, cache.key_of({p.parent.name: p.name for p in parts}), join)


def make_root_image(engine: Engine, *, full: bool = False) -> Path:
    """Return the folder of ``root-image``: erofs, for virtio-pmem with DAX."""
    parts = _parts(engine, full=full)

    def build(step: Step, folder: Path) -> None:
        tree, image = folder / "tree", folder / "root-image"
        tree.mkdir()
        # It becomes the root, whatever this user's umask is.
        tree.chmod(0o755)
        for part in parts:
            tar: list[str | Path] = ["tar", "-xpf", part / "part.tar", "-C", tree]
            # LinuxKit notes in each header where the file is from.
            step.run([*tar, "--no-same-owner", "--warning=no-unknown-keyword"])
        step.run(pack_words(image, tree))
        align(image)
        shutil.rmtree(tree)

    inputs: dict[str, str | bytes] = {part.parent.name: part.name for part in parts}
    name = "root-image-full" if full else "root-image"
    return engine.make(name, cache.key_of(inputs | {"options": " ".join(EROFS)}), build)


def pack_words(image: Path, tree: Path) -> list[str | Path]:
    """Return the command that makes a root image of a folder; `align` it afterwards."""
    return ["mkfs.erofs", *EROFS, image, tree]


def align(image: Path) -> None:
    """Make a root image as long as persistent memory must be."""
    whole = -(-image.stat().st_size // PMEM_ALIGNMENT_BYTES) * PMEM_ALIGNMENT_BYTES
    os.truncate(image, whole)


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


def _parts(engine: Engine, *, full: bool) -> list[Path]:
    """Return the folders of ``part.zst`` and ``part.tar``, bottom first."""
    # All at once: apt takes as long for one package as for twenty.
    debian.Pool(engine).resolve(tuple(sorted(images.debian_packages())))
    return [_part(engine, name) for name in (FULL_PARTS if full else PARTS)]


def _part(engine: Engine, name: str) -> Path:
    recipe = engine.repo / "initramfs" / f"{name}.yml"
    program = linuxkit.make(engine) / "linuxkit"
    parts = {one: images.make(engine, one) for one in image_names(recipe.read_text())}
    inputs: dict[str, str | bytes] = {one: path.parent.name for one, path in parts.items()}
    inputs |= {"recipe": recipe.read_bytes(), "linuxkit": program.parent.name, "zstd": LEVEL}
    inputs["forms"] = "cpio tar"

    def build(step: Step, folder: Path) -> None:
        work = folder / "work"
        work.mkdir()
        linuxkit.assemble(step, program, recipe, list(parts.values()), work)
        plain = work / "plain.cpio"
        step.run(["gzip", "-dc", work / f"{name}-initrd.img"], stdout=plain)
        step.run(["zstd", LEVEL, "-T0", "-q", plain, "-o", folder / "part.zst"])
        shutil.move(work / f"{name}.tar", folder / "part.tar")
        shutil.rmtree(work)

    return engine.make(f"initrd-{name}", cache.key_of(inputs), build)
