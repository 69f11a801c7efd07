"""Draw the picture of docs/how-to/large-objects.md: the viewer with a known object, whole and at single pixels.

python scripts/docs/tiles_picture.py   # writes docs/pictures/large_objects.png; needs Chromium (.ci/install-browser)
"""

import argparse
import functools
import http.server
import io
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true"}

import mlflow
import numpy as np
from PIL import Image
from screenshot import open_browser, resize
from selenium.webdriver import ActionChains
from selenium.webdriver.support.ui import WebDriverWait

from recon_worker import ReconLogger

_PICTURE = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "large_objects.png"
_OBJECT_PX, _PATCH_PX, _STEP_PX = 2560, 256, 128
_WIDTH_PX, _HEIGHT_PX, _GAP_PX, _WAIT_S = 560, 650, 12, 30
_VIEWS = ("fit(); state.point = null; showValue()", "zoomTo(16, {x: 1316, y: 1256}); moveTo(1316, 1256)")
"""The whole object, and the tips of the spokes at 16 screen pixels per pixel."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the picture; exit code 0, or 2 without a browser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=_PICTURE)
    output: Path = parser.parse_args(argv).output.absolute()
    with tempfile.TemporaryDirectory(prefix="recon-log-") as folder, chdir(folder):
        artifacts = _log("sqlite:///mlflow.db")
        with _served(artifacts) as address, open_browser() as browser:
            views = [_view(browser, f"{address}/recon_log/tiles.html", script) for script in _VIEWS]
    both = Image.new("RGB", (2 * _WIDTH_PX + _GAP_PX, _HEIGHT_PX), "white")
    for number, view in enumerate(views):
        both.paste(view, (number * (_WIDTH_PX + _GAP_PX), 0))
    both.quantize(256).save(output, optimize=True)
    print(output)
    return 0


def _log(uri: str) -> Path:
    """Log one epoch of a Siemens star with rings; returns the folder of the artifacts."""
    y, x = np.mgrid[:_OBJECT_PX, :_OBJECT_PX] - _OBJECT_PX / 2
    spokes = np.sin(36 * np.arctan2(y, x)) > 0
    rings = np.sin(np.hypot(y, x) / 24) > 0.3
    truth = (0.6 + 0.4 * rings) * np.exp(1.2j * spokes) * (1 + 0.02 * np.random.default_rng(0).normal(size=x.shape))
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("large", artifact_location=Path("artifacts").absolute().as_uri())
    run_id = str(client.create_run(experiment).info.run_id)
    line = np.arange(_PATCH_PX // 2, _OBJECT_PX - _PATCH_PX // 2 + 1, _STEP_PX)
    positions = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    with ReconLogger(
        tracking_uri=uri, run_id=run_id, positions=positions, num_patches=0, every_n_epochs=1, strict=True
    ) as recon, recon.epoch(50, step=16550) as shot:  # fmt: skip
        for row, (left, top) in enumerate(positions - _PATCH_PX // 2):
            patch = truth[top : top + _PATCH_PX, left : left + _PATCH_PX]
            shot.add([row], amp=np.abs(patch)[None], phase=np.angle(patch)[None])
    return Path("artifacts", run_id, "artifacts")


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve a folder as `python -m http.server` does."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _view(browser: Any, address: str, script: str) -> Image.Image:  # noqa: ANN401 - selenium's WebDriver
    """Return the page after a script, with the pointer on the centre of the picture."""
    wait = WebDriverWait(browser, _WAIT_S)
    resize(browser, _WIDTH_PX, _HEIGHT_PX)
    browser.get(address)
    wait.until(lambda page: page.execute_script("return document.documentElement.dataset.shown"))
    browser.execute_script("state.kind = 'phase_pred'; show()")
    wait.until(lambda page: page.execute_script("return document.documentElement.dataset.shown.endsWith('phase_pred')"))
    browser.execute_script(script)
    ActionChains(browser).move_to_element(browser.find_element("id", "view")).perform()
    loaded = "draw(); return [...state.pyramid.tiles.values()].every((one) => one.complete)"
    wait.until(lambda page: page.execute_script(loaded))
    wait.until(lambda page: "rad" in page.find_element("id", "readout").text)
    with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as image:
        return image.convert("RGB")


if __name__ == "__main__":
    raise SystemExit(main())
