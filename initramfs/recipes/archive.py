"""Make one image of a tree of files, as the archive that LinuxKit imports.

It will not hold what is in an image (``images`` and ``python`` do).
"""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from initramfs.recipes import cache, debian, oci, tree
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step
from initramfs.recipes.tree import Tree

LIB = "lib/x86_64-linux-gnu/"
USR_LIB = "usr/lib/x86_64-linux-gnu/"
#: Recipes are text: these modules decide the bytes of every image.
RECIPES = ("archive.py", "images.py", "modules.py", "oci.py", "python.py", "tree.py")


@dataclass(frozen=True, slots=True)
class FromDebian:
    """An image of files picked from Debian packages."""

    packages: tuple[str, ...]
    #: What is kept of them: paths, patterns, or folders ending in a slash.
    keep: tuple[str, ...]


def from_debian(
    engine: Engine,
    name: str,
    part: FromDebian,
    finish: Callable[[Step, Path, Tree], Tree] = lambda step, scratch, picked: picked,
    inputs: Mapping[str, str | bytes] | None = None,
) -> Path:
    """Return the archive of an image of what is kept of Debian packages.

    Args:
        engine: The build's.
        name: Of the image.
        part: The packages, and what is kept of them.
        finish: Makes the image's tree of that.
        inputs: What else that depends on.
    """
    pool = debian.Pool(engine)
    used = pool.resolve(part.packages)

    def contents(step: Step, scratch: Path) -> Tree:
        picked: Tree = {}
        for package in used:
            of = f"debian/{package.name}"
            whole = tree.from_deb(step, pool.path(package), scratch, of)
            picked |= {p: e for p, e in whole.items() if tree.matches(p, part.keep)}
        return finish(step, scratch, picked)

    known = {package.name: package.sha256 for package in used}
    return make(engine, name, known | dict(inputs or {}), contents)


def make(
    engine: Engine,
    name: str,
    inputs: Mapping[str, str | bytes],
    contents: Callable[[Step, Path], Tree],
) -> Path:
    """Return the archive of one image, building its tree in a scratch folder if need be.

    Leaves: ``files.json`` beside it, with each file's package, size and hashes.
    """
    folder = engine.repo / "initramfs" / "recipes"
    recipes = {recipe: (folder / recipe).read_bytes() for recipe in RECIPES}
    key = cache.key_of(recipes | dict(inputs) | {"name": name})

    def build(step: Step, folder: Path) -> None:
        scratch = folder / "scratch"
        scratch.mkdir()
        made = contents(step, scratch)
        tar = tree.to_tar(made)
        shutil.rmtree(scratch)
        (folder / "files.json").write_text(json.dumps(listed(made)))
        write_archive(folder, f"docker.io/gcs/{name}:v1", tar)

    return engine.make(f"image-{name}", key, build) / "image.tar"


def listed(files: Tree) -> dict[str, dict[str, str | int]]:
    """Return what there is to know of each regular file, by path."""
    return {
        path: {
            "package": entry.package or "gcs",
            "size": len(entry.data),
            "sha1": hashlib.sha1(entry.data, usedforsecurity=False).hexdigest(),
            "sha256": hashlib.sha256(entry.data).hexdigest(),
        }
        for path, entry in sorted(files.items())
        if entry.kind == tarfile.REGTYPE
    }


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
