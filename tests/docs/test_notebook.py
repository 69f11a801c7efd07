"""The tutorial notebook runs from top to bottom, and its outputs in the repository are those of a run."""

import runpy

import nbformat
import pytest

from tests.leaks import nothing_left
from tests.paths import REPOSITORY

NOTEBOOK = nbformat.read(REPOSITORY / "docs" / "tutorial.ipynb", as_version=4)


def outputs(notebook, kind):
    return [one for cell in notebook.cells for one in cell.get("outputs", []) if one.output_type == kind]


def shown(notebook):
    """The kinds of data that the cells display."""
    return [sorted(one.data) for one in outputs(notebook, "display_data") + outputs(notebook, "execute_result")]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_notebook_runs_from_simulation_to_read_back(monkeypatch):
    execute = runpy.run_path(str(REPOSITORY / "scripts" / "docs" / "notebook.py"))["executed"]

    with nothing_left(monkeypatch):
        again = execute(nbformat.from_dict(NOTEBOOK))

    printed = "".join(one.text for one in outputs(again, "stream"))
    assert "5 submitted = 5 logged + 0 dropped" in printed
    assert shown(again) == shown(NOTEBOOK)


def test_the_outputs_are_complete_and_name_no_folder_of_a_machine():
    assert sum("image/png" in one for one in shown(NOTEBOOK)) == 4
    assert all(cell.outputs or cell.execution_count for cell in NOTEBOOK.cells if cell.cell_type == "code")
    text = nbformat.writes(NOTEBOOK).replace("/home/me", "")
    assert not [folder for folder in ("/tmp/", "/home/", "/root/", "/work/") if folder in text]
