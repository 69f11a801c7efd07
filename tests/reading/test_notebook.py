"""A run in a notebook."""

import re

import pytest

from tests.reading.known_run import new_run

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


def test_a_run_shows_its_state_and_thumbnails_inline(run_of):
    shown = run_of("none").open()._repr_html_()

    assert shown.count('src="data:image/png;base64,') == 4
    assert "33 × 35 px, pixel 5 nm" in shown
    assert re.search("epoch 3.*step 30 · phase correlation −?0", shown)
    assert len(shown) < 100_000


def test_names_from_the_server_are_escaped(mlflow_database, tmp_path):
    from recon_worker import open_run

    target = new_run(mlflow_database, "<script>alert(1)</script>", tmp_path)
    shown = open_run(target.run_id, target.tracking_uri)._repr_html_()

    assert "<script" not in shown
    assert "&lt;script&gt;" in shown


def test_many_epochs_are_listed_in_short():
    from recon_worker.reading.notebook import run_html

    assert "1, 2, 3, …, 98, 99, 100 (100 in total)" in run_html("a", "b", "FINISHED", range(1, 101), [])
