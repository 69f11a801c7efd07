"""The page of `recon-worker compare`, in a real browser."""

import math
from dataclasses import replace

import numpy as np
import pytest

from recon_worker.pictures.gallery.comparison import comparison_html
from recon_worker.pictures.png import Panel, encode_png, read_png
from tests.cli.spools import DONE, recon_worker
from tests.pictures.test_comparison import run as compared_run
from tests.reading.known_run import KnownRun, new_run

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300), pytest.mark.usefixtures("plain_sheets")]

WITH_TRUTH, WITHOUT_TRUTH = "stitched", "stitched_object_01"
ROUNDING = 1e-6


@pytest.fixture(scope="module")
def runs(mlflow_database, tmp_path_factory):
    """Two known runs of different epochs, and the page that compares them."""
    folder = tmp_path_factory.mktemp("compare")
    targets = [new_run(mlflow_database, f"{folder.name}-{name}", folder / name) for name in ("first", "second")]
    known = [KnownRun(targets[0], "none").log(1, 2, 3), KnownRun(targets[1], "none").log(2, 4)]
    for run, rate in zip(known, ("0.001", "0.01"), strict=True):
        run.client.log_param(run.target.run_id, "learning_rate", rate)
    ids = [target.run_id for target in targets]
    out = folder / "compare.html"
    assert recon_worker("compare", *ids, "--tracking-uri", mlflow_database, "--out", out).returncode == DONE
    return known, out


@pytest.fixture
def page(runs, chromium):
    """The opened page: page(width, height, dark=False)."""

    def start(width=1500, height=1000, *, dark=False):
        driver = chromium(width, height, dark=dark)
        driver.get(runs[1].as_uri())
        settled(driver)
        return driver

    return start


def settled(driver):
    """Wait until the page shows what was asked for."""
    script = """const done = arguments[0], look = () =>
        document.documentElement.dataset.shown ? done() : requestAnimationFrame(look); look()"""
    driver.execute_async_script(script)


def choose(driver, select, value):
    from selenium.webdriver.support.ui import Select

    driver.execute_script("delete document.documentElement.dataset.shown")
    Select(driver.find_element("id", select)).select_by_value(value)
    settled(driver)


def shown_epochs(driver):
    return driver.execute_script("return document.documentElement.dataset.shown")


def shown(driver, part, column):
    """Values and range of a picture of the page; NaN where it has none."""
    script = """const {indices, width, height, vmin, vmax} = state.panels.get(arguments[0]).panel.picture;
        return [[...indices], width, height, vmin, vmax]"""
    indices, width, height, low, high = driver.execute_script(script, f"{part} {column}")
    indices = np.array(indices).reshape(height, width)
    return np.where(indices < 252, low + indices * (high - low) / 251, np.nan), (low, high)


def gallery_object(known, epoch, view):
    """The complex object that a gallery shows, and per part where it is below (-1) or above (1) its range."""
    (entry,) = (one for one in known.open().gallery_entries() if one.epoch == epoch)
    (figure,) = (one for one in entry.figures if one.name == view)
    amp, phase = (read_png(figure.thumbnails[kind].png) for kind in ("amp_pred", "phase_pred"))
    return amp.values * np.exp(1j * phase.values), {"amp": beyond(amp), "phase": beyond(phase)}


def beyond(image):
    low, high = image.value_range
    if high == pytest.approx(math.pi):
        return np.zeros(image.values.shape, int)
    return (image.values >= high).astype(int) - ((image.values <= low) & (low > 0))


def severe(driver):
    return [one["message"] for one in driver.get_log("browser") if one["level"] == "SEVERE"]


def test_all_runs_have_one_colour_range_and_keep_their_values(page, runs):
    driver = page()
    choose(driver, "view", WITHOUT_TRUTH)
    ranges = {shown(driver, "amp", column)[1] for column in (0, 1)}
    ((low, high),) = ranges

    assert shown_epochs(driver) == "3 4"
    for column, (known, epoch) in enumerate(zip(runs[0], (3, 4), strict=True)):
        logged, _ = gallery_object(known, epoch, WITHOUT_TRUTH)
        np.testing.assert_allclose(shown(driver, "amp", column)[0], np.abs(logged), atol=(high - low) / 502)
    assert severe(driver) == []


