"""Take a picture of a gallery, in headless Chromium (Debian: .ci/install-browser), for the README.

python scripts/docs/screenshot.py gallery.html gallery.png --epoch 20
"""

import argparse
import base64
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver

_WAIT_S = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Write the picture; exit code 0, or 2 with a message if the browser or the gallery is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("gallery", type=Path, help="gallery.html")
    parser.add_argument("output", type=Path, help="PNG to write")
    parser.add_argument("--epoch", type=int, help="default: the last one")
    parser.add_argument("--width", type=int, default=940, help="pixels (default: 940)")
    parser.add_argument("--dark", action="store_true", help="use the dark colour scheme")
    arguments = parser.parse_args(argv)
    if not arguments.gallery.is_file():
        print(f"error: {arguments.gallery} does not exist.", file=sys.stderr)
        return 2
    arguments.output.write_bytes(_picture(arguments))
    return 0


@contextmanager
def open_browser() -> "Iterator[WebDriver]":
    """Start headless Chromium. Ends the program with code 2 if it or its driver is not installed."""
    from selenium import webdriver

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        print("error: chromium or chromedriver is missing.", file=sys.stderr)
        raise SystemExit(2)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses root otherwise
    for argument in ("--headless=new", "--hide-scrollbars", "--disable-dev-shm-usage", *root):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as page:
        yield page


def _picture(arguments: argparse.Namespace) -> bytes:
    """PNG of the whole page."""
    from selenium.webdriver.support.ui import WebDriverWait

    with open_browser() as page:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if arguments.dark else "light"}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        resize(page, arguments.width, 900)
        page.get(arguments.gallery.resolve().as_uri())
        shown = "return document.documentElement.dataset.epoch"
        WebDriverWait(page, _WAIT_S).until(lambda one: one.execute_script(shown) is not None)
        if arguments.epoch is not None:
            page.execute_script("goToEpoch(arguments[0])", arguments.epoch)
            WebDriverWait(page, _WAIT_S).until(lambda one: one.execute_script(shown) == str(arguments.epoch))
        resize(page, arguments.width, page.execute_script("return document.documentElement.scrollHeight"))
        return base64.b64decode(page.get_screenshot_as_base64())


def resize(page: "WebDriver", width: int, height: int) -> None:
    """Set the size of the visible page, pixels."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


if __name__ == "__main__":
    raise SystemExit(main())
