"""The log stream: whatever is logged is one JSON object on one line."""

import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta
from enum import IntEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcs.guest import log, logwriter

#: What Go's logrus reads; anything else ends a host's reading.
GO_LEVELS = {"panic", "fatal", "error", "warning", "warn", "info", "debug", "trace"}

_texts = st.text(max_size=40)
_values = st.one_of(
    _texts,
    st.integers(),
    st.booleans(),
    st.none(),
    st.floats(),
    st.binary(max_size=20),
    st.lists(_texts, max_size=2),
    st.builds(ValueError, _texts),
)


def _format(record: logging.LogRecord) -> dict[str, object]:
    """Format a record as the stream has it, and read it as a host does."""
    line = log._JsonLines().format(record)
    assert "\n" not in line
    line.encode()
    members = json.loads(line)
    assert isinstance(members, dict)
    return members


def _record(
    level: int, message: object, /, *args: object, **fields: object
) -> logging.LogRecord:
    record = logging.LogRecord("gcs", level, "", 0, message, args, None)
    record.__dict__.update(log.fields(**fields))
    return record


@given(st.integers(0, 100), _texts, st.dictionaries(_texts, _values, max_size=4))
def test_any_record_is_one_line(level: int, text: str, fields: dict[str, object]) -> None:
    """Line ends, zero bytes, lone surrogates, numbers of any size: the three members stand."""
    record = _record(level, text)
    record.__dict__.update({"fields": fields})
    members = _format(record)
    assert members["level"] in GO_LEVELS
    assert members["msg"] == text.encode(errors="backslashreplace").decode()
    time = datetime.fromisoformat(str(members["time"]))
    assert time.utcoffset() == timedelta(0)
    assert set(fields) <= {key.removeprefix("fields.") for key in members} | set(members)


@given(_texts, st.lists(_values, max_size=3))
def test_arguments_need_not_fit(text: str, args: list[object]) -> None:
    """A wrong number or kind of arguments is a bug in the call, and no reason to lose it."""
    members = _format(_record(logging.INFO, text, *args))
    assert isinstance(members["msg"], str)


@given(_texts)
def test_any_exception_is_a_member_of_its_line(text: str) -> None:
    """With its own text, on the line of the record."""
    try:
        raise RuntimeError(text)  # noqa: TRY301 - it needs a traceback
    except RuntimeError:
        info = sys.exc_info()
    record = logging.LogRecord("gcs", logging.ERROR, "", 0, "failed", (), info)
    members = _format(record)
    assert members["msg"] == "failed"
    assert "RuntimeError" in str(members["stack"])
    assert text.encode(errors="backslashreplace").decode() in str(members["stack"])


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (logging.CRITICAL, "fatal"),
        (logging.ERROR, "error"),
        (logging.WARNING, "warning"),
        (logging.INFO, "info"),
        (logging.DEBUG, "debug"),
        (logging.NOTSET, "debug"),
        (logging.WARNING + 5, "warning"),
    ],
)
def test_levels_have_go_s_names(level: int, name: str) -> None:
    """Python's "critical" is none of them."""
    assert _format(_record(level, "x"))["level"] == name


def test_a_huge_text_is_cut() -> None:
    """A record is as long as a screen or two, whatever it quotes."""
    members = _format(_record(logging.INFO, "x" * 10**6, body="y" * 10**6))
    assert len(str(members["msg"])) == len(str(members["body"])) == 8192


def test_of_a_huge_stack_the_end_is_kept() -> None:
    """The error itself stands there."""
    error = ValueError("x" * 10**5 + "the end")
    info = (ValueError, error, None)
    record = logging.LogRecord("gcs", logging.ERROR, "", 0, "failed", (), info)
    stack = str(_format(record)["stack"])
    assert len(stack) == 8192
    assert stack.endswith("the end\n")


def test_a_field_does_not_replace_what_every_record_has() -> None:
    """It goes by another name, as Go's logrus names it."""
    members = _format(_record(logging.INFO, "said", msg="other", level="odd", time="now"))
    assert (members["msg"], members["level"]) == ("said", "info")
    assert members["fields.msg"] == "other"
    assert members["fields.level"] == "odd"


def test_numbers_stay_numbers_where_a_reader_can_hold_them() -> None:
    """And are text beyond 64 bits; a truth value is none."""

    class Kind(IntEnum):
        ONE = 1

    members = _format(
        _record(logging.INFO, "x", pid=7, low=-(2**63) + 1, big=2**63, yes=True, kind=Kind.ONE)
    )
    assert members["pid"] == 7
    assert members["low"] == -(2**63) + 1
    assert members["big"] == str(2**63)
    assert members["yes"] is True
    assert members["kind"] == 1


_PROGRAM = """
import logging, sys, threading, warnings
from gcs.guest import log, logwriter
log.configure({level!r})
logging.getLogger("gcs").debug("a debug line")
logging.getLogger("gcs").info("%d", "no number")
warnings.warn("a warning\\nof two lines")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
class Odd:
    def __del__(self):
        raise ValueError("nobody can catch this")
Odd()
raise RuntimeError("the end\\udcff")
"""


def _run(tmp_path: Path, level: str) -> list[dict[str, object]]:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM.format(level=level))
    result = subprocess.run([sys.executable, str(program)], capture_output=True, check=False)
    assert result.returncode == 1
    assert result.stdout == b""
    return [json.loads(line) for line in result.stderr.splitlines()]


