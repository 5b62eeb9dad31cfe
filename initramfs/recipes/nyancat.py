"""Make the image that ``make run`` shows: seven layers, from Debian packages.

It will not hold a tool of ours: it is what any registry would bring, with one of each trap
that layers have (a deleted file, a replaced directory, gzip beside zstd).
"""

import tarfile
from pathlib import Path

from initramfs.recipes import cache, debian, oci, tree
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step
from initramfs.recipes.tree import Entry, Tree

NAME = "nyancat:v1"
#: What each of the five lower layers is made of, lowest first.
PACKAGES = (
    ("base-files", "libc6"),
    ("dash", "bash", "libtinfo6"),
    ("coreutils", "libacl1", "libattr1", "libgmp10", "libselinux1", "libpcre2-8-0"),
    ("ncurses-base",),
    ("nyancat",),
)
#: What an image of a few programs has no use for.
LEFT_OUT = ("usr/share/man/", "usr/share/locale/", "usr/share/lintian/", "usr/lib/*/gconv/*")
CONFIG: oci.Document = {
    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "TERM=xterm-256color"],
    "Cmd": ["nyancat"],
    "WorkingDir": "/",
}
#: Recipes are text: these modules decide the bytes of the image.
RECIPES = ("nyancat.py", "oci.py", "tree.py")


def make(engine: Engine) -> Path:
    """Return the OCI image layout, a folder."""
    pool = debian.Pool(engine)
    # All at once: apt takes as long for one as for twelve.
    fetched = pool.resolve(tuple(name for names in PACKAGES for name in names))
    by_name = {package.name: package for package in fetched}
    layers = [[by_name[name] for name in names] for names in PACKAGES]
    folder = engine.repo / "initramfs" / "recipes"
    inputs: dict[str, str | bytes] = {name: (folder / name).read_bytes() for name in RECIPES}
    inputs |= {package.name: package.sha256 for layer in layers for package in layer}

    def build(step: Step, folder: Path) -> None:
        trees: list[Tree] = []
        for layer in layers:
            whole: Tree = {}
            for package in layer:
                whole |= tree.from_deb(step, pool.path(package), folder)
            trees.append(tidy(whole))
        _write(step, folder, [*trees, removing(), replacing()])

    return engine.make("nyancat", cache.key_of(inputs), build)


def tidy(whole: Tree) -> Tree:
    """Return a layer's files with a merged /usr, without manuals and translations."""
    merged = tree.merge_usr(whole)
    kept = {p: e for p, e in merged.items() if not tree.matches(p, LEFT_OUT)}
    # base-files is the lowest: its layer has the links that make /bin /usr/bin.
    if "etc/debian_version" in kept:
        kept |= {top: tree.symlink(f"usr/{top}") for top in tree.MERGED}
        kept |= accounts()
    if "usr/bin/dash" in kept:
        kept["usr/bin/sh"] = tree.symlink("dash")
    return kept


def accounts() -> Tree:
    """Return the two accounts that an image needs; Debian makes them by a script."""
    return {
        "etc/passwd": tree.regular(
            "root:x:0:0:root:/root:/bin/bash\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        ),
        "etc/group": tree.regular("root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    }


def whiteout() -> Entry:
    """Return the empty file whose name (``.wh.…``) deletes one of a lower layer."""
    return Entry(tarfile.REGTYPE, 0o000)


def removing() -> Tree:
    """Return the sixth layer: a lower layer's manual goes, a message comes."""
    return {
        "usr/share/doc/nyancat/.wh.README.md": whiteout(),
        "etc/motd": tree.regular("A cat, seven layers deep in a utility VM.\n"),
    }


def replacing() -> Tree:
    """Return the seventh layer: a directory in place of a lower layer's."""
    return {
        "etc/update-motd.d": tree.directory(),
        "etc/update-motd.d/.wh..wh..opq": whiteout(),
        "etc/update-motd.d/50-cat": tree.regular("#!/bin/sh\nexec cat /etc/motd\n", 0o755),
    }


def _zstd_layer(step: Step, folder: Path, tar: bytes, created_by: str) -> oci.Layer:
    plain, packed = folder / "layer.tar", folder / "layer.tar.zst"
    plain.write_bytes(tar)
    step.run(["zstd", "-q", "-19", plain, "-o", packed])
    blob = packed.read_bytes()
    plain.unlink()
    packed.unlink()
    return oci.Layer(f"{oci.LAYER}+zstd", blob, oci.digest_of(tar), created_by)


def _write(step: Step, folder: Path, trees: list[Tree]) -> None:
    made = [*(" ".join(names) for names in PACKAGES), "remove a manual", "replace a directory"]
    layers: list[oci.Layer] = []
    for number, (files, created_by) in enumerate(zip(trees, made, strict=True)):
        tar = tree.to_tar(files)
        # Every other layer: both of the packings that registries carry.
        if number % 2:
            layers.append(_zstd_layer(step, folder, tar, created_by))
        else:
            layers.append(oci.gzip_layer(tar, created_by))
    writer = oci.Layout(folder)
    manifest = writer.image(oci.Image(layers, CONFIG))
    name = {"annotations": {"org.opencontainers.image.ref.name": NAME.partition(":")[2]}}
    writer.finish([manifest | name])