def test_a_difference_to_an_infinite_value_is_infinite_as_in_the_gallery(tmp_path, chromium):
    first, second = compared_run(1), compared_run(2)
    (entry,) = second.entries
    figure = entry.figures[0]
    image = read_png(figure.thumbnails["amp_pred"].png)
    image.values[0, 0] = np.inf
    panel = Panel(values=image.values, value_range=(0, 1), colormap="gray", quantity="q", unit="1")
    infinite = replace(figure.thumbnails["amp_pred"], png=encode_png(panel))
    figure = replace(figure, thumbnails={**figure.thumbnails, "amp_pred": infinite})
    path = tmp_path / "compare.html"
    path.write_bytes(comparison_html([first, replace(second, entries=[replace(entry, figures=(figure,))])]))
    driver = chromium(1200, 900)
    driver.get(path.as_uri())
    settled(driver)
    choose(driver, "reference", "0")

    values, _ = shown(driver, "amp", 1)
    assert driver.execute_script("return state.panels.get('amp 1').panel.picture.indices[0]") == 253
    assert np.isnan(values).sum() == 1
    assert "+infinity" in driver.find_element("id", "special").text
    assert severe(driver) == []


def test_each_run_shows_its_latest_epoch_that_is_not_after_the_chosen_one(page):
    driver = page()
    found = []
    for key in ("\ue011", "\ue014", "\ue014", "\ue014"):  # home, then right
        driver.execute_script("delete document.documentElement.dataset.shown")
        driver.find_element("css selector", "body").send_keys(key)
        settled(driver)
        found.append((driver.find_element("id", "epoch").text, shown_epochs(driver)))

    assert found == [("Epoch 1", "1 2"), ("Epoch 2", "2 2"), ("Epoch 3", "3 2"), ("Epoch 4", "3 4")]


def test_runs_are_shown_at_their_best_epochs(page, runs, screenshot):
    driver = page()
    choose(driver, "mode", "phase_mae_rad")
    screenshot(driver, "best")
    best = [int(run.open().metrics["recon/stitched/phase_mae_rad"].idxmin()) for run in runs[0]]

    assert shown_epochs(driver) == " ".join(map(str, best))
    assert not driver.find_element("id", "slider").is_enabled()


@pytest.mark.parametrize("view", [WITH_TRUTH, WITHOUT_TRUTH])
def test_a_difference_is_that_of_the_objects(page, runs, view, screenshot):
    driver = page()
    if view != WITH_TRUTH:  # the first one, which is shown already
        choose(driver, "view", view)
    choose(driver, "reference", "0")
    screenshot(driver, view)
    (one, ends), (other, other_ends) = gallery_object(runs[0][1], 4, view), gallery_object(runs[0][0], 3, view)
    if view == WITHOUT_TRUTH:
        inside = np.isfinite(one) & np.isfinite(other) & (ends["amp"] == 0) & (other_ends["amp"] == 0)
        one = one * np.vdot(one[inside], other[inside]) / np.vdot(one[inside], one[inside])
    expected = {"amp": np.abs(one) - np.abs(other), "phase": np.angle(one * np.conj(other))}

    for part, difference in expected.items():
        values, (low, high) = shown(driver, part, 1)
        unknown = ~np.isfinite(difference) | ((ends[part] != 0) & (ends[part] == other_ends[part]))
        assert low == -high
        assert 0 < unknown.mean() < 0.7
        np.testing.assert_array_equal(np.isnan(values), unknown)
        turned = np.abs(np.abs(difference) - math.pi) < 0.01  # where the sign of a phase is a matter of rounding
        clipped = np.clip(difference, low, high)
        np.testing.assert_allclose(values[~unknown & ~turned], clipped[~unknown & ~turned], atol=high / 251 + ROUNDING)


def test_keys_zoom_all_pictures_and_the_mouse_reads_all_values(page, screenshot):
    from selenium.webdriver import ActionChains

    driver = page(dark=True)
    driver.find_element("css selector", "body").send_keys("++")
    canvas = driver.find_element("css selector", "figure[data-column='1'] canvas")
    ActionChains(driver).move_to_element(canvas).perform()
    screenshot(driver, "dark")
    texts = [one.text for one in driver.find_elements("css selector", "figcaption output")]

    assert len(driver.find_elements("css selector", "canvas.zoomed")) == 6
    assert len(texts) == 6
    assert all(texts)


def test_curves_and_tables_have_a_line_and_a_column_for_each_run(page):
    driver = page()
    lines = driver.execute_script("""return state.curves[0].svg.querySelectorAll("polyline").length""")
    settings = [row.text.split() for row in driver.find_elements("css selector", "#settings tr")]
    epochs = driver.find_elements("css selector", "#values tr")[1].text

    assert lines == 2
    assert settings[1] == ["learning_rate", "0.001", "0.01"]
    assert epochs == "epoch 3 4"


@pytest.mark.parametrize("dark", [False, True])
def test_the_comparison_fits_a_phone(page, dark, screenshot):
    driver = page(390, 844, dark=dark)
    screenshot(driver, "dark" if dark else "light")

    assert driver.execute_script("return document.documentElement.scrollWidth") == 390
    assert min(one.rect["width"] for one in driver.find_elements("css selector", "canvas.picture")) > 150
