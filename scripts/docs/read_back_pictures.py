"""Draw the pictures of docs/how-to/read-back.md: log a known object that gets sharper, and run the page's code on it.

python scripts/docs/read_back_pictures.py   # writes docs/pictures/read_back*.png; needs Chromium (.ci/install-browser)
"""

import argparse
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MPLBACKEND": "Agg"}

import mlflow
import numpy as np
from scipy.ndimage import gaussian_filter  # type: ignore[attr-defined]
from screenshot import open_browser, resize

from ptycho_torch.simulation.specimens import default_pictures, make_object
from recon_worker import ReconLogger

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_OBJECT_PX, _N, _STEP_PX = 256, 64, 8
_BLUR_PX = {5: 6.0, 10: 2.5, 15: 0.8}
"""Blur of the prediction at each epoch."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pictures; exit code 0, or 2 without a browser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=_DOCS / "pictures")
    output: Path = parser.parse_args(argv).output.absolute()
    with tempfile.TemporaryDirectory(prefix="recon-log-") as folder, chdir(folder):
        names: dict[str, Any] = {"run_id": log("sqlite:///mlflow.db")}
        run_page((_DOCS / "how-to" / "read-back.md").read_text("utf-8"), names)
        names["fig"].savefig(output / "read_back.png", dpi=90)
        page = Path("run.html")
        page.write_text(f"<body style='font-family:sans-serif;margin:12px'>{names['run']._repr_html_()}", "utf-8")
        with open_browser() as browser:
            resize(browser, 880, 400)
            browser.get(page.absolute().as_uri())
            browser.save_screenshot(str(output / "read_back_notebook.png"))
    print(output / "read_back.png", output / "read_back_notebook.png", sep="\n")
    return 0


def run_page(page: str, names: dict[str, Any]) -> None:
    """Run the Python blocks of a page in order; `names` has its `run_id`, and gets its variables."""
    for block in re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL):
        exec(block, names)


def log(uri: str) -> str:
    """Log the predictions of an imitated training; returns the id of the run."""
    truth = make_object(*default_pictures(), _OBJECT_PX)
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.arange(_N // 2, _OBJECT_PX - _N // 2, _STEP_PX)] * 2))
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("read back", artifact_location=Path("artifacts").absolute().as_uri())
    run_id = str(client.create_run(experiment, run_name="cells, N = 64").info.run_id)
    positions = np.stack([x, y], axis=1)
    with ReconLogger(
        tracking_uri=uri, run_id=run_id, positions=positions, ground_truth=truth, patch_px=_N, num_samples=len(x),
        num_patches=2, every_n_epochs=5, pixel_size_m=28e-9, arrays="npz", strict=True,
    ) as recon:  # fmt: skip
        for epoch, blur_px in _BLUR_PX.items():
            amp, phase = (gaussian_filter(part, blur_px) for part in (np.abs(truth), np.angle(truth)))
            windows = np.lib.stride_tricks.sliding_window_view(amp * np.exp(1j * (phase + 0.7)), (_N, _N))
            patches = windows[y - _N // 2, x - _N // 2]
            with recon.epoch(epoch, step=33 * epoch) as shot:
                shot.add(np.arange(len(x)), amp=np.abs(patches), phase=np.angle(patches))
    client.set_terminated(run_id)
    return run_id


if __name__ == "__main__":
    raise SystemExit(main())
