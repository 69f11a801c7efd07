"""Histogram, contrast and line profile of the gallery."""

import numpy as np
import pytest

from tests.browser.gallery_page import wait

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

PROFILE = "return valuesAlongLine(state.panels.get(arguments[0]).picture).map(([, value]) => String(value))"


def along_line(page, kind):
    """Values of a picture along the line."""
    return np.array(page.driver.execute_script(PROFILE, kind), float)


def drag(page, kind, start, end):
    """Drag the mouse from one pixel of a picture to another."""
    from selenium.webdriver import ActionChains

    canvas, *first = page.offset(kind, *start)
    _, *last = page.offset(kind, *end)
    chain = ActionChains(page.driver).move_to_element_with_offset(canvas, *first).click_and_hold()
    chain.move_to_element_with_offset(canvas, *last).release().perform()


def set_slider(page, name, level):
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
    page.driver.execute_script(script, page.one(f"#{name}"), level)


def colours(page, kind):
    """Colours of a picture, (H, W, 3)."""
    script = """const canvas = state.panels.get(arguments[0]).panel.atFactor(1), {width, height} = canvas;
        return [height, width, ...canvas.getContext("2d").getImageData(0, 0, width, height).data]"""
    height, width, *data = page.driver.execute_script(script, kind)
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def test_a_drawn_line_shows_the_values_of_all_pictures_along_it(gallery, screenshot):
    page = gallery().open().press("l")
    drag(page, "phase_pred", (12, 20), (52, 20))
    screenshot(page.driver, "light")

    assert page.one("#quantity").get_attribute("value") == "phase"
    assert [one.get_attribute("value") for one in page.all("#line-ends input")] == ["12", "20", "52", "20"]
    for kind in ("phase_pred", "phase_gt"):
        np.testing.assert_allclose(along_line(page, kind), page.values(kind, 5)[20, 12:53], atol=1e-6)
    assert [one.text for one in page.all("#profile .key li")] == ["predicted", "truth"]
    assert page.errors() == []


def test_a_line_is_set_by_its_ends_and_interrupted_where_nothing_was_scanned(gallery):
    page = gallery().open().press("l")
    for field, value in zip(page.all("#line-ends input"), (0, 2, 63, 46), strict=True):
        field.clear()
        field.send_keys(str(value))
    values = along_line(page, "amp_pred")

    steps = np.linspace(0, 1, len(values))
    rows, columns = (np.floor(first + span * steps).astype(int) for first, span in ((2.5, 44), (0.5, 63)))
    expected = page.values("amp_pred", 5)[rows, columns]
    assert len(values) == round(np.hypot(63, 44)) + 1
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert np.isnan(values[[0, -1]]).all()
    assert page.one("#profile path").get_attribute("d").count("M") == 1
    assert "76.8 px" in page.one("#profile svg").get_attribute("aria-label")


def test_the_histogram_counts_pixels_and_its_text_gives_the_statistics(gallery):
    page = gallery().open()
    page.one("#inspect summary").click()
    wait(page.driver, lambda _: page.all("#histogram svg"))
    counts = page.driver.execute_script('return binCounts(state.panels.get("amp_pred").picture)')
    values = page.values("amp_pred", 5)
    finite = values[np.isfinite(values)]
    levels = np.rint(finite / 1.5 * 251).astype(int)

    np.testing.assert_array_equal(counts, np.bincount(levels // 4, minlength=63))
    text = page.one("#histogram .key li").text
    assert f"predicted: mean {finite.mean():.3g}, standard deviation {finite.std():.3g}" in text
    assert text in page.one("#histogram svg").get_attribute("aria-label") + text


def test_the_mean_of_phases_over_a_whole_turn_is_circular(gallery):
    script = """const picture = {indices: Uint8Array.of(1, 250), vmin: -Math.PI, vmax: Math.PI, unit: "rad"};
        const {mean, deviation} = statistics(picture);
        return [mean, deviation]"""
    mean, deviation = gallery().open().driver.execute_script(script)

    assert abs(mean) == pytest.approx(np.pi)
    assert deviation == pytest.approx(2 * np.pi / 251, abs=1e-6)


def test_contrast_changes_the_colours_of_a_quantity_and_no_value(gallery, screenshot):
    page = gallery().open()
    page.one("#inspect summary").click()
    before = {kind: colours(page, kind) for kind in ("amp_pred", "amp_gt", "phase_pred")}
    page.point_at("amp_pred", 30, 20)
    value = page.value("amp_pred")
    set_slider(page, "low", 60)
    set_slider(page, "high", 180)
    screenshot(page.driver, "light")

    shown = page.values("amp_pred", 5)
    grey = np.clip((shown / 1.5 * 251 - 60) / 120, 0, 1) * 255
    inside = np.isfinite(shown)
    assert np.abs(colours(page, "amp_pred")[inside, 0] - grey[inside]).max() <= 2
    np.testing.assert_array_equal(colours(page, "phase_pred"), before["phase_pred"])
    assert (colours(page, "amp_gt") != before["amp_gt"]).any()
    page.point_at("amp_pred", 30, 20)
    assert page.value("amp_pred") == value
    assert "Contrast changed: amplitude." in page.one("#notes").text
    page.one("#contrast-reset").click()
    np.testing.assert_array_equal(colours(page, "amp_pred"), before["amp_pred"])


def test_contrast_keeps_its_values_from_epoch_to_epoch(gallery):
    page = gallery().open("#with=1").wait_for(other=1)
    page.one("#inspect summary").click()
    page.select("#quantity", "amp_change")
    set_slider(page, "high", 200)
    chosen = page.one("#high + output").text
    page.press("\ue012").wait_for(epoch=2)

    assert page.one("#high + output").text == chosen
    assert page.one("#high").get_attribute("aria-valuetext") == chosen


def test_the_link_opens_the_line_of_the_comparison(gallery, screenshot):
    page = gallery(dark=True).open("#view=stitched&epoch=5&with=1&of=amp_change&line=10+24+50+24").wait_for(other=1)
    wait(page.driver, lambda _: page.all("#profile path"))
    screenshot(page.driver, "dark")

    expected = (page.values("amp_pred", 5) - page.values("amp_pred", 1))[24, 10:51]
    np.testing.assert_allclose(along_line(page, "amp_change"), expected, atol=1e-6)
    assert page.one("#link a").get_attribute("href").endswith("&with=1&of=amp_change&line=10+24+50+24")
    page.one("#remove-line").click()
    assert page.one("#link a").get_attribute("href").endswith("&with=1")
    assert not page.one("#profile").is_displayed()


@pytest.mark.parametrize("dark", [False, True])
def test_the_tools_fit_a_phone(dark, gallery, screenshot):
    page = gallery(390, 844, dark=dark).open().press("l")
    wait(page.driver, lambda _: page.all("#profile path"))
    page.driver.execute_script('document.getElementById("inspect").scrollIntoView()')
    screenshot(page.driver, "dark" if dark else "light")

    assert page.driver.execute_script("return document.documentElement.scrollWidth") == 390
