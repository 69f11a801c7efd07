"""Make the picture of docs/how-to/gallery.md: log the known object of read_back_pictures.py, open a link to it.

python scripts/docs/gallery_pictures.py   # writes docs/pictures/gallery_work.png; needs Chromium (.ci/install-browser)
"""

import argparse
import base64
import io
import os
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from PIL import Image
from read_back_pictures import log
from screenshot import open_browser, resize

_PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
_LINK = "#view=stitched&epoch=10&with=5&of=phase&line=10+83+205+83"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the picture; exit code 0, or 2 without a browser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=_PICTURES)
    output: Path = parser.parse_args(argv).output.absolute() / "gallery_work.png"
    with tempfile.TemporaryDirectory(prefix="recon-log-") as folder, chdir(folder):
        log("sqlite:///mlflow.db")
        (gallery,) = Path(folder).glob("artifacts/*/artifacts/recon_log/gallery.html")
        picture(gallery.as_uri() + _LINK).save(output, optimize=True)
    print(output)
    return 0


def picture(address: str) -> Image.Image:
    """The page down to the line profile, in 256 colours."""
    from selenium.webdriver.support.ui import WebDriverWait

    with open_browser() as page:
        resize(page, 940, 900)
        page.get(address)
        drawn = "return document.querySelector('#profile path') !== null"
        WebDriverWait(page, 20).until(lambda one: one.execute_script(drawn))
        bottom = "return Math.ceil(document.getElementById('inspect').getBoundingClientRect().bottom) + 16"
        resize(page, 940, page.execute_script(bottom))
        shown = Image.open(io.BytesIO(base64.b64decode(page.get_screenshot_as_base64()))).convert("RGB")
        return shown.quantize(256, palette=shown.quantize(256, kmeans=3))  # dithers only if a palette is given


if __name__ == "__main__":
    raise SystemExit(main())
