from initramfs.recipes import nyancat, tree


def test_seven_layers_are_made_and_each_has_a_real_file() -> None:
    upper = (nyancat.removing(), nyancat.replacing())
    assert len(nyancat.PACKAGES) + len(upper) == 7
    assert all(any(".wh." not in path for path in layer) for layer in upper)


def test_one_layer_deletes_a_file_of_a_lower_one() -> None:
    deleted = [path for path in nyancat.removing() if "/.wh." in path]
    assert deleted == ["usr/share/doc/nyancat/.wh.README.md"]


def test_one_layer_replaces_a_directory() -> None:
    layer = nyancat.replacing()
    assert layer["etc/update-motd.d/.wh..wh..opq"] == nyancat.whiteout()
    assert "etc/update-motd.d/50-cat" in layer


def test_a_whiteout_is_an_empty_regular_file() -> None:
    entry = nyancat.whiteout()
    assert (entry.data, entry.kind) == (b"", b"0")


def test_the_lowest_layer_links_the_top_folders_into_usr() -> None:
    base = nyancat.tidy({"etc/debian_version": tree.regular("12"), "bin": tree.directory()})
    assert base["bin"] == tree.symlink("usr/bin")
    assert base["lib64"] == tree.symlink("usr/lib64")


def test_manuals_are_left_out_and_a_shell_is_linked() -> None:
    layer = nyancat.tidy(
        {"bin/dash": tree.regular("", 0o755), "usr/share/man/man1/dash.1.gz": tree.regular("")}
    )
    assert set(layer) == {"usr/bin/dash", "usr/bin/sh"}
