"""`gcsctl images` and `gcsctl run NAME`, as a user has them, around stand-ins for a VM."""

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from gcs.host.cli import main
from tests.support.cache_worker import NAME
from tests.support.oci import layer_tar, member, write_layout
from tests.support.stage import Stage
from tests.unit.host.test_verbs import stage

__all__ = ["stage"]

#: Each starts several programs, one after the other.
pytestmark = pytest.mark.timeout(180)


def said(stage: Stage, *words: str, status: int = 0) -> str:
    """Run a verb and return what it says, on stdout or, when it fails, on both."""
    done = stage.run(*words)
    assert done.returncode == status, done.stderr
    return (done.stdout + (done.stderr if status else b"")).decode()


def layers_of(stage: Stage) -> list[Path]:
    return sorted(Path(stage.environment["XDG_CACHE_HOME"]).glob("gcs/layers/*.ext4"))


def other_image(stage: Stage, name: str) -> Path:
    """Return an image with the stage's layer and one of its own."""
    passwd = b"root:x:0:0::/:/bin/sh\nneko:x:77:88::/:/bin/sh\n"
    tars = [layer_tar([member("etc/passwd", passwd)]), layer_tar([member("own", b"1")])]
    return write_layout(stage.image.parent / "other", tars, name=name)


def test_an_imported_image_is_run_by_its_name_without_its_source(stage: Stage) -> None:
    """It is called as its folder; ps has the name, and nothing is converted again."""
    assert said(stage, "images", "import", str(stage.image)) == "image\n"
    assert len(layers_of(stage)) == 1
    stage.image.rename(stage.image.with_name("moved"))
    done = stage.run("run", "--verbose", "image", "echo", "from the cache")
    assert (done.returncode, done.stdout) == (0, b"from the cache\n")
    assert re.search(rb"layer 1 of 1 [0-9a-f]{12}: in the cache", done.stderr)
    assert said(stage, "run", "-d", "--name", "nyan", "image", "sleep", "300")
    assert " image " in said(stage, "ps")


def test_ls_counts_a_shared_layer_once(stage: Stage) -> None:
    """In a table, as JSON and as names; only the table has a total."""
    header, total = said(stage, "images", "ls").splitlines()
    assert header.split() == ["NAME", "IMAGE", "ID", "LAYERS", "SIZE", "IMPORTED"]
    assert total.split() == ["total", "0", "0", "B"]
    said(stage, "images", "import", str(stage.image))
    said(stage, "images", "import", "--name", "zwei:2", str(other_image(stage, "x")))
    assert said(stage, "images", "ls", "-q") == "image\nzwei:2\n"
    one, two = map(json.loads, said(stage, "images", "ls", "--json").splitlines())
    assert (one["Name"], two["Name"], two["Source"]) == (
        *("image", "zwei:2"),
        str(stage.image.parent / "other"),
    )
    assert two["Layers"][0] == one["Layers"][0]
    assert two["Size"] == sum(layer["Size"] for layer in two["Layers"])
    assert {path.stat().st_size for path in layers_of(stage)} == {
        layer["Size"] for layer in two["Layers"]
    }
    rows = said(stage, "images", "ls").splitlines()
    short = one["ImageId"].removeprefix("sha256:")[:12]
    assert re.match(rf"image +{short} +1 +[0-9.]+ MB +.* ago", rows[1])
    # Each layer is two MiB.
    assert re.match(r"total +2 +4\.2 MB", rows[3])


def test_an_image_is_called_as_it_calls_itself(stage: Stage) -> None:
    """Unless that is but a tag, as layouts have it, or another name is given."""
    other = str(other_image(stage, "docker.io/library/nyan:1"))
    assert said(stage, "images", "import", other) == "docker.io/library/nyan:1\n"
    assert said(stage, "images", "import", "--name", "mine", other) == "mine\n"
    assert stage.run("run", "docker.io/library/nyan:1", "true").returncode == 0
    sentence = "gcsctl: image "
    assert sentence in said(stage, "images", "import", "--choose", "x", other, status=1)


