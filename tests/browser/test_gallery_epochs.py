"""The gallery compares epochs, and a link opens what it shows."""

import numpy as np
import pytest

from tests.browser.gallery_page import wait

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


def number(text):
    return float(text.replace("\u2212", "-").strip("\u2264\u2265 rad"))


def test_two_epochs_stand_side_by_side_with_their_difference(gallery, screenshot):
    page = gallery().open().select("#other", 1).wait_for(other=1)
    page.point_at("amp_pred", 30, 20)
    screenshot(page.driver, "light")

    titles = {role: page.title(f"amp_{role}") for role in ("pred", "other", "change")}
    assert titles == {"pred": "Amplitude, epoch 5", "other": "Amplitude, epoch 1", "change": "Amplitude difference"}
    assert page.kinds() == [f"{group}_{role}" for group in ("amp", "phase") for role in titles]
    assert number(page.value("amp_other")) == pytest.approx(page.values("amp_pred", 1)[20, 30], abs=0.006)
    difference = (page.values("amp_pred", 5) - page.values("amp_pred", 1))[20, 30]
    assert number(page.value("amp_change")) == pytest.approx(difference, abs=5e-4)
    assert page.errors() == []


def test_the_difference_is_that_of_the_values_and_phases_wrap(gallery):
    page = gallery().open("#view=patch_00&epoch=5&with=0").wait_for(other=0)
    shown = {}
    for group in ("amp", "phase"):
        script = f'return [...state.panels.get("{group}_change").panel.picture.values]'
        shown[group] = np.array(page.driver.execute_script(script), float).reshape(16, 16)
    amp, phase = (page.values(f"{group}_pred", 5, 1) - page.values(f"{group}_pred", 0, 1) for group in shown)

    np.testing.assert_allclose(shown["amp"], amp, atol=1e-6)
    np.testing.assert_allclose(np.exp(1j * shown["phase"]), np.exp(1j * phase), atol=1e-5)
    assert np.abs(shown["phase"]).max() <= np.pi + 1e-6


def test_a_difference_of_values_beyond_the_colours_is_a_bound_or_unknown(gallery):
    script = """const facts = {width: 5, height: 1, vmin: 1, vmax: 3.51, unit: "1"};
        const row = (...indices) => ({...facts, indices: Uint8Array.from(indices)});
        const {values, bounds, indices} = difference(row(251, 251, 100, 100, 255), row(251, 100, 251, 99, 100));
        return [[...values].map(String), [...bounds], indices[0], indices[4]]"""
    values, bounds, unknown, not_scanned = gallery().open().driver.execute_script(script)

    np.testing.assert_allclose(np.array(values, float), [np.nan, 1.51, -1.51, 0.01, np.nan], atol=1e-6)
    assert bounds[1:4] == [1, -1, 0]
    assert unknown == not_scanned == 255


def test_without_a_truth_the_page_says_that_epochs_are_not_aligned(gallery, screenshot):
    page = gallery(truth=False).open()
    alone = page.kinds()
    page.select("#other", 1).wait_for(other=1)
    screenshot(page.driver, "light")

    assert alone == ["amp_pred", "phase_pred"]
    assert page.kinds() == [f"{group}_{role}" for group in ("amp", "phase") for role in ("pred", "other", "change")]
    assert "Without a truth, epochs are not aligned" in page.one("#notes").text


def test_the_slider_changes_one_epoch_of_the_comparison_only(gallery):
    page = gallery().open("#with=1").wait_for(other=1).press("\ue012").wait_for(epoch=2, other=1)

    assert [page.title(f"phase_{role}") for role in ("pred", "other")] == ["Phase, epoch 2", "Phase, epoch 1"]
    assert "epoch 2 minus epoch 1" in page.one("#notes").text
    page.select("#other", "").wait_for(other="")
    assert page.kinds()[:3] == ["amp_pred", "amp_gt", "amp_error"]
    assert page.title("amp_pred") == "Amplitude, predicted"


def test_a_comparison_keeps_zoom_and_place(gallery):
    page = gallery().open().press("+++")
    place = "const {zoom, centre} = state.spaces[0]; return [zoom, centre.x]"
    before = page.driver.execute_script(place)
    page.select("#other", 1).wait_for(other=1)

    assert before[0] > 1
    assert page.driver.execute_script(place) == before


def test_the_view_chosen_last_is_shown_though_others_are_still_loading(gallery):
    page = gallery().open()
    page.driver.execute_script('chooseView("patch_00"); compareWith(1); chooseView("stitched"); compareWith(null)')
    page.wait_for(other="")
    wait(page.driver, lambda one: one.execute_script('return state.panels.get("amp_gt").panel.picture?.width') == 64)

    assert page.kinds()[:3] == ["amp_pred", "amp_gt", "amp_error"]
    assert page.errors() == []


def test_the_link_opens_the_same_view(gallery):
    page = gallery().open().select("#view", "patch_00").select("#other", 2).wait_for(other=2)
    page.press("\ue011").wait_for(epoch=0)
    link = page.one("#link a").get_attribute("href")
    wait(page.driver, lambda one: one.current_url == link)
    page.driver.get("about:blank")
    page.open(f"#{link.partition('#')[2]}", epoch=0)

    assert link.endswith("gallery.html#view=patch_00&epoch=0&with=2")
    assert page.one("#view").get_attribute("value") == "patch_00"
    assert page.title("diff_other") == "Diffraction, epoch 2"
    assert page.one("#message").text == ""


def test_a_link_to_what_is_not_there_says_so_and_shows_the_nearest(gallery, screenshot):
    page = gallery().open("#view=patch_99&epoch=4&with=3")
    screenshot(page.driver, "message")

    assert page.one("#message").text == "Not in this gallery: patch_99, epoch 4, epoch 3."
    assert page.kinds()[:3] == ["amp_pred", "amp_gt", "amp_error"]


def test_an_address_changed_by_hand_is_followed(gallery):
    page = gallery().open()
    page.driver.execute_script('location.hash = "#view=stitched&epoch=1&with=5"')
    page.wait_for(epoch=1, other=5)

    assert page.one("#other").get_attribute("value") == "5"


def test_the_preview_compares_epochs_and_says_how_to_make_a_link(gallery, screenshot):
    page = gallery().open_sandboxed().select("#other", 1).wait_for(other=1)
    screenshot(page.driver, "light")

    assert page.title("amp_change") == "Amplitude difference"
    assert page.one("#link").text.startswith("This preview has neither links nor downloads.")
    assert page.one("#link code").text == "gallery.html#view=stitched&epoch=5&with=1"
    assert not page.one("#arrays").is_displayed()
    assert page.errors() == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_comparison_fits_a_phone(dark, gallery, screenshot):
    page = gallery(390, 844, dark=dark).open("#with=1").wait_for(other=1)
    screenshot(page.driver, "dark" if dark else "light")

    assert page.driver.execute_script("return document.documentElement.scrollWidth") == 390
