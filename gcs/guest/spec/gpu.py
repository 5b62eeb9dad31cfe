"""The hook that gives a container its GPUs: their vendor's program, run by the runtime.

`generichook` is of the VM's image, as the vendor's program is. It fills `{{pid}}` in from the
state that the runtime hands to hooks.

Source: PROTOCOL.md, "Assigned devices"; OCI runtime-spec config.md, "POSIX-platform hooks".
"""

from collections.abc import Mapping, Sequence

from gcs.guest.spec.document import PATH, Tree, named_map, named_maps, rootfs_of

__all__ = ["PROGRAM", "add_hook"]

#: what the VM's image must have for GPUs
PROGRAM = "generichook"


def add_hook(
    draft: Tree,
    bundle: str,
    program: str,
    locations: Sequence[str],
    capabilities: Sequence[str],
    environment: Mapping[str, str],
) -> None:
    """Have the vendor's program configure a container between its creation and its start.

    Args:
        draft: The container's spec.
        bundle: Its folder; the program's log goes there.
        program: Where `generichook` is.
        locations: PCI addresses of the GPUs.
        capabilities: What they are to be used for, as "compute".
        environment: Of the agent.
    """
    log = f"{bundle}/nvidia-container.log"
    hook: Tree = {
        "path": program,
        "args": [
            program,
            "nvidia-container-cli",
            f"--debug={log}",
            "--no-pivot",
            "configure",
            "--ldconfig=@/sbin/ldconfig",
            *(f"--{capability}" for capability in capabilities),
            *(f"--device={location}" for location in locations),
            "--pid={{pid}}",
            rootfs_of(draft, bundle),
        ],
        "env": [
            *(f"{name}={value}" for name, value in environment.items()),
            "NVC_INSECURE_MODE=1",
            f"GENERIC_HOOK_LOG_DEBUG_FILE={log}",
        ],
    }
    hooks = named_map(draft, "hooks")
    before = named_maps(hooks, "createRuntime", f"{PATH}.hooks")
    draft["hooks"] = {**hooks, "createRuntime": [*before, hook]}
