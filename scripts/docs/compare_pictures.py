"""Draw the picture of docs/how-to/compare.md: log three imitated training runs, compare them, and photograph the page.

python scripts/docs/compare_pictures.py   # writes docs/pictures/compare.png; needs Chromium (.ci/install-browser)
"""

import argparse
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MPLBACKEND": "Agg"}

import mlflow
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter  # type: ignore[attr-defined]
from screenshot import open_browser, resize
from selenium.webdriver.support.ui import Select, WebDriverWait

from ptycho_torch.simulation.specimens import default_pictures, make_object
from recon_worker import ReconLogger
from recon_worker.cli.main import main as recon_worker

_PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
_OBJECT_PX, _N, _STEP_PX = 224, 64, 8
_WIDTH_PX, _HEIGHT_PX, _WAIT_S = 940, 1106, 20
_EPOCHS = (2, 4, 6, 8, 10)
_COLOURS = 192
Complex = NDArray[np.complex64]


@dataclass(frozen=True)
class Imitation:
    """An imitated training run: it predicts the true object with noise and with a blur that shrinks every epoch."""

    name: str
    settings: Mapping[str, str]
    factor: float
    noise: float


_TRAININGS = (
    Imitation("baseline", {"learning_rate": "0.001", "n_filters_scale": "2"}, 0.8, 0.0),
    Imitation("fast", {"learning_rate": "0.005", "n_filters_scale": "2"}, 0.6, 0.06),
    Imitation("small", {"learning_rate": "0.001", "n_filters_scale": "1"}, 0.93, 0.0),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the picture; exit code 0, or 2 without a browser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=_PICTURES / "compare.png")
    output: Path = parser.parse_args(argv).output.absolute()
    with tempfile.TemporaryDirectory(prefix="recon-log-") as folder, chdir(folder):
        uri = f"sqlite:///{folder}/mlflow.db"
        log(uri)
        recon_worker(["compare", "--experiment", "compare", "--tracking-uri", uri, "--out", "compare.html"])
        _photograph(Path("compare.html").absolute(), output)
    print(output)
    return 0


def log(uri: str) -> None:
    """Log the imitated training runs to the experiment "compare"."""
    truth = make_object(*default_pictures(), _OBJECT_PX)
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.arange(_N // 2, _OBJECT_PX - _N // 2 + 1, _STEP_PX)] * 2))
    positions = np.stack([x, y], axis=1)
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("compare", artifact_location=Path("artifacts").absolute().as_uri())
    for training in _TRAININGS:
        run_id = str(client.create_run(experiment, run_name=training.name).info.run_id)
        for name, value in training.settings.items():
            client.log_param(run_id, name, value)
        with ReconLogger(
            tracking_uri=uri, run_id=run_id, positions=positions, ground_truth=truth, patch_px=_N, num_samples=len(x),
            num_patches=1, every_n_epochs=2, pixel_size_m=28e-9, strict=True,
        ) as recon:  # fmt: skip
            for epoch in _EPOCHS:
                windows = np.lib.stride_tricks.sliding_window_view(_predicted(truth, training, epoch), (_N, _N))
                patches = windows[y - _N // 2, x - _N // 2]
                with recon.epoch(epoch, step=33 * epoch) as shot:
                    shot.add(np.arange(len(x)), amp=np.abs(patches), phase=np.angle(patches))
        client.set_terminated(run_id)


def _predicted(truth: Complex, training: Imitation, epoch: int) -> Complex:
    blur_px = 9 * training.factor**epoch
    noise = training.noise * np.random.default_rng(epoch).normal(size=truth.shape)
    amp, phase = (gaussian_filter(part, blur_px) for part in (np.abs(truth), np.angle(truth)))
    result: Complex = ((amp + noise / 5) * np.exp(1j * (phase + noise + 0.7))).astype(np.complex64)
    return result


def _photograph(page: Path, output: Path) -> None:
    """Photograph the page with the difference to the first run."""
    with open_browser() as browser:
        resize(browser, _WIDTH_PX, _HEIGHT_PX)
        browser.get(page.as_uri())
        shown = "return document.documentElement.dataset.shown"
        WebDriverWait(browser, _WAIT_S).until(lambda one: one.execute_script(shown) is not None)
        Select(browser.find_element("id", "reference")).select_by_visible_text(_TRAININGS[0].name)
        bars = "return document.querySelectorAll('.colours').length"
        WebDriverWait(browser, _WAIT_S).until(lambda one: one.execute_script(bars) == 4)
        browser.execute_script("document.activeElement.blur()")
        picture = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
    few = picture.convert("RGB").quantize(_COLOURS, kmeans=3, dither=Image.Dither.NONE)
    few.save(output, optimize=True)


if __name__ == "__main__":
    raise SystemExit(main())