def test_all_that_a_program_says_is_json(tmp_path: Path) -> None:
    """Warnings, errors of threads and the last traceback as well: nothing else is on stderr."""
    records = _run(tmp_path, "trace")
    assert [record["level"] for record in records] == [
        "debug",
        "info",
        "warning",
        "fatal",
        "error",
        "fatal",
    ]
    assert "two lines" in str(records[2]["msg"])
    assert "ZeroDivisionError" in str(records[3]["stack"])
    assert "nobody can catch this" in str(records[4]["stack"])
    assert "__del__" in str(records[4]["where"])
    assert "the end\\udcff" in str(records[5]["stack"])


def test_what_is_no_record_goes_to_the_kernel_s_log(tmp_path: Path) -> None:
    """What the interpreter and C libraries print, whose last words are no JSON."""
    kernel, program = tmp_path / "kmsg", tmp_path / "program.py"
    kernel.write_bytes(b"")
    program.write_text(
        "import ctypes, logging, os, sys\n"
        "from gcs.guest import log\n"
        f"log._KERNEL_LOG = {str(kernel)!r}\n"
        'log.configure("debug")\n'
        'logging.getLogger("gcs").info("a record")\n'
        'print("a line", file=sys.stderr, flush=True)\n'
        "ctypes.pythonapi.Py_FatalError(b'the end')\n"
    )
    result = subprocess.run([sys.executable, str(program)], capture_output=True, check=False)
    assert result.returncode == -signal.SIGABRT
    printed = kernel.read_text()
    assert printed.startswith("a line\n")
    assert "Fatal Python error" in printed
    records = [json.loads(line) for line in result.stderr.splitlines()]
    assert {record["msg"] for record in records} <= {"a record"}


@pytest.mark.parametrize("level", sorted(log.LEVELS))
def test_the_level_is_the_lowest_that_is_logged(tmp_path: Path, level: str) -> None:
    """Every name of the flag is a level of Python's; what is below it is not written."""
    order = ["debug", "info", "warning", "error", "fatal"]
    lowest = {"trace": "debug", "warn": "warning", "panic": "fatal"}.get(level, level)
    levels = [str(record["level"]) for record in _run(tmp_path, level)]
    assert levels
    assert all(order.index(found) >= order.index(lowest) for found in levels)
    assert ("debug" in levels) == (lowest == "debug")


_FLOOD = """
import logging, sys, time
from gcs.guest import log, logwriter
log.configure("info")
started = time.monotonic()
for number in range(20000):
    logging.getLogger("gcs").info("line", extra=log.fields(number=number))
print(time.monotonic() - started, flush=True)
sys.stdin.read()
logging.getLogger("gcs").info("the last")
"""


def test_a_reader_that_does_not_read_stops_nothing(tmp_path: Path) -> None:
    """What found no room is counted, and later lines follow it; nothing is torn."""
    program = tmp_path / "program.py"
    program.write_text(_FLOOD)
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=theirs.fileno(),
    )
    with ours, process:
        theirs.close()
        assert process.stdin is not None
        assert process.stdout is not None
        assert float(process.stdout.readline()) < 60  # it never ended otherwise
        ours.settimeout(60)
        data = b""
        while b"left out" not in data:
            data += ours.recv(65536)
        process.stdin.close()
        data += b"".join(iter(lambda: ours.recv(65536), b""))
    records = [json.loads(line) for line in data.splitlines()]
    numbers = [record["number"] for record in records if record["msg"] == "line"]
    assert numbers == list(range(len(numbers)))
    assert [record.get("count") for record in records[-2:]] == [20000 - len(numbers), None]
    assert records[-1]["msg"] == "the last"


def test_a_log_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    """As a connection that the host has closed."""
    program = tmp_path / "program.py"
    program.write_text(_FLOOD)
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        result = subprocess.run(
            [sys.executable, str(program)],
            input=b"",
            stdout=subprocess.PIPE,
            stderr=theirs.fileno(),
            check=False,
        )
    assert result.returncode == 0


def test_a_log_file_takes_the_place_of_stderr(tmp_path: Path) -> None:
    """Emptied first, and for root alone; one that can't be opened is said on stderr."""
    program = tmp_path / "program.py"
    file = tmp_path / "agent.log"
    file.write_text("old")
    program.write_text(
        "import logging, sys\nfrom gcs.guest import log\nlog.configure('info', sys.argv[1])\n"
        "logging.getLogger('gcs').info('a line')\n"
    )
    for name, in_file, on_stderr in (
        (str(file), ["a line"], []),
        ("/nowhere/x", ["a line"], ["no log file", "a line"]),
    ):
        argv = [sys.executable, str(program), name]
        result = subprocess.run(argv, capture_output=True, check=True)
        said = [json.loads(line)["msg"] for line in result.stderr.splitlines()]
        assert said == on_stderr
        assert [json.loads(line)["msg"] for line in file.read_text().splitlines()] == in_file


def test_what_is_left_out_is_one_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for a line in the middle of a flood is not taken: the gap is where it is said."""
    monkeypatch.setattr(logwriter, "_MAX_WAITING", 7000)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    # A line of 2,101 bytes finds no room beside another: the pipe holds one, the queue three.
    assert fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096) == 4096
    lines = logwriter.LineWriter(writer, lambda count: f"{count} left out")
    with os.fdopen(reader, "rb") as stream:
        for number in range(10):
            lines.handle(_record(logging.INFO, f"{number:02100d}"))
        seen = [int(stream.readline())]
        give_up = time.monotonic() + 60
        while lines._waiting + 2101 > 7000:
            assert time.monotonic() < give_up
        lines.handle(_record(logging.INFO, f"{10:02100d}"))
        while b"left out" not in (line := stream.readline()):
            seen.append(int(line))
        lines.handle(_record(logging.INFO, "the last"))
        lines.flush()
        os.close(writer)
        assert stream.read() == b"the last\n"
    assert seen == list(range(len(seen)))
    assert line == f"{11 - len(seen)} left out\n".encode()
