"""Generated pages of the site are up to date: flags, Python API, drawings."""

import re
import runpy

import pytest

import recon_worker
import recon_worker.lightning
from tests.paths import REPOSITORY

DOCS = REPOSITORY / "docs"


def script(name):
    return runpy.run_path(str(REPOSITORY / "scripts" / "docs" / f"{name}.py"))


def test_the_page_of_flags_is_that_of_the_settings():
    assert (DOCS / "reference/flags.md").read_text() == script("flags")["page"](), "run scripts/docs/flags.py"


def test_every_public_name_is_in_the_python_api():
    documented = set(re.findall(r"^::: (\S+)", (DOCS / "reference/python.md").read_text(), flags=re.MULTILINE))
    modules = (recon_worker, recon_worker.lightning)
    public = {f"{module.__name__}.{name}" for module in modules for name in module.__all__}

    assert public <= documented


def test_every_drawing_is_rendered_from_its_present_text():
    drawings = script("drawings")
    found = [one for page in DOCS.rglob("*.md") for one in drawings["drawings_of"](page.read_text())]

    assert [one.title for one in found for theme in ("light", "dark") if not one.is_current(theme)] == []
    expected = {DOCS / one.file(theme) for one in found for theme in ("light", "dark")}
    assert set((DOCS / drawings["FOLDER"]).iterdir()) == expected


@pytest.mark.parametrize("text", ["flowchart TB\n    accTitle: How logging works\n", "flowchart TB\n"])
def test_a_drawing_whose_text_has_changed_is_found(text):
    assert not script("drawings")["Drawing"](text).is_current("light")
