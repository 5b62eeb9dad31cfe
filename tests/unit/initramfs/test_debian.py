import pytest

from initramfs.recipes import debian
from initramfs.recipes.debian import Package
from initramfs.recipes.steps import StepError

SHA = "ab" * 32


def test_a_lock_reads_back_as_it_was_written() -> None:
    packages = [Package("runc", "1.1.5+ds1-1", SHA), Package("libc6", "2:2.36", "cd" * 32)]
    assert debian.parse_lock(debian.format_lock(packages)) == {p.name: p for p in packages}


def test_a_lock_is_written_sorted() -> None:
    text = debian.format_lock([Package("b", "1", SHA), Package("a", "1", SHA)])
    assert text.splitlines()[1:] == [f"a 1 {SHA}", f"b 1 {SHA}"]


def test_comments_and_empty_lines_of_a_lock_are_passed_over() -> None:
    assert debian.parse_lock(f"# head\n\nrunc 1 {SHA} # why\n") == {
        "runc": Package("runc", "1", SHA)
    }


@pytest.mark.parametrize(
    "line", ["runc 1", f"runc {SHA}", "runc 1 abcd", f"runc 1 {'G' * 64}", f"runc 1 {SHA} more"]
)
def test_a_bad_line_of_a_lock_is_named(line: str) -> None:
    with pytest.raises(StepError, match=r"debian\.txt:2: .*" + line.split()[0]):
        debian.parse_lock(f"# head\n{line}\n")


def test_a_package_is_pinned_once() -> None:
    with pytest.raises(StepError, match="runc is pinned twice"):
        debian.parse_lock(f"runc 1 {SHA}\nrunc 2 {SHA}\n")
