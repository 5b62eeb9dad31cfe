"""Reading OCI layouts: what is found in them, and what is refused."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trio

from gcs.host.images import Image, ImageError, open_image
from gcs.host.layers import LayerError, convert
from tests.support.oci import (
    MANIFEST,
    layer_tar,
    member,
    put_blob,
    tar_of,
    write_index,
    write_layout,
)

INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

TARS = [layer_tar([member("a", b"1")]), layer_tar([member("b", b"2")])]
CONFIG = {
    "Env": ["PATH=/bin"],
    "Entrypoint": ["sh"],
    "Cmd": ["-c", "true"],
    "WorkingDir": "/w",
    "User": "1:2",
    "StopSignal": "SIGINT",
    "Labels": {"a": "b"},
    "ExposedPorts": {"80/tcp": {}},
}


def read(path: Path, name: str | None = None) -> Image:
    """Read an image from synchronous code."""
    return trio.run(open_image, path, name)


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change a JSON file in place."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def top(layout: Path) -> dict[str, object]:
    """Return the first descriptor of index.json."""
    index: dict[str, list[dict[str, object]]] = json.loads((layout / "index.json").read_bytes())
    return index["manifests"][0]


def document(layout: Path, descriptor: Mapping[str, object]) -> dict[str, object]:
    """Return the document that a descriptor names."""
    digest = str(descriptor["digest"]).partition(":")[2]
    loaded: dict[str, object] = json.loads((layout / "blobs/sha256" / digest).read_bytes())
    return loaded


def replace_manifest(layout: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Store a changed manifest under its new digest and list it."""
    manifest = document(layout, top(layout))
    change(manifest)
    blob = put_blob(layout, json.dumps(manifest).encode())
    write_index(layout, [{"mediaType": MANIFEST, **blob}])


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout of one image with two layers."""
    return write_layout(tmp_path / "layout", TARS, config=CONFIG)


def test_a_layout_gives_its_image(layout: Path) -> None:
    """Name, digest, configuration and layers, bottom first, are those of the documents."""
    image = read(layout)
    assert image.name == "test"
    assert image.digest == top(layout)["digest"]
    config = image.config
    assert (config.env, config.entrypoint, config.cmd) == (
        ("PATH=/bin",),
        ("sh",),
        ("-c", "true"),
    )
    assert (config.working_dir, config.user, config.stop_signal) == ("/w", "1:2", "SIGINT")
    assert config.labels == {"a": "b"}
    config_document = document(layout, document(layout, top(layout))["config"])  # type: ignore[arg-type]  # a descriptor, which the test itself wrote
    assert config_document["rootfs"] == {
        "type": "layers",
        "diff_ids": [layer.diff_id for layer in image.layers],
    }


def test_an_empty_configuration_is_empty(tmp_path: Path) -> None:
    """Absent and null members of the configuration are empty."""
    layout = write_layout(tmp_path / "l", TARS, config={"Cmd": None, "Labels": None})
    config = read(layout).config
    assert (config.cmd, config.env, config.user, config.labels) == ((), (), "", {})


def test_a_tar_of_a_layout_is_read_in_place(layout: Path, tmp_path: Path) -> None:
    """From a tar the image is the same, and its layers convert to the same files."""
    packed = read(tar_of(layout, tmp_path / "layout.tar"))
    folder = read(layout)
    assert (packed.digest, packed.config) == (folder.digest, folder.config)
    for one, other in zip(packed.layers, folder.layers, strict=True):
        assert one.blob.path == tmp_path / "layout.tar"
        first = trio.run(convert, one, tmp_path / "1")
        second = trio.run(convert, other, tmp_path / "2")
        assert first.read_bytes() == second.read_bytes()


def test_what_skopeo_copies_is_read(layout: Path, tmp_path: Path) -> None:
    """A layout and an archive written by skopeo are the same image as what it copied."""
    for target in (f"oci:{tmp_path}/copy:x", f"oci-archive:{tmp_path}/copy.tar:x"):
        command = ["skopeo", "copy", "-q", "--insecure-policy", f"oci:{layout}:test", target]
        subprocess.run(command, check=True)
    wanted = [layer.diff_id for layer in read(layout).layers]
    assert [layer.diff_id for layer in read(tmp_path / "copy").layers] == wanted
    assert [layer.diff_id for layer in read(tmp_path / "copy.tar").layers] == wanted


def test_docker_media_types_are_read(layout: Path) -> None:
    """Docker's manifest, config and layer types mean the same as the OCI's."""
    manifest = document(layout, top(layout))
    manifest["mediaType"] = DOCKER_MANIFEST
    manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"  # type: ignore[index]  # an object, which the test itself wrote
    for item in manifest["layers"]:  # type: ignore[attr-defined]  # an array, likewise
        item["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    blob = put_blob(layout, json.dumps(manifest).encode())
    write_index(layout, [{"mediaType": DOCKER_MANIFEST, **blob}])
    assert len(read(layout).layers) == 2


def placed(descriptor: Mapping[str, object], machine: str) -> dict[str, object]:
    """Return a descriptor with a platform."""
    return {**descriptor, "platform": {"os": "linux", "architecture": machine}}


@pytest.mark.parametrize("media_type", [INDEX, DOCKER_LIST])
def test_a_nested_index_is_searched_for_the_platform(tmp_path: Path, media_type: str) -> None:
    """Of a multi-platform index the linux/amd64 manifest is taken, wherever it stands."""
    layout = write_layout(tmp_path / "l", TARS[:1], name="arm")
    arm = top(layout)
    amd = top(write_layout(layout, TARS[1:], name="amd"))
    nested = {"manifests": [placed(arm, "arm64"), placed(amd, "amd64")]}
    blob = put_blob(layout, json.dumps(nested).encode())
    write_index(layout, [{"mediaType": media_type, **blob}])
    assert read(layout).digest == amd["digest"]


def test_a_name_chooses_among_images(tmp_path: Path) -> None:
    """With several images in one layout a name is needed, and finds the right one."""
    layout = write_layout(tmp_path / "l", TARS[:1], name="one")
    one = top(layout)
    two = top(write_layout(layout, TARS[1:], name="two"))
    write_index(layout, [one, two])
    assert read(layout, "two").digest == two["digest"]
    with pytest.raises(ImageError, match="several images: 'one', 'two'"):
        read(layout)
    with pytest.raises(ImageError, match="no image named 'three'"):
        read(layout, "three")


def test_another_platform_is_refused(layout: Path) -> None:
    """A layout for another machine only is an error that says so."""
    write_index(layout, [placed(top(layout), "arm64")])
    with pytest.raises(ImageError, match="nothing for linux/amd64"):
        read(layout)


def pipe_for_index(layout: Path) -> None:
    """Put a pipe in the place of index.json."""
    (layout / "index.json").unlink()
    os.mkfifo(layout / "index.json")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no oci-layout": (lambda at: (at / "oci-layout").unlink(), "oci-layout is missing"),
    "no index": (lambda at: (at / "index.json").unlink(), "has no index.json"),
    "index no JSON": (lambda at: (at / "index.json").write_text("{"), "index.json: not JSON"),
    "index a list": (lambda at: (at / "index.json").write_text("[]"), "expected an object"),
    "index too deep": (
        lambda at: (at / "index.json").write_text("[" * 100_000),
        "index.json: not JSON",
    ),
    "index a pipe": (
        pipe_for_index,
        "has no index.json",
    ),
    "index huge": (
        lambda at: os.truncate(at / "index.json", 5 << 20),
        "index.json has 5242880 bytes",
    ),
    "empty index": (lambda at: write_index(at, []), "lists no image"),
    "another version": (
        lambda at: (at / "oci-layout").write_text('{"imageLayoutVersion": "2.0"}'),
        "version '2.0' is not 1",
    ),
    "digest that is a path": (
        lambda at: write_index(at, [{**top(at), "digest": "sha256:../../etc/passwd"}]),
        "neither sha256 nor sha512",
    ),
    "digest of a number": (
        lambda at: write_index(at, [{**top(at), "digest": 7}]),
        "manifests.0.: digest expected a string",
    ),
    "manifest missing": (
        lambda at: write_index(at, [{**top(at), "digest": f"sha256:{'0' * 64}"}]),
        "has no blob sha256:0000",
    ),
    "manifest of another size": (
        lambda at: write_index(at, [{**top(at), "size": 1}]),
        "bytes, not 1",
    ),
    "manifest with a negative size": (
        lambda at: write_index(at, [{**top(at), "size": -1}]),
        "size expected a whole number",
    ),
    "layer without a size": (
        lambda at: replace_manifest(at, lambda m: m["layers"][0].pop("size")),  # type: ignore[index]  # written by the test
        "layers.0.: size is missing",
    ),
    "layer of an unknown type": (
        lambda at: replace_manifest(at, lambda m: m["layers"][0].update(mediaType="x/y")),  # type: ignore[index]  # written by the test
        "'x/y' is no layer's media type",
    ),
    "layer too few": (
        lambda at: replace_manifest(at, lambda m: m["layers"].pop()),  # type: ignore[attr-defined]  # written by the test
        "1 layers but 2 diff ids",
    ),
    "no layers at all": (
        lambda at: replace_manifest(at, lambda m: m.pop("layers")),
        "0 layers but 2 diff ids",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_layout_names_what_is_wrong(
    layout: Path, damage: Callable[[Path], object], reason: str
) -> None:
    """Each fault is an ImageError with the path and the fault in it."""
    damage(layout)
    with pytest.raises(ImageError, match=f"^image {layout}: .*{reason}"):
        read(layout)


def test_a_changed_document_is_an_error(layout: Path) -> None:
    """A manifest whose bytes don't have its digest is not believed."""
    path = layout / "blobs/sha256" / str(top(layout)["digest"]).partition(":")[2]
    path.write_bytes(path.read_bytes().replace(b'"schemaVersion": 2', b'"schemaVersion": 3'))
    with pytest.raises(ImageError, match="content has the digest"):
        read(layout)


