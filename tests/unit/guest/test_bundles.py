"""When a bundle is bound to its scratch."""

import pytest

from gcs.guest.bundles import is_elsewhere


@pytest.mark.parametrize(
    ("bundle", "scratch", "is_bound"),
    [
        ("/run/gcs/c/abc", "", False),
        ("/run/gcs/c/abc", "/run/gcs/c/abc/scratch/abc", False),
        ("/run/gcs/c/abc", "/run/gcs/c/abc", False),
        ("/run/gcs/c/workload", "/run/gcs/c/sandbox/scratch/workload", True),
        ("/run/gcs/pods/pod/ctr", "/run/mounts/scsi/0_2_0/scratch/pod/ctr", True),
        ("/run/gcs/c/abc", "/run/gcs/c/abcdef/scratch/abcdef", True),
    ],
)
def test_a_bundle_is_bound_if_its_scratch_is_elsewhere(
    bundle: str, scratch: str, is_bound: bool
) -> None:
    """Neither at nor below it; that a name begins alike is not below."""
    assert is_elsewhere(bundle, scratch) is is_bound
