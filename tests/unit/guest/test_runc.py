"""What the runtimes say, and the errors that it stands for."""

from pathlib import Path

import pytest

from gcs.errors import (
    ContainerExistsError,
    ContainerNotFoundError,
    ContainerStoppedError,
    GcsError,
    InvalidArgumentError,
    RuncError,
    WrongStateError,
)
from gcs.guest import runc


@pytest.mark.parametrize(
    ("message", "error"),
    [
        # runc 1.1
        ("container does not exist", ContainerNotFoundError),
        ("exec failed: container does not exist", ContainerNotFoundError),
        ('container "c1" does not exist', ContainerNotFoundError),
        ("container with given ID already exists", ContainerExistsError),
        ("runc create failed: container with given ID already exists", ContainerExistsError),
        ("container with id exists: c1", ContainerExistsError),
        ("runc create failed: invalid container ID format", InvalidArgumentError),
        ("invalid id format: /x", InvalidArgumentError),
        ("cannot delete container c1 that is not stopped: running", WrongStateError),
        ("container still running", WrongStateError),
        ("container not running", ContainerStoppedError),
        ("exec failed: cannot exec in a stopped container", ContainerStoppedError),
        ("cannot start a container that has stopped", ContainerStoppedError),
        ("cannot start an already running container", WrongStateError),
        ("cannot delete container c1 that is not stopped: created", WrongStateError),
        ("exec failed: args must not be empty", RuncError),
        ('chdir to cwd ("/x") set in config.json failed: no such file', RuncError),
        ("runc create failed: unexpected EOF", RuncError),
        ("runc create failed: chdir /run/b: no such file or directory", RuncError),
        ("runc create failed: JSON specification file config.json not found", RuncError),
        (
            'runc create failed: unable to start: exec: "/nope": no such file or directory',
            RuncError,
        ),
        # crun 1.8
        (
            "error opening file `/run/crun/c1/status`: No such file or directory",
            ContainerNotFoundError,
        ),
        (
            "cannot open directory '/run/crun/c1': No such file or directory",
            ContainerNotFoundError,
        ),
        ("container `c1` already exists", ContainerExistsError),
        ("the container `c1` is not in `created` or `stopped` state", WrongStateError),
        (
            "cannot open `/run/crun/c1/exec.fifo`: No such file or directory",
            WrongStateError,
        ),
        ("the container `c1` is not running", ContainerStoppedError),
        ("container `c1` is not running", ContainerStoppedError),
        ("open pidfd: No such process", ContainerStoppedError),
        ("chdir `/x`: No such file or directory", RuncError),
        ("open executable: Invalid argument", RuncError),
        ("executable file `nope` not found in $PATH: No such file or directory", RuncError),
        ("error loading config.json", RuncError),
        ("", RuncError),
    ],
)
def test_the_runtime_s_words_tell_the_error(message: str, error: type[GcsError]) -> None:
    """The text is passed on as it stands, whatever is told from it."""
    found = runc.error_from(message)
    assert type(found) is error
    assert str(found) == message


def test_a_sentence_may_quote_any_bytes(tmp_path: Path) -> None:
    """A path that is not UTF-8 does not cost the sentence around it."""
    log = tmp_path / "log"
    log.write_bytes(b'{"level":"error","msg":"open `/\xff`: No such file"}\n')
    assert runc._last_error(log) == "open `/\ufffd`: No such file"


def test_the_last_error_of_a_log_counts(tmp_path: Path) -> None:
    """It is the outermost; warnings, junk and half lines around it are none."""
    log = tmp_path / "log"
    log.write_bytes(
        b'{"level":"error","msg":"inner"}\n'
        b'{"level":"warning","msg":"later"}\n'
        b'{"level":"fatal","msg":"outer \xc3\xa4"}\n'
        b'{"level":"info","msg":"after"}\n'
        b"not json\n[1]\n7\n\xff\n"
        b'{"level":["error"],"msg":"odd"}\n'
        b'{"level":"error","msg":"cut'
    )
    assert runc._last_error(log) == "outer \u00e4"


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"level":"error"}\n'])
def test_a_log_without_words_has_no_error(tmp_path: Path, content: bytes) -> None:
    """Then the exit status is what is said."""
    log = tmp_path / "log"
    assert runc._last_error(log) == ""
    log.write_bytes(content)
    assert runc._last_error(log) == ""
