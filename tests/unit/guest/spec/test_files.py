"""The files that the containers of a pod share."""

import pytest

from gcs.errors import InvalidArgumentError, InvalidRequestError
from gcs.guest.spec import files


def test_hosts_names_the_machine_in_both_protocols() -> None:
    """The host's own name stands for the loopback address."""
    assert files.hosts("box") == (
        "127.0.0.1 localhost\n"
        "127.0.0.1 box\n"
        "\n"
        "# names of IPv6\n"
        "::1     localhost ip6-localhost ip6-loopback\n"
        "fe00::0 ip6-localnet\n"
        "ff00::0 ip6-mcastprefix\n"
        "ff02::1 ip6-allnodes\n"
        "ff02::2 ip6-allrouters\n"
    )


@pytest.mark.parametrize(
    ("hostname", "line"),
    [("box.example.org", "127.0.0.1 box.example.org box"), (".x", "127.0.0.1 .x")],
)
def test_the_first_label_of_a_dotted_name_is_an_alias(hostname: str, line: str) -> None:
    """As resolvers expect it."""
    assert files.hosts(hostname).splitlines()[1] == line


def test_resolv_conf_has_what_there_is() -> None:
    """Nothing makes an empty file."""
    assert files.resolv_conf((), ()) == ""
    assert files.resolv_conf(("a.org", "b.org"), ("10.0.0.1", "fd00::1")) == (
        "search a.org b.org\nnameserver 10.0.0.1\nnameserver fd00::1\n"
    )


def test_a_seventh_search_domain_is_refused() -> None:
    """Six work."""
    domains = tuple("abcdefg")
    assert files.resolv_conf(domains[:6], ()) == "search a b c d e f\n"
    with pytest.raises(InvalidArgumentError, match="7 search domains"):
        files.resolv_conf(domains, ())


@pytest.mark.parametrize("name", ["", "box", "Box_1.example-2.org", "a" * 255])
def test_a_hostname_of_letters_digits_and_three_signs_is_taken(name: str) -> None:
    """An empty one too: it is the VM's then."""
    assert files.hostname_of({"hostname": name}) == name


@pytest.mark.parametrize("name", ["a" * 256, "a b", "böx", "a\n", "a/b", "a\n127.0.0.1 evil"])
def test_any_other_hostname_is_refused(name: str) -> None:
    """It would end up in a file of lines."""
    with pytest.raises(InvalidArgumentError, match="hostname"):
        files.hostname_of({"hostname": name})


def test_a_hostname_that_is_no_text_is_refused_by_its_path() -> None:
    """As any member of the wrong type."""
    with pytest.raises(InvalidRequestError, match=r"OciSpecification\.hostname"):
        files.hostname_of({"hostname": 7})


def test_files_are_bound_where_the_spec_has_no_mount_of_its_own() -> None:
    """However the destination is written; behind the mounts of the spec."""
    own: dict[str, object] = {"destination": "/etc//hosts/", "source": "/x"}
    draft: dict[str, object] = {"root": {}, "mounts": [own]}
    files.add_mounts(draft, "/run/p")
    assert draft["mounts"] == [
        own,
        {
            "destination": "/etc/hostname",
            "type": "bind",
            "source": "/run/p/hostname",
            "options": ["bind"],
        },
        {
            "destination": "/etc/resolv.conf",
            "type": "bind",
            "source": "/run/p/resolv.conf",
            "options": ["bind"],
        },
    ]


def test_files_of_a_read_only_root_are_read_only() -> None:
    """The containers of a pod may differ in that."""
    draft: dict[str, object] = {"root": {"readonly": True}}
    files.add_mounts(draft, "/run/p")
    mounts = draft["mounts"]
    assert isinstance(mounts, list)
    assert [mount["options"] for mount in mounts] == [["bind", "ro"]] * 3
