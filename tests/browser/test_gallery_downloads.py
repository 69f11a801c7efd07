"""Arrays downloaded from the gallery."""

import numpy as np
import pytest

from tests.browser.gallery_page import wait

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture
def page(gallery, tmp_path):
    one = gallery()
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path / "downloads")}
    one.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    return one


def download(page, name):
    """Press the button of that name; returns the array of the file."""
    page.one("#arrays summary").click()
    next(one for one in page.all("#arrays button") if one.text == name).click()
    file = page.file.parent / "downloads" / name
    wait(page.driver, lambda _: file.is_file())
    return np.load(file)


def test_a_downloaded_array_holds_the_values_of_the_picture(page, screenshot):
    array = download(page.open(), "epoch_05_stitched_phase_pred.npy")
    screenshot(page.driver, "light")

    assert array.dtype == np.dtype("<f4")
    np.testing.assert_allclose(array, page.values("phase_pred", 5), atol=1e-6)
    assert np.isnan(array).any()
    assert page.errors() == []


@pytest.mark.parametrize(
    ("name", "pair"),
    [("epoch_01_stitched_amp_pred.npy", (1, None)), ("epoch_05_minus_epoch_01_stitched_amp.npy", (5, 1))],
)
def test_a_comparison_offers_the_other_epoch_and_the_difference(name, pair, page):
    array = download(page.open("#with=1").wait_for(other=1), name)
    expected, subtracted = (0 if epoch is None else page.values("amp_pred", epoch) for epoch in pair)

    np.testing.assert_allclose(array, expected - subtracted, atol=1e-6)


def test_contrast_does_not_change_a_download(page):
    page.open("#view=patch_00&epoch=2", epoch=2).press("l")
    slide = "low.value = 100; low.dispatchEvent(new Event('input'))"
    page.driver.execute_script(slide)
    array = download(page, "epoch_02_patch_00_amp_pred.npy")

    assert page.driver.execute_script("return state.contrast.has('amp')")
    np.testing.assert_allclose(array, page.values("amp_pred", 2, 1), atol=1e-6)