def test_indexes_that_nest_too_deep_are_refused(layout: Path) -> None:
    """A chain of indexes ends in an error, not in a search without end."""
    descriptor = top(layout)
    for _ in range(6):
        blob = put_blob(layout, json.dumps({"manifests": [descriptor]}).encode())
        descriptor = {"mediaType": INDEX, **blob}
    write_index(layout, [descriptor])
    with pytest.raises(ImageError, match="over 4 indexes"):
        read(layout)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    """A missing path, a folder, a text, a pipe and a compressed tar each get a sentence."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("hello" * 1000)
    (tmp_path / "short").write_text("hello")
    (tmp_path / "gz").write_bytes(b"\x1f\x8b\x08" + bytes(2000))
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {
        "missing": "No such file",
        "folder": "no OCI image layout",
        "text": "tar: ",
        "short": "neither",
        "gz": "compressed",
        "pipe": "neither a folder nor a file",
    }.items():
        with pytest.raises(ImageError, match=f"^image {tmp_path}/{name}: .*{reason}"):
            read(tmp_path / name)


def test_a_cut_off_tar_is_refused(layout: Path, tmp_path: Path) -> None:
    """A tar of a layout that ends early is an error when it is opened."""
    path = tar_of(layout, tmp_path / "layout.tar")
    os.truncate(path, path.stat().st_size // 2 // 512 * 512)
    with pytest.raises(ImageError, match="tar"):
        read(path)


def test_a_layer_that_changed_since_is_refused(layout: Path, tmp_path: Path) -> None:
    """Layers are located, not read, when an image is opened; a changed one fails then."""
    image = read(layout)
    blob = image.layers[0].blob
    blob.path.write_bytes(bytes(blob.size))
    with pytest.raises(LayerError, match=f"{blob.digest}: "):
        trio.run(convert, image.layers[0], tmp_path / "cache")
