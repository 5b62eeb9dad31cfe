"""The annotations that mean something, one by one."""

import pytest

from gcs.errors import InvalidArgumentError, InvalidRequestError
from gcs.guest.spec import annotations
from gcs.guest.spec.annotations import Annotations, read


def annotated(**given: object) -> Annotations:
    """Read a spec with these annotations, named by the constants of the module."""
    names = {getattr(annotations, name): value for name, value in given.items()}
    return read({"annotations": names})


def test_without_annotations_nothing_is_asked() -> None:
    """A missing map, an empty one and null are the same."""
    assert read({}) == read({"annotations": {}}) == read({"annotations": None})
    found = read({})
    assert found.container_type is None
    assert found.wants_security_context
    assert [found.privileged, found.host_network, found.skip_pod_networking] == [False] * 3
    assert (found.shm_size_kib, found.core_limit, found.warnings) == (0, None, ())


def test_the_names_are_those_that_hosts_write() -> None:
    """Each annotation is read by its full name."""
    found = read(
        {
            "annotations": {
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.sandbox-id": "s",
                "io.microsoft.cri.virtual-pod-id": "v",
                "io.microsoft.cri.skip-pod-networking": "true",
                "io.microsoft.virtualmachine.lcow.privileged": "true",
                "io.microsoft.virtualmachine.lcow.hostnetwork": "true",
                "io.microsoft.lcow.shm.size-kb": "512",
                "io.microsoft.lcow.rlimitcore": "1;2",
                "io.microsoft.container.lcow.tee-log-path": "a/b.log",
                "io.microsoft.container.lcow.tee-log-dir-mount": "/logs",
                "io.microsoft.container.gpu.capabilities": "utility, compute",
                "io.microsoft.virtualmachine.lcow.securitypolicy.env": "false",
                "io.microsoft.virtualmachine.wcow.amd-certificate": "Y2VydA==",
                "of.somebody.else": "kept",
            }
        }
    )
    assert found == Annotations(
        container_type="container",
        sandbox_id="s",
        virtual_pod_id="v",
        skip_pod_networking=True,
        privileged=True,
        host_network=True,
        shm_size_kib=512,
        core_limit=(1, 2),
        log_path="a/b.log",
        log_mount="/logs",
        gpu_capabilities=("utility", "compute"),
        wants_security_context=False,
        host_certificate="Y2VydA==",
        warnings=(),
    )


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_what_is_true(text: str) -> None:
    """As Go's strconv writes and reads it."""
    assert annotated(PRIVILEGED=text).privileged


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_what_is_false(text: str) -> None:
    """The default does not count then."""
    assert not annotated(SECURITY_CONTEXT=text).wants_security_context


@pytest.mark.parametrize("text", ["yes", "tRUE", " true", "2", "on"])
def test_a_boolean_that_is_none_is_the_default_and_a_warning(text: str) -> None:
    """The warning names the annotation."""
    found = annotated(SECURITY_CONTEXT=text, PRIVILEGED=text)
    assert found.wants_security_context
    assert not found.privileged
    assert len(found.warnings) == 2
    assert "lcow.privileged" in found.warnings[0]


@pytest.mark.parametrize(
    ("text", "is_asked"), [("true", True), ("TRUE", True), ("1", False), ("", False)]
)
def test_networking_is_skipped_for_true_in_any_case(text: str, is_asked: bool) -> None:
    """This one is no boolean of Go's."""
    assert annotated(SKIP_POD_NETWORKING=text).skip_pod_networking is is_asked


@pytest.mark.parametrize("text", ["-1", "1k", "0x10", "٣", "1" * 21, str(2**64)])
def test_a_size_that_is_no_number_is_a_warning(text: str) -> None:
    """It counts as absent."""
    found = annotated(SHM_SIZE_KB=text)
    assert found.shm_size_kib == 0
    assert "shm.size-kb" in found.warnings[0]


@pytest.mark.parametrize(
    ("text", "limit"),
    [("0;0", (0, 0)), ("5;18446744073709551615", (5, 2**64 - 1)), ("1; 2", (1, 2))],
)
def test_a_core_limit_is_soft_and_hard(text: str, limit: tuple[int, int]) -> None:
    """Both are 64 bits wide."""
    assert annotated(CORE_LIMIT=text).core_limit == limit


@pytest.mark.parametrize("text", ["1", "1;", ";1", "1;2;3", "-1;1", "a;b", f"{2**64};1"])
def test_a_core_limit_that_makes_no_sense_is_refused(text: str) -> None:
    """A limit that was asked for and does not hold is worse than no container."""
    with pytest.raises(InvalidArgumentError, match="rlimitcore"):
        annotated(CORE_LIMIT=text)


@pytest.mark.parametrize(
    ("text", "path"), [("a", "a"), ("/a//b", "a/b"), ("x/../a/./b.log", "a/b.log"), ("", "")]
)
def test_a_log_is_a_file_below_the_folder_of_logs(text: str, path: str) -> None:
    """However it is written."""
    assert annotated(LOG_PATH=text).log_path == path


@pytest.mark.parametrize("text", ["..", "../a", "/../logsX", "a/../../b", ".", "/", "a\0"])
def test_a_log_elsewhere_is_refused(text: str) -> None:
    """Also beside the folder, and the folder itself."""
    with pytest.raises(InvalidArgumentError, match="tee-log-path"):
        annotated(LOG_PATH=text)


def test_an_annotation_that_is_no_text_is_refused_by_its_path() -> None:
    """Those of others may be anything."""
    with pytest.raises(InvalidRequestError, match=r"annotations\.io\.kubernetes.*sandbox-id"):
        annotated(SANDBOX_ID=7)
    assert read({"annotations": {"other": 7}}) == read({})
    with pytest.raises(InvalidRequestError, match="annotations: expected a map"):
        read({"annotations": []})
