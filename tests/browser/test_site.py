"""The documentation site in a real browser: it loads nothing from other servers, fits a phone, and is searchable."""

import functools
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.paths import REPOSITORY

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

OUTPUT = REPOSITORY / "test_output" / "site"
"""Folder of the screenshots."""
PAGES = [
    "index",
    "tutorials/reading-the-gallery",
    "how-to/index",
    "use/lightning",
    "reference/flags",
    "reference/python",
    "architecture",
    "decisions/index",
]
"""The front page, and at least one of each section."""
PHONE_PX, DESKTOP_PX = 390, 1500
LOADED = "return performance.getEntriesByType('resource').map(entry => entry.name)"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Builds and serves the site; returns its address."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "true"}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, timeout=500)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(10)


def keep_screenshot(driver, page, look):
    OUTPUT.mkdir(parents=True, exist_ok=True)
    assert driver.save_screenshot(str(OUTPUT / f"{page.replace('/', '-')}-{look}.png"))


def wait(driver, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 60, 0.1).until(condition)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(DESKTOP_PX, 1000), (PHONE_PX, 844)], ids=["desktop", "phone"])
def test_pages_load_nothing_from_elsewhere_and_fit_the_screen(site, chromium, width, height, dark):
    driver = chromium(width, height, dark=dark)
    for page in PAGES:
        driver.get(f"{site}/{page}.html")
        wait(driver, lambda one: one.execute_script("return [...document.images].every(image => image.complete)"))
        keep_screenshot(driver, page, f"{'dark' if dark else 'light'}-{width}")

        assert [url for url in driver.execute_script(LOADED) if not url.startswith(site)] == [], page
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width, page
        broken = "return [...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
        assert driver.execute_script(broken) == [], page
    severe = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


def test_a_search_finds_the_page_of_a_recipe(site, chromium):
    driver = chromium(DESKTOP_PX, 1000)
    driver.get(f"{site}/index.html?q=torchrun")
    found = wait(driver, lambda one: one.find_elements("css selector", ".md-search-result__item a"))
    links = {link.get_attribute("href").partition("?")[0] for link in found}
    keep_screenshot(driver, "search", f"light-{DESKTOP_PX}")

    assert f"{site}/how-to/several-gpus.html" in {link.partition("#")[0] for link in links}
