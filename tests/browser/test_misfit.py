"""A click on the object in the gallery names the nearest scan position, its misfit and its patterns."""

import numpy as np
import pytest

from recon_worker.pictures.artifacts import render
from recon_worker.pictures.gallery.page import entries_of, gallery_html
from recon_worker.pictures.history import History
from recon_worker.reconstruction.misfit import misfit_of
from tests.browser.test_pages import _css, _errors, _point_at, _wait, _wait_for_epoch
from tests.samples import fill, layout_of, make_scan, snapshot

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A gallery of one epoch, and the misfit that it shows."""
    scan = make_scan()
    arrays = layout_of(scan).allocate()
    fill(arrays, 1)
    arrays.misfit[:] = np.random.default_rng(2).uniform(0.1, 0.5, (30, 2))
    page = next(one for one in render(scan, snapshot(arrays, 1), History()) if one.path.endswith("gallery.html"))
    path = tmp_path_factory.mktemp("gallery") / "gallery.html"
    path.write_bytes(page.data)
    return path, misfit_of(scan.geometry, 0, arrays.misfit, arrays.stitch_filled)


def test_an_epoch_whose_misfits_are_not_in_the_gallery_names_the_table(gallery, tmp_path, chromium, screenshot):
    (entry,) = entries_of(gallery[0].read_bytes())
    path = tmp_path / "gallery.html"
    path.write_bytes(gallery_html([entry.with_figures(misfit=None)]))
    driver = chromium(1200, 1600)
    driver.get(path.as_uri())
    _wait_for_epoch(driver, 1)
    screenshot(driver, "table")

    _point_at(driver, "misfit", 0.5, 0.5)

    text = driver.find_element(*_css("#misfit")).text
    assert text == "The numbers of the samples are in epoch_01/stitched/misfit.csv."
    assert not _errors(driver)


def _click_on(driver, misfit, sample, shape):
    from selenium.webdriver import ActionChains

    x, y = misfit.positions_px[sample]
    _point_at(driver, "misfit", (x + 0.5) / shape[1], (y + 0.5) / shape[0])
    ActionChains(driver).click().perform()
    return driver.find_element(*_css("#misfit")).text.replace("\u2212", "-")


@pytest.mark.parametrize("width", [1200, 390])
def test_a_click_names_the_sample_and_leads_to_its_patterns(width, gallery, chromium, screenshot):
    path, misfit = gallery
    driver = chromium(width, 1600)
    driver.get(path.as_uri())
    _wait_for_epoch(driver, 1)
    shape = driver.execute_script("return viewOf(shown()).pictures.misfit.full_size")

    worst = misfit.samples[misfit.worst_first()]
    text = _click_on(driver, misfit, worst[0], shape)
    screenshot(driver, str(width))
    assert text.startswith(f"Sample {worst[0]} at x ")
    assert f"R-factor {misfit.r_factor[worst[0]]:.3g}" in text
    assert f"deviance per photon {misfit.deviance_per_photon[worst[0]]:.3g}" in text
    assert text.endswith(" ".join(map(str, worst[:8])))
    assert "Its patterns are not logged." in text

    assert "Show its patterns" in _click_on(driver, misfit, 1, shape)
    driver.find_element("xpath", "//button[text()='Show its patterns']").click()
    _wait(driver, lambda d: d.find_elements(*_css("figure[data-kind=diff_obs_logI]")))
    assert driver.execute_script("return state.view") == "patch_01"
    assert not driver.find_element(*_css("#misfit")).is_displayed()
    assert not _errors(driver)
