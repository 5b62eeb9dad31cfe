"""Limits that a spec may have and the VM's kernel can't."""

from gcs.guest.spec.document import Tree

__all__ = ["without_swap"]


def without_swap(resources: Tree) -> Tree:
    """Return OCI resources without their limit of swap; all else is what it was.

    A kernel without swap keeps any limit of it, but runtimes fail on one that they can't set.
    """
    memory = resources.get("memory")
    if not isinstance(memory, dict):
        return resources
    kept = {name: value for name, value in memory.items() if name != "swap"}
    return {**resources, "memory": kept}
