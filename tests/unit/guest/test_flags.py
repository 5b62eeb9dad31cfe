"""The agent's flags, in Go's style; nothing that a host passes ends the agent."""

from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcs.guest import flags
from gcs.guest.flags import Options

DEFAULTS = Options(
    loglevel="info",
    logfile="",
    core_dump_location="",
    kmsg_level=4,
    root_reserve=None,
    agent_threshold=50 * 1024 * 1024,
    has_time_sync=True,
    denies=False,
    power_off_after=0,
    runtime="runc",
    unix="",
    complaints=(),
)

_NAMES = sorted(flags.DEFAULTS)
_ODD = ("--", "-", "-l", "-log", "-r", "=", "-1", "-h", "--help", "json", "9" * 30)
_WORDS = st.sampled_from([f"{dash}{name}" for dash in ("-", "--") for name in _NAMES])
_WORDS |= st.sampled_from(_ODD) | st.sampled_from(("-unix=", "-loglevel=", "--loglevel=debug"))


@pytest.mark.parametrize(
    "argv",
    [
        ("-loglevel", "debug"),
        ("-loglevel=debug",),
        ("--loglevel", "debug"),
        ("--loglevel=debug",),
        ("-loglevel", "info", "-loglevel", "debug"),
    ],
)
def test_one_dash_or_two_and_both_ways_of_a_value(argv: tuple[str, ...]) -> None:
    """As Go's flag package reads them; of several the last counts."""
    assert flags.parse(argv) == replace(DEFAULTS, loglevel="debug")


def test_without_flags_there_are_defaults() -> None:
    """vsock, runc, and what hosts in use have as defaults."""
    assert flags.parse(()) == DEFAULTS


def test_the_flags_of_hosts_in_use_are_understood() -> None:
    """All that they pass, with every value."""
    argv = (
        *("-v4", "-log-format", "json", "-loglevel", "debug", "-scrub-logs=false"),
        *("-core-dump-location", "/run/cores/%e", "-kmsgLogLevel", "7", "-logfile=/tmp/log"),
        *("-root-mem-reserve-bytes=1048576", "-gcs-mem-limit-bytes", "0", "-disable-time-sync"),
        *("-initial-policy-stance", "allow", "-power-off-after", "90", "-runtime", "crun"),
    )
    assert flags.parse(argv) == replace(
        DEFAULTS,
        loglevel="debug",
        logfile="/tmp/log",
        core_dump_location="/run/cores/%e",
        kmsg_level=7,
        root_reserve=1048576,
        agent_threshold=0,
        has_time_sync=False,
        power_off_after=90,
        runtime="crun",
    )


@pytest.mark.parametrize("flag", ["-log", "-l", "-run", "-u", "--log", "-unix2", "-loglevels"])
def test_a_flag_is_not_abbreviated(flag: str) -> None:
    """A flag that only begins like one of ours is another, and is said to have no effect."""
    complaint = f"flags without effect here: {flag} x"
    assert flags.parse((flag, "x")) == replace(DEFAULTS, complaints=(complaint,))


@pytest.mark.parametrize(
    "argv",
    [("-loglevel",), ("-loglevel", "-v4"), ("--unix",), ("-runtime",), ("-kmsgLogLevel",)],
)
def test_a_flag_without_its_value_has_its_default(argv: tuple[str, ...]) -> None:
    """An agent that exits over it would take its VM along."""
    assert flags.parse(argv) == DEFAULTS


@pytest.mark.parametrize(
    ("argument", "changed", "word"),
    [
        ("-loglevel=loud", {}, "'loud'"),
        ("-kmsgLogLevel=-1", {}, "'-1'"),
        ("-root-mem-reserve-bytes=75MiB", {}, "'75MiB'"),
        ("-gcs-mem-limit-bytes=99999999999999999999", {}, "'9999"),
        ("-disable-time-sync=perhaps", {}, "'perhaps'"),
        ("-log-format=text", {}, "JSON"),
        ("-use-inouterr", {}, "dialled"),
        ("-v4=false", {}, "always on"),
        ("-initial-policy-stance=Allow", {"denies": True}, "'deny' is used"),
    ],
)
def test_what_cannot_be_done_is_said_and_passed_over(
    argument: str, changed: dict[str, bool], word: str
) -> None:
    """The default is used; only a policy stance that is not known closes everything."""
    options = flags.parse((argument,))
    (complaint,) = options.complaints
    assert word in complaint
    assert replace(options, complaints=()) == replace(DEFAULTS, **changed)  # type: ignore[arg-type] # all of it is bool


@pytest.mark.parametrize(
    ("argument", "has_time_sync"),
    [
        ("-disable-time-sync", False),
        ("-disable-time-sync=true", False),
        ("-disable-time-sync=1", False),
        ("-disable-time-sync=T", False),
        ("-disable-time-sync=0", True),
        ("-disable-time-sync=FALSE", True),
    ],
)
def test_true_and_false_have_go_s_spellings(argument: str, has_time_sync: bool) -> None:
    """And no value at all is true."""
    assert flags.parse((argument,)) == replace(DEFAULTS, has_time_sync=has_time_sync)


@given(st.lists(_WORDS | st.text(max_size=8), max_size=6))
def test_no_command_line_ends_the_agent(argv: list[str]) -> None:
    """Whatever is passed, there are options of the right kind."""
    options = flags.parse(argv)
    for value, usual in zip(astuple(options), astuple(DEFAULTS), strict=True):
        assert type(value) is type(usual) or (usual is None and type(value) is int)
