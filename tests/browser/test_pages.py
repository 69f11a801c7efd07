"""The image cards on MLflow's run page and the gallery, in a real browser. See CONTRIBUTING.md."""

import re

import numpy as np
import pytest

from recon_worker.pictures.png import read_png

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

WAIT_S = 60
ASSISTANT, SIDEBAR = "mlflow.assistant.chat_panel.close", "mlflow_header.toggle_sidebar_button"
CANVAS = "figure[data-kind={}] canvas.picture"


def _css(selector):
    return "css selector", selector


def _wait(driver, condition):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, WAIT_S, 0.1, ignored_exceptions=[StaleElementReferenceException]).until(condition)


def _wait_for_epoch(driver, epoch):
    _wait(driver, lambda d: d.execute_script("return document.documentElement.dataset.epoch") == str(epoch))


def _open_gallery(driver, run, last_epoch=2):
    driver.get((run.artifacts / "recon_log" / "gallery.html").as_uri())
    _wait_for_epoch(driver, last_epoch)


def _point_at(driver, kind, x_share, y_share):
    """Move the mouse to a point of a picture, given as fractions of its sides."""
    from selenium.webdriver import ActionChains

    canvas = driver.find_element(*_css(CANVAS.format(kind)))
    box = canvas.rect
    offset = round((x_share - 0.5) * box["width"]), round((y_share - 0.5) * box["height"])
    ActionChains(driver).move_to_element_with_offset(canvas, *offset).perform()


def _value(driver, kind):
    """The number shown above a picture."""
    text = driver.find_element(*_css(f"figure[data-kind={kind}] output")).text
    return float(text.replace("\u2212", "-").strip("\u2264\u2265 rad"))


def _press(driver, keys):
    driver.find_element(*_css("body")).send_keys(keys)


def _pixel(driver):
    """Pixel (x, y) under the mouse, as shown on the page."""
    found = re.fullmatch(r"x (\d+), y (\d+) px", driver.find_element(*_css("#readout")).text)
    return int(found[1]), int(found[2])


def _check_values(driver, run, epoch, kinds):
    """Assert that the page shows the values of the full-size files at that pixel."""
    x, y = _pixel(driver)
    for kind in kinds:
        image = read_png(run.artifacts / f"epoch_{epoch:02d}" / "stitched" / f"{kind}.png")
        level = (image.value_range[1] - image.value_range[0]) / 251
        assert _value(driver, kind) == pytest.approx(image.values[y, x], abs=level), kind


def _check_errors(driver):
    """Assert that the error shown matches the prediction and the truth shown."""
    for kind in ("amp", "phase"):
        shown, truth, error = (_value(driver, f"{kind}_{role}") for role in ("pred", "gt", "error"))
        most = float(driver.execute_script(f'return state.panels.get("{kind}_error").panel.picture.vmax'))
        assert min(abs(shown - truth), most) == pytest.approx(error, abs=0.02), kind


