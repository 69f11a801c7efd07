"""A gallery of known pictures on disk, and what tests do with its page."""

import dataclasses
import json

import numpy as np

from recon_worker.pictures.gallery.page import gallery_html
from recon_worker.pictures.history import gallery_entry
from recon_worker.pictures.png import read_png
from tests.pictures.sheets import sheet

WAIT_S = 30
EPOCHS = (0, 1, 2, 5)
FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0"><script>
const blob = new Blob([{text}], {{type: "text/html"}});
document.body.innerHTML = `<iframe sandbox="allow-scripts" style="border:0;width:100vw;height:100vh"></iframe>`;
document.querySelector("iframe").src = URL.createObjectURL(blob);
</script>"""
"""MLflow's preview: a frame with scripts, and without an origin."""


def css(selector):
    return "css selector", selector


def wait(driver, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, WAIT_S, 0.05).until(condition)


class GalleryPage:
    """A gallery of four epochs in a browser."""

    def __init__(self, driver, folder, *, truth=True):
        self.driver, self.entries = driver, [gallery_entry(smooth_sheet(epoch, truth)) for epoch in EPOCHS]
        self.file = folder / "gallery.html"
        self.file.write_bytes(gallery_html(self.entries))

    def open(self, link="", epoch=EPOCHS[-1]):
        self.driver.get(self.file.as_uri() + link)
        return self.wait_for(epoch=epoch)

    def open_sandboxed(self):
        """Open the page as MLflow's preview does."""
        host = self.file.with_name("preview.html")
        text = json.dumps(self.file.read_text("utf-8")).replace("</", "<\\/")
        host.write_text(FRAME.format(text=text), "utf-8")
        self.driver.get(host.as_uri())
        self.driver.switch_to.frame(self.one("iframe"))
        return self.wait_for(epoch=EPOCHS[-1])

    def wait_for(self, **dataset):
        """Wait until the page shows an epoch, or another epoch beside it."""
        shown = "return {...document.documentElement.dataset}"
        expected = {name: str(value) for name, value in dataset.items()}
        wait(self.driver, lambda one: expected.items() <= one.execute_script(shown).items())
        return self

    def one(self, selector):
        return self.driver.find_element(*css(selector))

    def all(self, selector):
        return self.driver.find_elements(*css(selector))

    def select(self, selector, value):
        from selenium.webdriver.support.ui import Select

        Select(self.one(selector)).select_by_value(str(value))
        return self

    def press(self, keys, selector="body"):
        self.one(selector).send_keys(keys)
        return self

    def kinds(self):
        return [one.get_attribute("data-kind") for one in self.all("figure")]

    def title(self, kind):
        return self.one(f"figure[data-kind={kind}] b").text

    def point_at(self, kind, x, y):
        """Move the mouse to a pixel of a picture."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).move_to_element_with_offset(*self.offset(kind, x, y)).perform()

    def offset(self, kind, x, y):
        """A picture, and the offset of one of its pixels from its centre, in pixels of the screen."""
        canvas = self.one(f"figure[data-kind={kind}] canvas.picture")
        size = self.driver.execute_script(
            f'const p = state.panels.get("{kind}").panel.picture; return [p.width, p.height]'
        )
        box = canvas.rect
        shares = [(at + 0.5) / count - 0.5 for at, count in zip((x, y), size, strict=True)]
        return canvas, round(shares[0] * box["width"]), round(shares[1] * box["height"])

    def value(self, kind):
        """Text above a picture: the value at the pixel."""
        return self.one(f"figure[data-kind={kind}] output").text

    def values(self, kind, epoch, figure=0):
        """Values of a thumbnail, (H, W)."""
        entry = next(one for one in self.entries if one.epoch == epoch)
        return read_png(entry.figures[figure].thumbnails[kind].png).values

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


def smooth_sheet(epoch, truth):
    """An object whose predictions approach the truth from epoch to epoch, and a sample."""
    one = sheet(epoch, shape=(48, 64), truth=truth)
    return dataclasses.replace(one, objects=tuple(_learned(figure, epoch) for figure in one.objects))


def _learned(figure, epoch):
    y, x = np.mgrid[0:48, 0:64]
    disc, share = np.hypot(y - 24, x - 32) < 16, epoch / (epoch + 1)
    truths = {"amp": 1 - 0.6 * disc, "phase": 2.5 * np.sin(x / 9) * disc}
    scanned = np.hypot((y - 24) / 24, (x - 32) / 32) < 1
    panels = {}
    for kind, panel in figure.panels.items():
        group, role = kind.split("_")[:2]
        truth, start = truths[group], 0.5 + 0.1 * np.cos(x / 2) * np.cos(y / 2)
        shown = share * truth + (1 - share) * start
        values = {"pred": shown, "gt": truth, "error": np.abs(shown - truth)}[role].astype(np.float32)
        panels[kind] = dataclasses.replace(panel, values=values, scanned=scanned, quantity=f"object {group}")
    return dataclasses.replace(figure, panels=panels)
