from pathlib import Path

from initramfs.recipes import kernel

REPO = Path(__file__).resolve().parents[3]


def test_options_that_came_out_as_asked_are_not_named() -> None:
    assert kernel.unmet({"A": "y", "N": "8", "OFF": "n"}, {"A": "y", "N": "8"}) == []


def test_an_option_that_was_dropped_is_named() -> None:
    assert kernel.unmet({"VMGENID": "y"}, {}) == ["CONFIG_VMGENID=y became n"]


def test_an_option_that_was_forced_on_is_named() -> None:
    assert kernel.unmet({"SWAP": "n"}, {"SWAP": "y"}) == ["CONFIG_SWAP=n became y"]


def test_an_option_with_another_value_is_named() -> None:
    assert kernel.unmet({"NR_CPUS": "64"}, {"NR_CPUS": "8"}) == ["CONFIG_NR_CPUS=64 became 8"]


def test_a_configuration_reads_as_its_set_options() -> None:
    text = '# CONFIG_OFF is not set\nCONFIG_A=y\nCONFIG_S="a=b"\n# a reason\n'
    assert kernel.parse_config(text) == {"A": "y", "S": '"a=b"'}


def test_the_debug_fragment_is_merged_last_and_only_when_asked_for() -> None:
    assert "debug" not in [path.stem for path in kernel.fragments(REPO, debug=False)]
    assert kernel.fragments(REPO, debug=True)[-1].stem == "debug"
