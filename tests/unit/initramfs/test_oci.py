import gzip
import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from initramfs.recipes import archive, oci, tree

Json = dict[str, object]


def read(path: Path) -> Json:
    loaded: Json = json.loads(path.read_bytes())
    return loaded


def layer(text: str) -> oci.Layer:
    return oci.gzip_layer(tree.to_tar({"file": tree.regular(text)}))


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    folder = tmp_path / "layout"
    writer = oci.Layout(folder)
    writer.finish([writer.image(oci.Image([layer("a"), layer("b")], {"Cmd": ["x"]}))])
    return folder


def test_every_blob_is_named_by_its_digest(layout: Path) -> None:
    blobs = list((layout / "blobs/sha256").iterdir())
    assert len(blobs) == 4
    assert all(hashlib.sha256(b.read_bytes()).hexdigest() == b.name for b in blobs)


def test_a_layer_is_known_by_the_tar_inside_it() -> None:
    one = layer("a")
    assert oci.digest_of(gzip.decompress(one.blob)) == one.diff_id


def test_a_gzip_layer_has_no_time_in_it() -> None:
    assert layer("a").blob[4:8] == bytes(4)


def test_the_same_image_is_the_same_bytes(tmp_path: Path, layout: Path) -> None:
    again = tmp_path / "again"
    writer = oci.Layout(again)
    writer.finish([writer.image(oci.Image([layer("a"), layer("b")], {"Cmd": ["x"]}))])
    for folder in (layout, again):
        oci.pack(folder, folder.with_suffix(".tar"))
    assert layout.with_suffix(".tar").read_bytes() == again.with_suffix(".tar").read_bytes()


def test_linuxkit_gets_a_nested_index_with_name_and_platform(tmp_path: Path) -> None:
    archive.write_archive(tmp_path, "docker.io/gcs/x:v1", tree.to_tar({"f": tree.regular("")}))
    with tarfile.open(tmp_path / "image.tar") as contents:
        contents.extractall(tmp_path / "out")
    (outer,) = _list(read(tmp_path / "out/index.json")["manifests"])
    assert outer["annotations"] == {"io.containerd.image.name": "docker.io/gcs/x:v1"}
    assert outer["mediaType"] == oci.INDEX
    name = str(outer["digest"]).removeprefix("sha256:")
    (inner,) = _list(read(tmp_path / "out/blobs/sha256" / name)["manifests"])
    assert inner["platform"] == {"architecture": "amd64", "os": "linux"}


def test_nothing_but_the_archive_is_left(tmp_path: Path) -> None:
    archive.write_archive(tmp_path, "docker.io/gcs/x:v1", tree.to_tar({}))
    assert [path.name for path in tmp_path.iterdir()] == ["image.tar"]


def _list(value: object) -> list[Json]:
    assert isinstance(value, list)
    return value
