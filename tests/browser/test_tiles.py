"""The viewer of large objects: from disk, from an HTTP server, and in MLflow's artifact preview."""

import functools
import http.server
import io
import threading
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from recon_worker import ReconLogger
from recon_worker.pictures.png import read_png

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

WAIT_S = 30
SIDE_PX, PATCH_PX, STEP_PX = 1400, 256, 64
PLACE = 860, 640
"""A pixel (x, y) from which a view reaches into the second column of tiles."""


@dataclass(frozen=True)
class LargeRun:
    experiment_id: str
    run_id: str
    artifacts: Path

    def rgb(self, epoch, kind):
        with Image.open(self.artifacts / f"epoch_{epoch:02d}/stitched/{kind}.png") as image:
            return np.asarray(image.convert("RGB"))

    def value(self, epoch, kind, x, y):
        return read_png(self.artifacts / f"epoch_{epoch:02d}/stitched/{kind}.png").values[y, x]


@pytest.fixture(scope="module")
def large_run(finished_run, tmp_path_factory):
    """Two epochs of a large object, in the database of the server."""
    folder = tmp_path_factory.mktemp("large")
    client = mlflow.MlflowClient(finished_run.database)
    experiment = client.create_experiment("large", artifact_location=folder.as_uri())
    run_id = client.create_run(experiment, run_name="large").info.run_id
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    truth = (0.75 + 0.2 * np.sin(x / 9) * np.sin(y / 13)) * np.exp(1j * (x % 37 + y % 23) / 30)
    line = np.arange(PATCH_PX // 2, SIDE_PX - PATCH_PX // 2 + 1, STEP_PX)
    positions = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    with ReconLogger(
        tracking_uri=finished_run.database, run_id=run_id, positions=positions, ground_truth=truth,
        num_patches=0, every_n_epochs=1, tiles_from_px=1000, strict=True,
    ) as recon:  # fmt: skip
        for epoch in (1, 2):
            with recon.epoch(epoch, step=10 * epoch) as shot:
                for row, (column, line_) in enumerate(positions - PATCH_PX // 2):
                    patch = truth[line_ : line_ + PATCH_PX, column : column + PATCH_PX] ** (epoch / 2)
                    shot.add([row], amp=np.abs(patch)[None], phase=np.angle(patch)[None])
    (artifacts,) = folder.glob("*/artifacts")
    return LargeRun(experiment, run_id, artifacts)


@pytest.fixture
def web_server(large_run):
    """`python -m http.server` in the folder of the run; returns the address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(large_run.artifacts))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _css(selector):
    return "css selector", selector


def _wait(driver, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, WAIT_S, 0.1).until(condition)


def _wait_for(driver, shown):
    _wait(driver, lambda d: d.execute_script("return document.documentElement.dataset.shown") == shown)


def _wait_for_tiles(driver):
    """Wait until the tiles that the view needs are loaded, or have failed."""
    script = """const all = [...state.pyramid.tiles.values()];
        draw();
        return all.length > 0 && all.every((one) => one.complete);"""
    _wait(driver, lambda d: d.execute_script(script))


def _open(driver, address, shown="2 stitched amp_pred"):
    driver.get(f"{address}/recon_log/tiles.html")
    _wait_for(driver, shown)
    _wait_for_tiles(driver)


def _choose(driver, kind, epoch=2):
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element(*_css("#picture"))).select_by_value(kind)
    _wait_for(driver, f"{epoch} stitched {kind}")
    _wait_for_tiles(driver)


def _press(driver, *keys):
    for key in keys:
        driver.find_element(*_css("body")).send_keys(key)


def _show_place(driver, scale=1):
    """Bring PLACE to the centre at a number of screen pixels per pixel."""
    driver.execute_script("zoomTo(arguments[0]); moveTo(...arguments[1])", scale, PLACE)
    _wait_for_tiles(driver)


def _point_at_centre(driver):
    from selenium.webdriver import ActionChains

    ActionChains(driver).move_to_element(driver.find_element(*_css("#view"))).perform()


def _pixel_and_value(driver):
    text = driver.find_element(*_css("#readout")).text.replace("\u2212", "-")
    place, _, value = text.partition(" px: ")
    x, y = (int(part.split()[1]) for part in place.split(","))
    return x, y, value


def _screen(driver):
    """Colours of the canvas as the user sees them, and the pixel (x, y) at its upper left corner, at scale 1."""
    with Image.open(io.BytesIO(driver.find_element(*_css("#view")).screenshot_as_png)) as image:
        colours = np.asarray(image.convert("RGB"))
    return colours, *driver.execute_script("return [-Math.round(-box().left), -Math.round(-box().top)]")


def _check_pixels(driver, run, kind, epoch=2):
    """Assert that the screen shows the pixels of the file, one by one."""
    colours, x, y = _screen(driver)
    height, width = colours.shape[:2]

    np.testing.assert_array_equal(colours, run.rgb(epoch, kind)[y : y + height, x : x + width])


@pytest.mark.parametrize("kind", ["amp_pred", "phase_pred", "phase_gt", "amp_error"])
def test_at_full_zoom_the_screen_shows_the_pixels_of_the_file(kind, chromium, large_run, screenshot):
    driver = chromium(700, 600)
    _open(driver, large_run.artifacts.as_uri())
    _choose(driver, kind)
    _show_place(driver)
    screenshot(driver, kind)

    _check_pixels(driver, large_run, kind)
    assert driver.execute_script("return state.pyramid.failed") is False


def test_from_disk_values_are_means_and_the_page_says_how_to_read_pixels(chromium, large_run, screenshot):
    driver = chromium(940, 900)
    _open(driver, large_run.artifacts.as_uri())
    _point_at_centre(driver)
    screenshot(driver, "whole")
    _show_place(driver, 8)
    _point_at_centre(driver)
    screenshot(driver, "zoomed")

    assert "mean of 4 \u00d7 4 px" in _pixel_and_value(driver)[2]
    assert driver.find_element(*_css("#notice")).text.startswith("Values are averages over 4 \u00d7 4 px")
    assert "python -m http.server" in driver.find_element(*_css("#notice")).text
    assert not [one for one in driver.get_log("browser") if one["level"] == "SEVERE"]
    _press(driver, "p")
    _wait_for(driver, "1 stitched amp_pred")
    assert driver.find_element(*_css("#notice")).text.startswith("Only the newest epoch has values here")


@pytest.mark.parametrize("kind", ["amp_pred", "phase_pred", "phase_gt"])
def test_from_an_http_server_the_values_are_those_of_the_pixels(kind, chromium, large_run, web_server, screenshot):
    driver = chromium(940, 900, dark=True)
    _open(driver, web_server)
    _choose(driver, kind)
    _show_place(driver, 16)
    _point_at_centre(driver)
    _wait(driver, lambda d: " px: " in d.find_element(*_css("#readout")).text)
    screenshot(driver, kind)
    x, y, value = _pixel_and_value(driver)
    span = np.ptp(read_png(large_run.artifacts / f"epoch_02/stitched/{kind}.png").value_range)

    assert (x, y) == pytest.approx(PLACE, abs=1)
    assert float(value.strip(" rad\u2264\u2265")) == pytest.approx(large_run.value(2, kind, x, y), abs=span / 251)
    assert driver.find_element(*_css("#notice")).text == ""


def test_the_preview_of_mlflow_shows_the_tiles_and_says_what_it_cannot(chromium, server, large_run, screenshot):
    driver = chromium(1600, 1100)
    page = f"{server}/#/experiments/{large_run.experiment_id}/runs/{large_run.run_id}/artifacts"
    driver.get(f"{page}/recon_log/tiles.html?workflowType=machine_learning")
    driver.switch_to.frame(_wait(driver, lambda d: d.find_element(*_css("iframe[sandbox]"))))
    _wait_for(driver, "2 stitched amp_pred")
    _show_place(driver)
    notice = driver.find_element(*_css("#notice")).text

    _check_pixels(driver, large_run, "amp_pred")
    assert f"mlflow artifacts download --run-id {large_run.run_id}" in notice
    assert "averages over 4 \u00d7 4 px" in notice
    driver.switch_to.default_content()
    screenshot(driver, "tiles")


def test_without_tiles_the_overview_is_shown_and_the_page_says_so(chromium, large_run, tmp_path, screenshot):
    page = tmp_path / "recon_log/tiles.html"
    page.parent.mkdir()
    page.write_bytes((large_run.artifacts / "recon_log/tiles.html").read_bytes())
    driver = chromium(940, 900)
    _open(driver, tmp_path.as_uri())
    _wait(driver, lambda d: "not beside this page" in d.find_element(*_css("#notice")).text)
    screenshot(driver, "overview")

    assert len(page.read_bytes()) < 1_000_000
    assert f"download --run-id {large_run.run_id}" in driver.find_element(*_css("#notice")).text


def test_keys_move_zoom_and_change_epoch_and_picture_at_the_same_place(chromium, large_run):
    driver = chromium(940, 900)
    _open(driver, large_run.artifacts.as_uri())
    _press(driver, "1", "\ue014", "\ue015")  # one to one, right, down
    where = driver.execute_script("return [state.scale, state.centre.x, state.centre.y]")
    _press(driver, "v", "v", "v", "p")
    _wait_for(driver, "1 stitched phase_pred")
    label = driver.find_element(*_css("#view")).get_attribute("aria-label")

    assert where[0] == 1
    assert driver.execute_script("return [state.scale, state.centre.x, state.centre.y]") == where
    assert label.startswith("Phase, predicted, epoch 1: x ")
    assert "zoom 1 screen pixels per pixel" in label
    _press(driver, "0")
    assert driver.execute_script("return state.scale === fitScale()")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_viewer_fits_a_phone(dark, chromium, large_run, screenshot):
    driver = chromium(390, 844, dark=dark)
    _open(driver, large_run.artifacts.as_uri())
    screenshot(driver, "dark" if dark else "light")
    view = driver.find_element(*_css("#view")).rect

    assert driver.execute_script("return document.documentElement.scrollWidth") == 390
    assert driver.execute_script("return document.documentElement.scrollHeight") == 844
    assert view["width"] > 350
    assert view["height"] > 300
