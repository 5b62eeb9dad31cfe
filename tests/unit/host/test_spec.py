"""The runtime spec that is made of an image's configuration."""

import pytest

from gcs.errors import InvalidArgumentError
from gcs.host.images import ImageConfig
from gcs.host.spec import Command, User, command, environment, runtime_spec, seccomp_profile

CID = "c" * 64
CONFIG = ImageConfig(
    env=("PATH=/opt/bin", "A=image"),
    entrypoint=("/entry",),
    cmd=("default",),
    working_dir="/srv",
    user="",
    stop_signal="",
    labels={},
)
BARE = ImageConfig(
    env=(), entrypoint=(), cmd=(), working_dir="", user="", stop_signal="", labels={}
)


def process(wish: Command, config: ImageConfig = CONFIG, user: User | None = None) -> object:
    return runtime_spec(config, wish, user or User(), CID, "/rootfs")["process"]


@pytest.mark.parametrize(
    ("config", "wish", "words"),
    [
        (CONFIG, Command(), ("/entry", "default")),
        (CONFIG, Command(arguments=("a", "b")), ("/entry", "a", "b")),
        (CONFIG, Command(entrypoint=("/mine",)), ("/mine",)),
        (CONFIG, Command(entrypoint=("/mine",), arguments=("a",)), ("/mine", "a")),
        (BARE, Command(arguments=("a",)), ("a",)),
    ],
)
def test_words_replace_the_command_and_an_entrypoint_replaces_both(
    config: ImageConfig, wish: Command, words: tuple[str, ...]
) -> None:
    """As everybody knows it from docker run."""
    assert command(config, wish) == words


def test_an_image_without_a_command_needs_one() -> None:
    """There is nothing to guess."""
    with pytest.raises(InvalidArgumentError, match="names no command"):
        command(BARE, Command())


def test_the_users_variables_win_over_the_images_and_those_over_defaults() -> None:
    """A name without a value takes the variable away."""
    wish = Command(environment=("A=mine", "B="), terminal=True)
    assert environment(CONFIG, wish, "box") == (
        "PATH=/opt/bin",
        "HOSTNAME=box",
        "TERM=xterm",
        "A=mine",
        "B=",
    )
    assert "A" not in dict(
        entry.split("=", 1) for entry in environment(CONFIG, Command(environment=("A",)), "box")
    )


def test_the_images_working_directory_is_kept_and_defaults_to_the_root() -> None:
    """runc wants an absolute path."""
    for config, cwd in ((CONFIG, "/srv"), (BARE, "/")):
        found = process(Command(arguments=("a",)), config)
        assert isinstance(found, dict)
        assert found["cwd"] == cwd


def test_a_terminal_gets_its_size_when_it_is_known() -> None:
    """Without a size the runtime's default stays."""
    sized, unsized = process(Command(terminal=True, height=24, width=80)), process(Command())
    assert isinstance(sized, dict)
    assert isinstance(unsized, dict)
    assert sized["consoleSize"] == {"height": 24, "width": 80}
    assert "consoleSize" not in unsized


def test_a_process_that_is_not_root_holds_no_capabilities() -> None:
    """They stay in the bounding set, for programs that carry them."""
    held = process(Command(), user=User(1000, 1000))
    assert isinstance(held, dict)
    assert held["capabilities"]["effective"] == held["capabilities"]["permitted"] == []
    assert "CAP_CHOWN" in held["capabilities"]["bounding"]
    assert held["user"] == {"uid": 1000, "gid": 1000, "additionalGids": []}


def test_capabilities_that_reach_the_vm_are_not_given() -> None:
    """The root of a container is not the root of the VM."""
    given = process(Command())
    assert isinstance(given, dict)
    dangerous = {"CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_PTRACE", "CAP_NET_ADMIN"}
    assert not dangerous & set(given["capabilities"]["bounding"])
    assert given["noNewPrivileges"] is True


def test_every_namespace_is_the_containers_own() -> None:
    """Nothing is shared with the VM, and the secrets of /proc are masked."""
    linux = runtime_spec(CONFIG, Command(), User(), CID, "/rootfs")["linux"]
    assert isinstance(linux, dict)
    kinds = {namespace["type"] for namespace in linux["namespaces"]}
    assert kinds == {"pid", "ipc", "uts", "mount", "network", "cgroup"}
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "/proc/sys" in linux["readonlyPaths"]


# -- seccomp -----------------------------------------------------------------------------------

AF_INET, AF_VSOCK, AF_XDP, AF_MAX = 2, 40, 44, 46


def allows(syscall: str, first: int = 0) -> bool:
    """Judge a call by the profile as the kernel would: 64-bit registers, any rule suffices."""
    rules = seccomp_profile()["syscalls"]
    assert isinstance(rules, list)
    for rule in rules:
        if syscall in rule["names"] and all(holds(arg, first) for arg in rule.get("args", [])):
            return bool(rule["action"] == "SCMP_ACT_ALLOW")
    return False


def holds(argument: dict[str, int | str], register: int) -> bool:
    value = argument["value"]
    assert isinstance(value, int)
    assert argument["index"] == 0
    match argument["op"]:
        case "SCMP_CMP_LT":
            return register < value
        case "SCMP_CMP_EQ":
            return register == value
        case "SCMP_CMP_MASKED_EQ":
            return register & value == argument["valueTwo"]
        case _:
            raise AssertionError(argument)


@pytest.mark.parametrize("syscall", ["socket", "socketpair"])
def test_all_socket_families_but_vsock_are_allowed(syscall: str) -> None:
    """vsock reaches the host from inside any container, so it is refused, and it alone."""
    refused = [family for family in range(AF_MAX) if not allows(syscall, family)]
    assert refused == [AF_VSOCK]


@pytest.mark.parametrize("garbage", [1 << 32, 0xFFFFFFFF << 32])
def test_vsock_is_refused_whatever_the_upper_half_of_the_register_holds(garbage: int) -> None:
    """The kernel looks at the lower 32 bits only."""
    assert not allows("socket", garbage | AF_VSOCK)
    assert allows("socket", garbage | AF_XDP)


def test_calls_that_escape_or_hide_are_not_in_the_profile() -> None:
    """socketcall hides the family behind a pointer; io_uring opens sockets unseen."""
    for syscall in (
        "socketcall",
        "io_uring_setup",
        "mount",
        "bpf",
        "init_module",
        "kexec_load",
    ):
        assert not allows(syscall), syscall


def test_new_namespaces_can_not_be_cloned() -> None:
    """A plain fork passes; CLONE_NEWUSER does not; clone3, which hides its flags, is ENOSYS."""
    assert allows("clone", 0x01200011)
    assert not allows("clone", 0x10000000)
    rules = seccomp_profile()["syscalls"]
    assert isinstance(rules, list)
    (clone3,) = (rule for rule in rules if "clone3" in rule["names"])
    assert (clone3["action"], clone3["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)
