"""Write what the guest's image is made of, as an SPDX 2.3 document in JSON.

It will not judge licences: what a Debian package's copyright file or a wheel's metadata says
stands there as a comment, in its own words.

Source: https://spdx.github.io/spdx-spec/v2.3/
"""

import email.parser
import json
import re
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from initramfs.recipes import cache, debian, images, initrd, python, tree
from initramfs.recipes.engine import Engine
from initramfs.recipes.steps import Step

#: Of a build that can be repeated, nothing may tell when it was.
CREATED = "1970-01-01T00:00:00Z"
RECIPE = "1"


@dataclass(frozen=True, slots=True)
class Package:
    """What a listed package is."""

    version: str
    #: in the words of whoever made it; empty when nothing was found
    licence: str
    #: of the archive that it came as; empty for what was made here
    sha256: str = ""


File = Mapping[str, str | int]


def make(engine: Engine, *, full: bool = False) -> Path:
    """Return the folder of ``sbom.spdx.json``."""
    archives = [
        images.make(engine, image)
        for part in (initrd.FULL_PARTS if full else initrd.PARTS)
        for image in initrd.image_names((engine.repo / f"initramfs/{part}.yml").read_text())
    ]
    inputs = {path.parent.parent.name: path.parent.name for path in archives}
    project = (engine.repo / "pyproject.toml").read_text()

    def build(step: Step, folder: Path) -> None:
        files: dict[str, File] = {}
        for path in archives:
            # Later images lie over earlier ones, as in the guest.
            files |= json.loads((path.parent / "files.json").read_text())
        used = {str(file["package"]) for file in files.values()}
        packages = {name: _package(engine, step, name) for name in sorted(used)}
        text = json.dumps(document(files, packages, inputs), indent=1)
        (folder / "sbom.spdx.json").write_text(f"{text}\n")

    known = inputs | {"recipe": RECIPE, "project": project, "text": Path(__file__).read_text()}
    return engine.make("sbom-full" if full else "sbom", cache.key_of(known), build)


def document(
    files: Mapping[str, File], packages: Mapping[str, Package], inputs: Mapping[str, str]
) -> dict[str, object]:
    """Return the SPDX document of files that belong to packages.

    Args:
        files: By path: package, size, sha1 and sha256.
        packages: By name, all that the files name.
        inputs: What tells this image from every other one.
    """
    contains = [
        _relation(_id("Package", str(file["package"])), "CONTAINS", _id("File", path))
        for path, file in files.items()
    ]
    describes = [
        _relation("SPDXRef-DOCUMENT", "DESCRIBES", _id("Package", name)) for name in packages
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "gcs-utility-vm",
        "documentNamespace": f"https://spdx.org/spdxdocs/gcs-{cache.key_of(inputs)}",
        "creationInfo": {"created": CREATED, "creators": ["Tool: gcs-initramfs-recipes"]},
        "packages": [_listed(name, one, files) for name, one in packages.items()],
        "files": [_file(path, file) for path, file in files.items()],
        "relationships": [*describes, *contains],
    }


def _listed(name: str, package: Package, files: Mapping[str, File]) -> dict[str, object]:
    sizes = [int(file["size"]) for file in files.values() if file["package"] == name]
    entry: dict[str, object] = {
        "SPDXID": _id("Package", name),
        "name": name.rpartition("/")[2],
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        # Some of the package's files, and as we have made them.
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "Apache-2.0" if name == "gcs" else "NOASSERTION",
        "licenseComments": package.licence or "not told",
        "copyrightText": "NOASSERTION",
        "comment": f"{sum(sizes)} bytes in {len(sizes)} files of the image",
    }
    kind = name.partition("/")[0]
    if kind != name:
        locator = f"pkg:{'deb/debian' if kind == 'debian' else kind}/{entry['name']}"
        reference = {
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": f"{locator}@{package.version}",
        }
        entry["externalRefs"] = [reference]
    if package.sha256:
        entry["checksums"] = [{"algorithm": "SHA256", "checksumValue": package.sha256}]
    return entry


def _file(path: str, file: File) -> dict[str, object]:
    return {
        "SPDXID": _id("File", path),
        "fileName": f"./{path}",
        "checksums": [
            {"algorithm": kind.upper(), "checksumValue": file[kind]}
            for kind in ("sha1", "sha256")
        ],
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "comment": f"{file['size']} bytes",
    }


def _id(kind: str, name: str) -> str:
    # Letters, digits, '.' and '-' only, so what is replaced is told apart by a hash.
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-")
    return f"SPDXRef-{kind}-{plain}-{cache.key_of({'name': name})[:8]}"


def _relation(one: str, how: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": how, "relatedSpdxElement": other}


# -- what packages say of themselves -----------------------------------------------------------


def _package(engine: Engine, step: Step, name: str) -> Package:
    kind, _, short = name.partition("/")
    if kind == "debian":
        return _debian(engine, step, short)
    if kind == "pypi":
        return _wheel(python.wheels(engine), short)
    project = tomllib.loads((engine.repo / "pyproject.toml").read_text())["project"]
    return Package(str(project["version"]), "Apache-2.0")


def _debian(engine: Engine, step: Step, name: str) -> Package:
    pool = debian.Pool(engine)
    (package,) = pool.resolve((name,))
    with tempfile.TemporaryDirectory() as scratch:
        files = tree.from_deb(step, pool.path(package), Path(scratch))
    elsewhere = files.get(f"usr/share/doc/{name}")
    if elsewhere and elsewhere.kind == tarfile.SYMTYPE:
        return Package(package.version, f"that of {elsewhere.target}", package.sha256)
    entry = files[f"usr/share/doc/{name}/copyright"]
    text = entry.data.decode(errors="replace")
    return Package(package.version, licences(text), package.sha256)


def licences(text: str) -> str:
    """Return the short names of the licences that a Debian copyright file lists.

    An old one has no such list, but names those that every Debian system has.
    """
    is_list = text.startswith("Format")
    form = r"^License: *(\S.*?) *$" if is_list else r"common-licenses/([\w.-]*\w)"
    found = set(re.findall(form, text, re.MULTILINE))
    if "\nPython License\n" in text:
        found.add("Python License")
    return ", ".join(sorted(found))


def _wheel(wheels: Path, name: str) -> Package:
    (wheel,) = wheels.glob(f"{name}-*.whl")
    with zipfile.ZipFile(wheel) as contents:
        (path,) = (p for p in contents.namelist() if p.endswith(".dist-info/METADATA"))
        metadata = email.parser.BytesParser().parsebytes(contents.read(path))
    said = metadata["License-Expression"] or ", ".join(
        _classified(metadata.get_all("Classifier"))
    )
    licence = said or (metadata["License"] or "").partition("\n")[0]
    return Package(metadata["Version"], licence, cache.file_digest(wheel))


def _classified(classifiers: Iterable[str] | None) -> list[str]:
    return [
        each.rpartition(" :: ")[2]
        for each in classifiers or ()
        if each.startswith("License :: ")
    ]