def test_a_layer_in_use_can_not_be_removed(stage: Stage) -> None:
    """Neither rm nor prune harms a running container; when it has ended, prune takes all."""
    said(stage, "images", "import", str(stage.image))
    said(stage, "run", "-d", "--name", "nyan", "image", "sleep", "300")
    assert said(stage, "images", "rm", "image") == "image\n"
    assert said(stage, "images", "prune") == "0 files, 0 B\n"
    (layer,) = layers_of(stage)
    assert said(stage, "exec", "-u", "neko", "nyan", "echo", "meow") == "meow\n"
    said(stage, "rm", "-f", "nyan")
    assert said(stage, "images", "prune").startswith(f"{layer.name}\n1 files, ")
    assert layers_of(stage) == []


def test_a_path_that_is_run_leaves_its_layers_for_the_next_run(stage: Stage) -> None:
    """Until prune: no image has them."""
    assert stage.run("run", str(stage.image), "true").returncode == 0
    done = stage.run("run", "--verbose", str(stage.image), "true")
    assert re.search(rb"layer 1 of 1 [0-9a-f]{12}: in the cache", done.stderr)
    assert "\n1 files, " in said(stage, "images", "prune")


def test_check_fails_when_something_is_damaged(stage: Stage) -> None:
    """Each damage is a sentence on stderr, and what was looked at is said in any case."""
    said(stage, "images", "import", str(stage.image))
    assert said(stage, "images", "check") == "1 images, 1 layers, 0 packs\n"
    (layer,) = layers_of(stage)
    layer.chmod(0o644)
    with layer.open("r+b") as file:
        file.seek(5000)
        file.write(b"x")
    looked_at, sentence = said(stage, "images", "check", status=1).splitlines()
    assert looked_at == "1 images, 1 layers, 0 packs"
    assert sentence.startswith(f"gcsctl: {layer} (of image): has the sha256 ")
    record = layer.parent / "images" / "image.json"
    record.write_text("{}")
    assert "image image: its record" in said(stage, "images", "ls", status=1)
    assert "image image: its record" in said(stage, "run", "image", "true", status=125)


def test_rm_goes_on_after_what_is_not_there(stage: Stage) -> None:
    """The others are removed, and the status tells."""
    said(stage, "images", "import", str(stage.image))
    words = said(stage, "images", "rm", "nobody", "image", status=1)
    assert words == "image\ngcsctl: image nobody: not imported\n"
    assert said(stage, "images", "ls", "-q") == ""


ACTIONS = ("import", "rm", "prune", "prune")


def loop(ending: ExitStack, cache: Path, image: Path, action: str) -> "subprocess.Popen[bytes]":
    """Start a process that does something again and again, and wait until it has done it."""
    words = [sys.executable, "-m", "tests.support.cache_worker", "loop", str(cache)]
    process = subprocess.Popen([*words, str(image), action], stdout=subprocess.PIPE)
    ending.enter_context(process)
    ending.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{action}\n".encode()
    return process


def test_runs_beside_imports_removals_and_prunes_find_their_layers(stage: Stage) -> None:
    """By path always; by name unless the image is gone at that moment, which is said."""
    cache = Path(stage.environment["XDG_CACHE_HOME"]) / "gcs" / "layers"
    with ExitStack() as ending:
        workers = [loop(ending, cache, stage.image, each) for each in ACTIONS]
        for image in (str(stage.image), NAME, NAME, str(stage.image)):
            done = stage.run("run", image, "echo", "whole")
            if image == NAME and done.returncode == 125:
                assert re.search(b"no imported image|nyan: not imported", done.stderr)
            else:
                assert (done.returncode, done.stdout, done.stderr) == (0, b"whole\n", b"")
        assert [worker.poll() for worker in workers] == [None] * len(workers)
    said(stage, "images", "prune")
    assert said(stage, "images", "check").endswith(" 0 packs\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("images",), "ACTION"),
        (("images", "import", "--name", "../x", "y"), "image name '../x': expected"),
        (("images", "rm", "-x"), "IMAGE"),
        (("images", "ls", "-q", "--json"), "not allowed with"),
    ],
)
def test_bad_words_are_refused_with_a_reason(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is done for a command line that can't be meant."""
    with pytest.raises(SystemExit):
        main(words)
    assert sentence in capsys.readouterr().err
