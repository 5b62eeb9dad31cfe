"""Reading what `docker save` and its like write: what is found there, and what is refused."""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import trio

from gcs.host.images import Image, ImageError, open_image
from gcs.host.layers import LayerError, convert
from tests.support.oci import layer_tar, member, write_layout

TARS = [layer_tar([member("a", b"1")]), layer_tar([member("b", b"2")])]
CONFIG = {"Cmd": ["true"], "User": "7"}


def read(path: Path, name: str | None = None) -> Image:
    return trio.run(open_image, path, name)


def config_of(tars: Sequence[bytes], machine: str = "amd64") -> bytes:
    diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    document = {
        "os": "linux",
        "architecture": machine,
        "config": CONFIG,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    return json.dumps(document).encode()


def files_of(
    tars: Sequence[bytes], names: Sequence[str], machine: str = "amd64"
) -> dict[str, bytes]:
    """Return the files of an archive as docker writes it, but for links."""
    config = config_of(tars, machine)
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    layers = [f"{hashlib.sha256(tar).hexdigest()[:12]}/layer.tar" for tar in tars]
    entry = {"Config": config_name, "RepoTags": names, "Layers": layers}
    files = {config_name: config, **dict(zip(layers, tars, strict=True))}
    return {**files, "manifest.json": json.dumps([entry]).encode()}


def write(path: Path, files: Mapping[str, bytes], links: Mapping[str, str] = {}) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def converted(image: Image, folder: Path) -> list[Path]:
    """Convert all layers: their contents are what the configuration says, or this fails."""
    return [trio.run(convert, layer, folder / "cache") for layer in image.layers]


def test_an_archive_gives_its_image(tmp_path: Path) -> None:
    """Configuration, name, id and layers, bottom first, as docker has them."""
    path = write(tmp_path / "a.tar", files_of(TARS, ["nyan:1", "nyan:latest"]))
    image = read(path)
    assert (image.name, image.config.cmd, image.config.user) == ("nyan:1", ("true",), "7")
    assert image.config_digest == f"sha256:{hashlib.sha256(config_of(TARS)).hexdigest()}"
    assert image.document == config_of(TARS)
    digests = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in TARS]
    assert [layer.diff_id for layer in image.layers] == digests
    assert len(converted(image, tmp_path)) == 2


def test_an_unpacked_archive_is_an_image_too(tmp_path: Path) -> None:
    """A folder of the same files."""
    for name, content in files_of(TARS, []).items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert len(converted(read(tmp_path / "folder"), tmp_path)) == 2


def test_what_skopeo_copies_is_read(tmp_path: Path) -> None:
    """A docker archive by skopeo, whose layers are links to others, is the same image."""
    layout = write_layout(tmp_path / "layout", [*TARS, TARS[0]], config=CONFIG)
    archive = tmp_path / "a.tar"
    subprocess.run(
        ["skopeo", "copy", "-q", f"oci:{layout}", f"docker-archive:{archive}:nyan:2"],
        check=True,
        timeout=25,
    )
    image, original = read(archive), read(layout)
    assert image.name == "docker.io/library/nyan:2"
    assert [a.diff_id for a in image.layers] == [b.diff_id for b in original.layers]
    assert converted(image, tmp_path) == converted(original, tmp_path)


def test_links_to_layers_are_followed(tmp_path: Path) -> None:
    """Older dockers write a layer that two images have once, and links to it."""
    files = files_of(TARS, [])
    first, second = json.loads(files["manifest.json"])[0]["Layers"]
    links = {first: "../moved/layer.tar", "moved/layer.tar": "there.tar"}
    files["moved/there.tar"] = files.pop(first)
    image = read(write(tmp_path / "a.tar", files, links))
    assert len(converted(image, tmp_path)) == 2
    loop = write(tmp_path / "loop.tar", files, {first: second, "moved/layer.tar": first})
    with pytest.raises(ImageError, match=f"has no {first}"):
        read(loop)


