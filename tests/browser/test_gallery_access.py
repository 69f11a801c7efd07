"""The gallery by keyboard, and as a screen reader finds it in Chromium's accessibility tree."""

import re

import numpy as np
import pytest

from tests.browser.gallery_page import wait

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

TAB, ESCAPE, SHIFT, LEFT, RIGHT, DOWN = "\ue004", "\ue00c", "\ue008", "\ue012", "\ue014", "\ue015"
FOCUSED = """const one = document.activeElement;
    return one.id || one.closest("figure")?.dataset.kind || one.textContent.trim() || one.ariaLabel || one.tagName"""
LAST = "Link to this view"


@pytest.fixture
def page(gallery):
    return gallery().open()


def tree(page):
    """(role, name, properties) of all that a screen reader finds."""
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = []
    for node in (node for node in nodes if not node["ignored"]):
        properties = {one["name"]: one["value"].get("value") for one in node.get("properties", [])}
        found.append((node["role"]["value"], node.get("name", {}).get("value", ""), properties))
    return found


def names(page, role):
    return [name for found, name, _ in tree(page) if found == role]


def focus_order(page):
    """What Tab reaches, from the start of the page to its last link."""
    reached = []
    while LAST not in reached[-1:] and len(reached) < 60:
        page.press(TAB) if not reached else page.driver.switch_to.active_element.send_keys(TAB)
        reached.append(page.driver.execute_script(FOCUSED))
    return reached


def spoken(page):
    return page.one("#spoken").get_attribute("textContent")


def test_everything_that_takes_the_focus_has_a_role_and_a_name(page):
    page.press("l").press(ESCAPE)
    wait(page.driver, lambda _: page.all("#profile path"))
    focusable = [(role, name) for role, name, facts in tree(page) if facts.get("focusable")]

    assert len(focusable) > 25
    assert [one for one in focusable if not one[1] or one[0] == "generic"] == []


def test_a_screen_reader_finds_landmarks_headings_and_described_pictures(page):
    assert {role for role, _, _ in tree(page)} >= {"banner", "navigation", "main", "contentinfo", "status"}
    headings = {"Reconstruction", "Pictures", "Histogram, contrast and line profile", "Metrics"}
    assert headings <= set(names(page, "heading"))
    pictures = names(page, "application")
    assert len(pictures) == 6
    assert pictures[0].startswith("Amplitude, predicted, epoch 5: mean 0.751, standard deviation")
    low, high = (f"{bound(page.values('phase_gt', 5)):.3g}".replace("-", "\u2212") for bound in (np.nanmin, np.nanmax))
    assert re.fullmatch(f"Phase, truth, epoch 5: mean .* from {low} to {high}", pictures[4])
    curve = "amplitude MAE: 0.167 at epoch 5; from 1 at epoch 0 to 0.167 at epoch 5; lower is better"
    assert curve in names(page, "image")


def test_a_comparison_is_described_with_its_epochs(page):
    page.select("#other", 1).wait_for(other=1)
    pictures = [name.partition(":")[0] for name in names(page, "application")]

    assert pictures[:3] == ["Amplitude, epoch 5", "Amplitude, epoch 1", "Amplitude difference"]
    assert names(page, "figure") == pictures


def test_only_announcements_are_live(page):
    page.one("#inspect summary").click()
    live = [facts.get("live") for role, _, facts in tree(page) if role == "status"]

    assert len(live) > 10
    assert [one for one in live if one] == ["polite", "polite"]


def test_charts_describe_themselves(page):
    page.press("l")
    wait(page.driver, lambda _: page.all("#profile path"))
    images = names(page, "image")

    assert any(name.startswith("Histogram of amplitude, logarithmic. predicted: mean 0.751") for name in images)
    assert any(name.startswith("Profile of amplitude over 63 px. predicted: ") for name in images)


def test_the_focus_moves_from_top_to_bottom_and_reaches_everything(page):
    page.press("l").press(ESCAPE)
    wait(page.driver, lambda _: page.all("#profile path"))
    page.driver.execute_script("document.activeElement.blur()")
    order = focus_order(page)

    head = ["view", "other", "help-button", "previous", "play", "next", "slider", "zoom-out", "zoom-reset", "zoom-in"]
    kinds = [f"{group}_{role}" for group in ("amp", "phase") for role in ("pred", "gt", "error")]
    ends = ["Start, x", "Start, y", "End, x", "End, y"]
    tools = ["Histogram, contrast and line profile", "quantity", "low", "high", "draw-line", "remove-line", *ends]
    assert order[: len(head) + len(kinds) + len(tools)] == [*head, *kinds, *tools]
    assert order[-1] == LAST


def test_shift_and_arrows_read_the_pixels_of_the_focused_picture(page, screenshot):
    picture = page.one("figure[data-kind=phase_gt] canvas.picture")
    picture.send_keys(SHIFT + RIGHT)
    picture.send_keys(SHIFT + RIGHT + DOWN)
    screenshot(page.driver, "light")

    assert page.one("#readout").text == "x 33, y 25 px"
    assert spoken(page) == f"x 33, y 25 px. Phase, truth: {page.value('phase_gt')}"
    assert float(page.value("phase_gt").removesuffix(" rad").replace("\u2212", "-")) == pytest.approx(
        page.values("phase_gt", 5)[25, 33], abs=0.006
    )
    picture.send_keys(ESCAPE)
    assert page.value("phase_gt") == ""


def test_a_zoomed_picture_follows_the_pixel_that_is_read(page):
    page.press("++++")
    for _ in range(30):
        page.press(SHIFT + RIGHT)
    script = "const {zoom, centre, point} = state.spaces[0]; return [zoom, centre.x, point.x]"
    zoom, centre, point = page.driver.execute_script(script)

    assert zoom > 1
    assert point == pytest.approx(61.5 / 64)
    assert abs(point - centre) <= 0.5 / zoom + 1e-9


def test_the_epoch_is_announced_when_a_key_changes_it(page):
    page.press(LEFT).wait_for(epoch=2)
    assert spoken(page) == "Epoch 2, step 20"


def test_typing_in_a_field_is_not_taken_for_a_shortcut(page):
    page.press("l")
    field = page.all("#line-ends input")[0]
    field.send_keys("0")
    field.send_keys(LEFT)

    assert page.one("#epoch").text == "Epoch 5, step 50"
    assert page.driver.execute_script("return state.spaces[0].zoom") == 1
