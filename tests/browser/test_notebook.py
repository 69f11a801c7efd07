"""A run as a notebook shows it."""

import pytest

from tests.reading.known_run import KnownRun, new_run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180), pytest.mark.usefixtures("plain_sheets")]


def test_a_notebook_shows_a_run_with_its_thumbnails(chromium, mlflow_database, screenshot, tmp_path):
    known = KnownRun(new_run(mlflow_database, "in a notebook", tmp_path / "artifacts"), "none").log(1, 2)
    page = tmp_path / "run.html"
    page.write_text(f'<meta charset="utf-8"><body style="font-family:sans-serif">{known.open()._repr_html_()}')
    driver = chromium(880, 460)
    driver.get(page.as_uri())
    screenshot(driver, "light")

    widths = driver.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert widths == [33] * 4
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 880
    assert "in a notebook" in driver.page_source
