"""What holds for every image and every wish."""

from hypothesis import given
from hypothesis import strategies as st

from gcs.errors import InvalidArgumentError
from gcs.host.images import ImageConfig
from gcs.host.spec import Command, User, environment, runtime_spec
from gcs.host.terminal import printable
from gcs.wire import codec
from gcs.wire.control import Progress, ProgressState, Run, VmOptions
from gcs.wire.frame import MAX_HOST_FRAME

WORDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
KEYS = st.text("ABCxyz_", min_size=1, max_size=4)
ENTRIES = st.lists(st.builds("{}={}".format, KEYS, WORDS), max_size=6).map(tuple)
CONFIGS = st.builds(
    ImageConfig,
    env=ENTRIES,
    entrypoint=st.lists(WORDS, max_size=3).map(tuple),
    cmd=st.lists(WORDS, max_size=3).map(tuple),
    working_dir=WORDS,
    user=st.just(""),
    stop_signal=st.just(""),
    labels=st.just({}),
)
WISHES = st.builds(
    Command,
    arguments=st.lists(WORDS, min_size=1, max_size=3).map(tuple),
    environment=ENTRIES,
    terminal=st.booleans(),
)


@given(CONFIGS, WISHES)
def test_each_variable_occurs_once_with_the_last_value_given(
    config: ImageConfig, wish: Command
) -> None:
    """The merged list never holds a name twice, and the user's value is in it."""
    merged = [entry.partition("=") for entry in environment(config, wish, "box")]
    names = [name for name, _, _ in merged]
    assert len(names) == len(set(names))
    wanted = dict(entry.split("=", 1) for entry in wish.environment)
    found = {name: value for name, _, value in merged}
    assert wanted.items() <= found.items()


@given(CONFIGS, WISHES)
def test_a_spec_is_plain_data_and_the_same_every_time(
    config: ImageConfig, wish: Command
) -> None:
    """It fits into a frame for a guest, and nothing in it depends on the day."""
    specs = [runtime_spec(config, wish, User(), "c" * 64, "/r") for _ in range(2)]
    assert specs[0] == specs[1]
    process = specs[0]["process"]
    assert isinstance(process, dict)
    assert all(isinstance(word, str) for word in process["args"])


@given(st.text(max_size=30))
def test_a_user_is_numbers_or_a_name_and_never_another_error(text: str) -> None:
    """Numbers come back as they were written; what is no number is left to the image."""
    try:
        user = User.parse(text)
    except InvalidArgumentError:
        return
    if user is not None and text:
        uid, _, gid = text.partition(":")
        assert (user.uid, user.gid) == (int(uid), int(gid or 0))


@given(st.text(max_size=60))
def test_printable_text_can_not_steer_a_terminal(text: str) -> None:
    """No control character is left, and printable text is left alone."""
    shown = printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


@given(
    arguments=st.lists(WORDS, max_size=4).map(tuple),
    environment=ENTRIES,
    terminal=st.booleans(),
    height=st.integers(0, 65535),
)
def test_a_run_request_survives_the_wire(
    arguments: tuple[str, ...], environment: tuple[str, ...], terminal: bool, height: int
) -> None:
    """Encoding and decoding a message of the control socket gives it back."""
    run = Run(
        vm=VmOptions(kernel="/k", initrd="/i"),
        image="/image",
        cache="/cache",
        arguments=arguments,
        environment=environment,
        terminal=terminal,
        height=height,
    )
    payload = codec.encode(run, codec.Encoding.CBOR)
    assert len(payload) < MAX_HOST_FRAME
    assert codec.decode(codec.decode_tree(payload), Run) == run


@given(WORDS, st.sampled_from(ProgressState), st.integers(0, 2**32 - 1))
def test_a_progress_survives_the_wire(step: str, state: ProgressState, took: int) -> None:
    """The same for what the service says unasked."""
    progress = Progress(step=step, state=state, milliseconds=took)
    payload = codec.encode(progress, codec.Encoding.CBOR)
    assert codec.decode(codec.decode_tree(payload), Progress) == progress
