"""Make the image that storage is tried with: git, dpkg and tar, as Debian has them.

It will not hold anything of ours: what works in it works in any image.
"""

from pathlib import Path

from initramfs.recipes import cache, debian, nyancat, oci, tree
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step
from initramfs.recipes.tree import Tree

PACKAGES = (
    *(
        "base-files",
        "libc6",
        "libc-bin",
        "dash",
        "coreutils",
        "diffutils",
        "tar",
        "dpkg",
        "git",
    ),
    *("libacl1", "libattr1", "libgmp10", "libselinux1", "libpcre2-8-0", "libmd0", "zlib1g"),
    *("libbz2-1.0", "liblzma5", "libzstd1"),
)
#: Git's programs for the network and for scripts are most of it.
LEFT_OUT = (
    *nyancat.LEFT_OUT,
    *("usr/share/doc/", "usr/share/bash-completion/", "usr/share/perl5/", "usr/lib/locale/"),
    *("usr/lib/git-core/git-[a-z]*", "usr/lib/git-core/mergetools/", "usr/bin/scalar"),
    "usr/bin/git-shell",
)
#: What is a link to git and is needed by name: both ends of a clone over a pipe.
GIT_LINKS = ("git-upload-pack", "git-receive-pack")
CONFIG: oci.Document = {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]}
#: Recipes are text: these modules decide the bytes of the image.
RECIPES = ("toolbox.py", "nyancat.py", "oci.py", "tree.py")


def make(engine: Engine) -> Path:
    """Return the OCI image layout, a folder."""
    pool = debian.Pool(engine)
    packages = pool.resolve(PACKAGES)
    folder = engine.repo / "initramfs" / "recipes"
    inputs: dict[str, str | bytes] = {name: (folder / name).read_bytes() for name in RECIPES}
    inputs |= {package.name: package.sha256 for package in packages}

    def build(step: Step, folder: Path) -> None:
        whole: Tree = {}
        for package in packages:
            whole |= tree.from_deb(step, pool.path(package), folder)
        writer = oci.Layout(folder)
        layer = oci.gzip_layer(tree.to_tar(picked(whole)), " ".join(PACKAGES))
        manifest = writer.image(oci.Image([layer], CONFIG))
        writer.finish([manifest | {"annotations": {"org.opencontainers.image.ref.name": "v1"}}])

    return engine.make("toolbox", cache.key_of(inputs), build)


def picked(whole: Tree) -> Tree:
    """Return what the image has of the packages, and what their scripts would have made."""
    kept = {p: e for p, e in nyancat.tidy(whole).items() if not tree.matches(p, LEFT_OUT)}
    links = {f"usr/bin/{name}": tree.symlink("git") for name in GIT_LINKS}
    empty = {f"var/lib/dpkg/{name}": tree.regular("") for name in ("status", "available")}
    return kept | links | empty