def _errors(driver):
    """Errors that a gallery opened from disk reports; MLflow's own page reports missing optional files."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def _run_page(server, run, tab):
    return f"{server}/#/experiments/{run.experiment_id}/runs/{run.run_id}/{tab}?workflowType=machine_learning"


def _close(driver, *components):
    """Close panels that MLflow opens beside the page in a new browser."""
    for component in components:
        for button in driver.find_elements(*_css(f"[data-component-id='{component}']")):
            driver.execute_script("arguments[0].click()", button)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1500, 390])
def test_the_run_page_shows_the_newest_epoch_first_without_moving_a_slider(
    width, dark, chromium, server, finished_run, screenshot
):
    driver = chromium(width, 900, dark=dark)
    driver.get(_run_page(server, finished_run, "model-metrics"))
    latest = _wait(driver, lambda d: d.find_element(*_css("img[src*='path=images%2Frecon~latest']")))
    _wait(driver, lambda d: d.find_elements(*_css(f"[data-component-id='{ASSISTANT}']")))
    _close(driver, ASSISTANT, *([SIDEBAR] if width < 500 else []))
    _wait(driver, lambda d: d.execute_script("return arguments[0].getBoundingClientRect().width", latest) > 200)
    screenshot(driver, f"{width}-{'dark' if dark else 'light'}")

    *_, newest = sorted((finished_run.artifacts / "images").glob("recon~latest*.png"))
    assert newest.stem.replace("+", "%2B") in latest.get_attribute("src")
    others = driver.find_elements(*_css("img[src*='path=images']"))
    assert 0 < latest.rect["y"] == min(one.rect["y"] for one in others) < 600


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1500, 390])
def test_the_description_shows_the_latest_summary(width, dark, chromium, server, finished_run, screenshot):
    driver = chromium(width, 900, dark=dark)
    driver.get(_run_page(server, finished_run, "overview"))
    picture = _wait(driver, lambda d: d.find_element(*_css("img[src*='epoch_02%2Fsummary.png']")))
    _wait(driver, lambda d: d.find_elements(*_css(f"[data-component-id='{ASSISTANT}']")))
    _close(driver, ASSISTANT, *([SIDEBAR] if width < 500 else []))
    screenshot(driver, f"{width}-{'dark' if dark else 'light'}")
    assert "Epoch 2" in driver.find_element(*_css("body")).text

    _wait(driver, lambda d: d.execute_script("return arguments[0].naturalWidth", picture) > 0)
    _show(driver, picture)
    screenshot(driver, f"{width}-{'dark' if dark else 'light'}-picture")


def test_image_cards_start_at_the_untrained_network_and_their_sliders_move(chromium, server, finished_run, screenshot):
    driver = chromium(1400, 900)
    page = f"{server}/#/experiments/{finished_run.experiment_id}/runs/{finished_run.run_id}/model-metrics"
    driver.get(f"{page}?workflowType=machine_learning")

    for name in ("summary", "stitched_amp", "stitched_phase"):
        image = f"//img[contains(@src, 'recon~{name}')]"
        shown = _wait(driver, lambda d, image=image: d.find_element("xpath", image))
        first = shown.get_attribute("src")
        _show(driver, shown)
        screenshot(driver, f"{name}-step-0")
        slider = shown.find_element("xpath", "ancestor::*[.//*[@role='slider']][1]//*[@role='slider']")
        assert slider.get_attribute("aria-valuenow") == "0"
        slider.send_keys("\ue014")  # right arrow
        moved = _wait(
            driver, lambda d, i=image, f=first: (e := d.find_element("xpath", i)).get_attribute("src") != f and e
        )
        _show(driver, moved)
        screenshot(driver, f"{name}-next")
        step = int(slider.get_attribute("aria-valuenow"))
        assert step > 0
        assert "step%2B0%2B" in first
        assert f"step%2B{step}%2B" in moved.get_attribute("src")


def _show(driver, image):
    """Scroll to a picture and wait until it is loaded."""
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
    sides = "return Math.min(arguments[0].naturalWidth, arguments[0].height)"
    _wait(driver, lambda d: d.execute_script(sides, image) >= 128)


def test_the_gallery_works_inside_the_artifact_preview(chromium, server, finished_run, screenshot):
    driver = chromium(1600, 1100)
    page = f"{server}/#/experiments/{finished_run.experiment_id}/runs/{finished_run.run_id}/artifacts"
    driver.get(f"{page}/recon_log/gallery.html?workflowType=machine_learning")
    frame = _wait(driver, lambda d: d.find_element(*_css("iframe[sandbox]")))
    driver.switch_to.frame(frame)
    _wait_for_epoch(driver, 2)

    driver.find_element(*_css("#slider")).send_keys("\ue012")  # left arrow
    _wait_for_epoch(driver, 1)
    assert driver.find_element(*_css("#epoch")).text.startswith("Epoch 1, step ")

    _point_at(driver, "phase_pred", 0.5, 0.5)
    _check_values(driver, finished_run, 1, ["amp_gt", "phase_gt", "phase_error"])
    _check_errors(driver)
    assert "neither links nor downloads" in driver.find_element(*_css("#link")).text
    driver.switch_to.default_content()
    screenshot(driver, "hover")


def test_the_gallery_from_disk_tells_the_values_of_all_pictures_at_the_pixel(chromium, finished_run, screenshot):
    driver = chromium(940, 1250)
    _open_gallery(driver, finished_run)
    _point_at(driver, "amp_pred", 0.4, 0.6)
    screenshot(driver, "light")

    _check_values(driver, finished_run, 2, ("amp_gt", "amp_error", "phase_gt", "phase_error"))
    _check_errors(driver)
    height, width = read_png(finished_run.artifacts / "epoch_02/stitched/amp_pred.png").values.shape
    assert _pixel(driver) == pytest.approx((0.4 * width, 0.6 * height), abs=1)
    assert _errors(driver) == []


def test_the_colours_on_the_canvas_are_those_of_the_file(chromium, finished_run, screenshot):
    from PIL import Image

    driver = chromium(1400, 1100)
    _open_gallery(driver, finished_run)
    with Image.open(finished_run.artifacts / "epoch_02/stitched/phase_error.png") as image:
        expected = np.asarray(image.convert("RGB"))
    script = """const {panel} = state.panels.get("phase_error");
        const canvas = panel.atFactor(1), {width, height} = canvas;
        return [...canvas.getContext("2d").getImageData(0, 0, width, height).data]"""
    shown = np.array(driver.execute_script(script)).reshape(*expected.shape[:2], 4)

    np.testing.assert_array_equal(shown[..., :3], expected)


def test_keys_and_wheel_move_through_epochs_and_zoom_all_pictures_together(chromium, finished_run, screenshot):
    driver = chromium(940, 1250, dark=True)
    _open_gallery(driver, finished_run)
    _press(driver, "\ue011")  # home
    _wait_for_epoch(driver, 0)
    assert driver.find_element(*_css("#epoch")).text == "Epoch 0 (untrained), step 0"
    _press(driver, "++")
    zoomed = driver.find_elements(*_css("canvas.picture.zoomed"))
    screenshot(driver, "zoomed-dark")
    _press(driver, "0")
    _press(driver, " ")  # play to the end
    _wait_for_epoch(driver, 2)

    assert len(zoomed) == 7  # amplitude and phase as predicted, truth and error, and the misfit
    assert not driver.find_elements(*_css("canvas.picture.zoomed"))
    _wait(driver, lambda d: d.find_element(*_css("#play")).text == "Play")
    assert _errors(driver) == []


def test_a_sample_shows_its_diffraction_and_files_are_links(chromium, finished_run, screenshot):
    from selenium.webdriver.support.ui import Select

    driver = chromium(940, 1250)
    _open_gallery(driver, finished_run)
    views = Select(driver.find_element(*_css("#view")))
    assert views.options[0].text == "Object"
    titles = driver.execute_script('return ["stitched_object_01", "refined", "patch_007"].map(titleOfView)')
    assert titles == ["Object 01", "Object, refined", "Sample 7"]
    views.select_by_index(1)
    _wait(driver, lambda d: d.find_element(*_css("#files a")).get_attribute("href").find("/patch_") > 0)
    screenshot(driver, "sample")

    kinds = [one.get_attribute("data-kind") for one in driver.find_elements(*_css("figure"))]
    links = [one.get_attribute("href") for one in driver.find_elements(*_css("#files a"))]
    assert kinds[-3:] == ["diff_obs_logI", "diff_pred_logI", "diff_error_logI"]
    assert len(links) == 9
    assert all((finished_run.artifacts / link.split("/artifacts/")[1]).is_file() for link in links)


@pytest.mark.parametrize("dark", [False, True])
def test_the_gallery_fits_a_phone(dark, chromium, finished_run, screenshot):
    driver = chromium(390, 844, dark=dark)
    _open_gallery(driver, finished_run)
    screenshot(driver, "dark" if dark else "light")
    width = driver.execute_script("return document.documentElement.scrollWidth")
    pictures = [one.rect["width"] for one in driver.find_elements(*_css("canvas.picture"))]

    assert width == 390
    assert min(pictures) > 150
