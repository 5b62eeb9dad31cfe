"""OCI specs as hosts send them.

What is for Windows is reduced to its network, what the guest decides is empty.
"""

from collections.abc import Mapping

__all__ = ["oci_process", "oci_spec", "pod_annotations"]

_NAMESPACES = ("pid", "mount", "ipc", "uts", "network")


def oci_process(*argv: str, terminal: bool = False, **more: object) -> dict[str, object]:
    """Return a process; its environment has what Go escapes in JSON."""
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(argv),
        "env": ["PATH=/bin:/usr/bin", "ODD=<a>&\u2028'\"\\"],
        "cwd": "/",
        **more,
    }


def oci_spec(
    rootfs: str,
    *argv: str,
    terminal: bool = False,
    annotations: Mapping[str, str] | None = None,
    namespaces: Mapping[str, str] | None = None,
    resources: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Return the spec of a container; `namespaces` names those that it joins, by their path."""
    joined = namespaces or {}
    return {
        "ociVersion": "1.1.0",
        "process": oci_process(*argv, terminal=terminal),
        "root": {"path": rootfs},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"],
            },
        ],
        "annotations": dict(annotations or {}),
        "linux": {
            "cgroupsPath": "",
            "resources": dict(resources or {}),
            "namespaces": [
                {"type": kind, **({"path": joined[kind]} if kind in joined else {})}
                for kind in _NAMESPACES
            ],
        },
        "windows": {"network": {"networkNamespace": "4f34a8c8-6d4b-4b6c-9e6a-0d5c5b3f9a11"}},
    }


def pod_annotations(pod: str | None = None) -> dict[str, str]:
    """Return what makes a container a pod's sandbox, or a workload of that pod."""
    if pod is None:
        return {"io.kubernetes.cri.container-type": "sandbox"}
    return {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": pod,
    }