def test_compressed_layers_are_read(tmp_path: Path) -> None:
    """Some builders compress them, and the archive does not say so."""
    files = files_of(TARS, [])
    for name in json.loads(files["manifest.json"])[0]["Layers"]:
        files[name] = gzip.compress(files[name])
    image = read(write(tmp_path / "a.tar", files))
    assert image.layers[0].digest != image.layers[0].diff_id
    assert len(converted(image, tmp_path)) == 2


def test_a_name_chooses_among_images(tmp_path: Path) -> None:
    """With several images a name is needed; several names of one image are one image."""
    one, two = files_of(TARS[:1], ["one:1", "uno:1"]), files_of(TARS[1:], ["two:2"])
    entries = [json.loads(each.pop("manifest.json"))[0] for each in (one, two)]
    path = write(
        tmp_path / "a.tar", {**one, **two, "manifest.json": json.dumps(entries).encode()}
    )
    assert read(path, "uno:1").layers[0].diff_id.endswith(hashlib.sha256(TARS[0]).hexdigest())
    with pytest.raises(ImageError, match="several images: 'one:1', 'two:2'"):
        read(path)
    with pytest.raises(ImageError, match="no image named 'three'"):
        read(path, "three")


def change_entry(**members: object) -> Callable[[dict[str, bytes]], None]:
    """Return what replaces members of the one entry of manifest.json."""

    def change(files: dict[str, bytes]) -> None:
        entry = json.loads(files["manifest.json"])[0]
        files["manifest.json"] = json.dumps([{**entry, **members}]).encode()

    return change


def change_config(files: dict[str, bytes]) -> None:
    """Alter the configuration under its old name."""
    name = json.loads(files["manifest.json"])[0]["Config"]
    files[name] = files[name].replace(b"true", b"evil")


BROKEN: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "no images": (lambda at: at.update({"manifest.json": b"[]"}), "lists no image"),
    "no list": (lambda at: at.update({"manifest.json": b"{}"}), "expected an array"),
    "no JSON": (lambda at: at.update({"manifest.json": b"["}), "manifest.json: not JSON"),
    "a changed configuration": (change_config, "its content has another digest"),
    "a configuration without a digest": (
        change_entry(Config="config.json"),
        "Config has no digest in its name",
    ),
    "no configuration": (change_entry(Config=f"{'0' * 64}.json"), "has no 0000"),
    "a layer too few": (change_entry(Layers=["x"]), "1 layers but 2 diff ids"),
    "no such layer": (change_entry(Layers=["x", "y"]), "has no x"),
    "a layer outside": (change_entry(Layers=["../x", "y"]), "'../x' leads out of the archive"),
    "an absolute layer": (change_entry(Layers=["/x", "y"]), "'/x' leads out of the archive"),
}


@pytest.mark.parametrize(("damage", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_archive_names_what_is_wrong(
    tmp_path: Path, damage: Callable[[dict[str, bytes]], object], reason: str
) -> None:
    """Each fault is an ImageError with the path and the fault in it."""
    files = files_of(TARS, [])
    damage(files)
    path = write(tmp_path / "a.tar", files)
    with pytest.raises(ImageError, match=f"^image {path}: .*{reason}"):
        read(path)


def test_another_machine_is_refused(tmp_path: Path) -> None:
    """An archive for another machine says which."""
    path = write(tmp_path / "a.tar", files_of(TARS, [], "arm64"))
    with pytest.raises(ImageError, match="is for linux/arm64, not for linux/amd64"):
        read(path)


def test_a_layer_that_is_another_is_refused(tmp_path: Path) -> None:
    """What a layer has to be stands in the configuration, whatever its name is."""
    files = files_of(TARS, [])
    name = json.loads(files["manifest.json"])[0]["Layers"][0]
    files[name] = TARS[1]
    with pytest.raises(LayerError, match="digest"):
        converted(read(write(tmp_path / "a.tar", files)), tmp_path)
