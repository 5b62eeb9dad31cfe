import io
import tarfile

from initramfs.recipes import tree
from initramfs.recipes.tree import Entry


def members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getmembers()


def test_the_order_of_a_tree_does_not_show_in_its_tar() -> None:
    one = {"b/c": tree.regular("1"), "a": tree.symlink("b")}
    assert tree.to_tar(one) == tree.to_tar(dict(reversed(one.items())))


def test_a_tar_is_sorted_and_has_no_times() -> None:
    listed = members(tree.to_tar({"b/c": tree.regular("1"), "a": tree.regular("2")}))
    assert [member.name for member in listed] == ["a", "b", "b/c"]
    assert {member.mtime for member in listed} == {0}


def test_parents_are_made_and_stated_ones_kept() -> None:
    listed = members(tree.to_tar({"tmp": tree.directory(0o1777), "tmp/x/y": tree.regular("")}))
    assert [(m.name, m.mode, m.isdir()) for m in listed] == [
        ("tmp", 0o1777, True),
        ("tmp/x", 0o755, True),
        ("tmp/x/y", 0o644, False),
    ]


def test_owners_modes_and_links_are_kept() -> None:
    files = {
        "f": Entry(tarfile.REGTYPE, 0o4755, b"x", uid=3, gid=4),
        "l": tree.symlink("../f"),
    }
    file, link = members(tree.to_tar(files))
    assert (file.mode, file.uid, file.gid, file.size) == (0o4755, 3, 4, 1)
    assert link.issym()
    assert link.linkname == "../f"


def test_the_top_folders_of_a_package_move_below_usr() -> None:
    files = {
        "bin": tree.directory(),
        "bin/sh": tree.symlink("dash"),
        "usr/bin/env": tree.regular(""),
        "binary/x": tree.regular(""),
    }
    assert set(tree.merge_usr(files)) == {"usr/bin/sh", "usr/bin/env", "binary/x"}


def test_a_pattern_with_a_slash_at_its_end_is_a_folder() -> None:
    assert tree.matches("usr/lib/x", ("usr/lib/",))
    assert not tree.matches("usr/library", ("usr/lib/",))
    assert tree.matches("lib/libz.so.1", ("lib/libz.so.*",))
