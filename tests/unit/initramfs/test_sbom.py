import re
from pathlib import Path

import pytest

from initramfs.recipes import archive, sbom, tree

DIGEST = {"sha1": "0" * 40, "sha256": "1" * 64}
FILES: dict[str, sbom.File] = {
    "bin/a": {"package": "debian/one", "size": 3, **DIGEST},
    "bin/_a": {"package": "debian/one", "size": 4, **DIGEST},
    "lib/b.pyc": {"package": "pypi/two", "size": 5, **DIGEST},
    "init": {"package": "gcs", "size": 6, **DIGEST},
}
PACKAGES = {
    "debian/one": sbom.Package("1.0-1", "MIT", "2" * 64),
    "pypi/two": sbom.Package("2.0", "", "3" * 64),
    "gcs": sbom.Package("0.1", "Apache-2.0"),
}


@pytest.fixture
def document() -> dict[str, list[dict[str, str]]]:
    made = sbom.document(FILES, PACKAGES, {"image": "key"})
    return {name: value for name, value in made.items() if isinstance(value, list)}


def test_every_file_is_in_one_package_that_is_listed(
    document: dict[str, list[dict[str, str]]],
) -> None:
    packages = {each["SPDXID"]: each["name"] for each in document["packages"]}
    files = {each["SPDXID"]: each["fileName"] for each in document["files"]}
    contained = [
        (packages[each["spdxElementId"]], files[each["relatedSpdxElement"]])
        for each in document["relationships"]
        if each["relationshipType"] == "CONTAINS"
    ]
    assert sorted(contained) == [
        ("gcs", "./init"),
        ("one", "./bin/_a"),
        ("one", "./bin/a"),
        ("two", "./lib/b.pyc"),
    ]


def test_ids_are_unique_and_of_the_letters_that_spdx_allows(
    document: dict[str, list[dict[str, str]]],
) -> None:
    ids = [each["SPDXID"] for name in ("packages", "files") for each in document[name]]
    assert len(ids) == len(set(ids)) == len(FILES) + len(PACKAGES)
    assert [each for each in ids if not re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", each)] == []


def test_a_package_tells_version_licence_and_size(
    document: dict[str, list[dict[str, str]]],
) -> None:
    one = document["packages"][0]
    assert (one["versionInfo"], one["licenseComments"]) == ("1.0-1", "MIT")
    assert one["comment"] == "7 bytes in 2 files of the image"
    assert "pkg:deb/debian/one@1.0-1" in str(one["externalRefs"])


def test_the_same_image_has_the_same_document() -> None:
    one, same = (sbom.document(FILES, PACKAGES, {"image": "key"}) for _ in range(2))
    assert one == same
    other = sbom.document(FILES, PACKAGES, {"image": "other"})
    assert one["documentNamespace"] != other["documentNamespace"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Format: x\nLicense: MIT\n text\nLicense: GPL-2+\nLicense: MIT\n", "GPL-2+, MIT"),
        ("It is in `/usr/share/common-licenses/LGPL-2.1'.\n", "LGPL-2.1"),
        ("License:\n\nPython License\n", "Python License"),
        ("nothing", ""),
    ],
)
def test_licences_are_read_from_copyright_files_of_both_kinds(text: str, names: str) -> None:
    assert sbom.licences(text) == names


def test_what_was_made_here_is_ours_and_links_are_no_files() -> None:
    listed = archive.listed(
        {
            "a": tree.regular(b"x"),
            "b": tree.symlink("a"),
            "c": tree.Entry(b"0", 0o644, b"yz", package="debian/one"),
        }
    )
    assert {path: (each["package"], each["size"]) for path, each in listed.items()} == {
        "a": ("gcs", 1),
        "c": ("debian/one", 2),
    }


def test_the_recipes_that_decide_an_image_are_part_of_its_key() -> None:
    """A cache that did not know of one would go on with what it has made before."""
    folder = Path(archive.__file__).parent
    assert all((folder / name).is_file() for name in archive.RECIPES)
    imports = re.findall(
        r"^from initramfs.recipes import (.*)$", (folder / "python.py").read_text(), re.M
    )
    assert set(imports[0].split(", ")) - {"cache", "debian", "venv"} <= {
        name.removesuffix(".py") for name in archive.RECIPES
    }
