"""Say why the guest's kernel has an option: its fragment, its reason, and who needs it.

It builds nothing; what the option became is told where a kernel has been built.
"""

import ast
import re
from pathlib import Path

from initramfs.recipes import kernel
from initramfs.recipes.steps import StepError


def tell(repo: Path, option: str) -> str:
    """Return what is known of an option, with or without ``CONFIG_`` in front.

    Raises:
        StepError: when no fragment names it.
    """
    name = option.upper().removeprefix("CONFIG_")
    lines = [*_fragments(repo, name)]
    if not lines:
        raise StepError(
            f"kernel-why: no fragment in kconfig/ names CONFIG_{name}: what others select "
            "and the kernel's own defaults decide it"
        )
    lines += [f"  needed by {path}" for path, names in needs(repo).items() if name in names]
    config = repo / "build" / "vmlinux"
    if config.exists():
        built = kernel.parse_config((config.resolve().parent / "config").read_text())
        lines.append(f"  in the kernel that was built: {built.get(name, 'n')}")
    return "\n".join(lines)


def needs(repo: Path) -> dict[str, set[str]]:
    """Return the options that docstrings of modules say they need, by the module's path."""
    found: dict[str, set[str]] = {}
    for path in sorted((repo / "gcs").rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        for part in re.findall(r"Needs:((?:.+\n?)+)", text):
            names = set(re.findall(r"CONFIG_([A-Z0-9_]+)", part))
            found.setdefault(str(path.relative_to(repo)), set()).update(names)
    return found


def _fragments(repo: Path, name: str) -> list[str]:
    found = []
    for path in kernel.fragments(repo, debug=True):
        lines = path.read_text().splitlines()
        for reason, line in zip(["", *lines], lines, strict=False):
            if line.startswith(f"CONFIG_{name}="):
                found.append(f"{line} in kconfig/{path.name}: {reason.removeprefix('# ')}")
    return found
