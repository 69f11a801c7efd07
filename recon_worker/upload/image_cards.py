"""MLflow's image cards: images by key and step, with a step slider, on the run's page.

`log_image` assigns random file names, so an image logged twice, by a retry or by the successor of a dead worker, would
appear twice. Existing cards of the run are therefore listed once, and again after each failure.
"""

import re
import shutil
import tempfile
import threading
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from recon_worker.pictures.records import Card
from recon_worker.upload.errors import forbids_listing

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "images"
"""Artifact folder in which MLflow keeps image cards."""
_FILE = re.compile(
    r"images/(?P<key>.+)(?P<mark>[+%])step(?P=mark)(?P<step>\d+)(?P=mark)timestamp(?P=mark)\d+(?P=mark)[0-9a-f-]{36}"
    r"(?P<thumbnail>(?P=mark)compressed)?\.\w+"
)
"""Names of the two files that `log_image` writes, the image and its thumbnail; older versions separate with %."""
_SLASHES = str.maketrans("~#", "//")
_THUMBNAIL_PX = 256
_COMPLETE: dict[bool, str] = {False: "", True: ""}
"""Placeholder for the files of a complete card. Their names are not needed, and a long training has many."""


class ImageCards:
    """The image cards of one run. Thread-safe.

    Args:
        client: Connected to the tracking server.
        run_id: The run.
    """

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._lock = threading.Lock()
        self._found: dict[Card, dict[bool, str]] | None = None
        """Files of each card of the run, by whether they are thumbnails; None: not listed yet."""

    def log(self, local: Path, card: Card) -> None:
        """Log an image unless the run has it; add a thumbnail if only that is missing. Raises the client's errors."""
        with self._lock:
            found = self._found
            if found is None:
                try:
                    found = _cards_of(self._client.list_artifacts(self._run_id, FOLDER))
                except Exception as error:
                    if not forbids_listing(error):
                        raise
                    found = {}  # an image may then be logged twice
            (key, step), files = card, found.setdefault(card, {})
            self._found = None  # until the upload has succeeded
            if False not in files:
                with Image.open(local) as image:
                    # MLflow would compress the whole picture again, which takes longer than drawing it
                    vars(image).update(save=partial(shutil.copyfile, local), resize=partial(_thumbnail, image))
                    self._client.log_image(self._run_id, image, key=key, step=step, synchronous=True)
            elif True not in files and (match := _FILE.fullmatch(files[False])) is not None:
                # `log_image` was interrupted between the two files: upload the second in the same form
                name = files[False].removeprefix("images/").rpartition(".")[0] + match["mark"] + "compressed.webp"
                with tempfile.TemporaryDirectory(prefix="recon-log-") as folder, Image.open(local) as image:
                    width, height = (max(1, round(side * _THUMBNAIL_PX / max(image.size))) for side in image.size)
                    _thumbnail(image.convert("RGB"), (width, height)).save(Path(folder, name))
                    self._client.log_artifact(self._run_id, str(Path(folder, name)), FOLDER)
            found[card] = _COMPLETE
            self._found = found

    def missing(self, files: Sequence[Any], cards: Collection[Card]) -> set[Card]:
        """Return the cards that are absent or incomplete in a listing of `FOLDER`; `log` logs them again."""
        found = _cards_of(files)
        gone = {card for card in cards if len(found.get(card, {})) < 2}
        with self._lock:
            if self._found is not None:
                for card in gone:
                    self._found[card] = found.get(card, {})
        return gone


def _thumbnail(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Shrink an image, (width, height) in pixels, to one that is quickly saved as WebP."""
    small = Image.Image.resize(image, size, reducing_gap=3.0)
    vars(small).update(save=partial(small.save, method=1))
    return small


def _cards_of(files: Sequence[Any]) -> dict[Card, dict[bool, str]]:
    """Group the files of a listing by card, and by whether they are thumbnails."""
    found: dict[Card, dict[bool, str]] = {}
    for file in files:
        match = _FILE.fullmatch(file.path)
        if match:
            card = match["key"].translate(_SLASHES), int(match["step"])
            found.setdefault(card, {})[match["thumbnail"] is not None] = file.path
    return found
