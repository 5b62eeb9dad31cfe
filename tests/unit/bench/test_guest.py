"""The VM that is measured, as far as it is chosen before it boots."""

from pathlib import Path

import pytest

import gcs
from gcs.host.artifacts import DEFAULT_FORM
from tests.bench import guest


@pytest.mark.parametrize("variable", ["GCS_INITRD", "GCS_ROOT_IMAGE"])
def test_the_environment_does_not_choose_the_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Figures of one form would be compared with the committed ones of the other."""
    build = tmp_path / "build"
    build.mkdir()
    for name in ("kernel", "initrd", "root-image", "other"):
        (build / name).touch()
    monkeypatch.setattr(gcs, "__file__", str(tmp_path / "gcs/__init__.py"))
    for name in ("GCS_KERNEL", "GCS_INITRD", "GCS_ROOT_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(build / "other"))
    for machine, form in [
        (guest.config(), DEFAULT_FORM),
        *((guest.config(form), form) for form in guest.FORMS),
    ]:
        assert (machine.initrd is None, machine.root_image is None) == (
            form == "pmem",
            form == "initrd",
        )
