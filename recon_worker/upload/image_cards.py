"""MLflow's image cards: images by key and step, with a step slider, on the run's page.

`log_image` assigns random file names, so an image logged twice, by a retry or by the successor of a dead worker, would
appear twice. Existing cards of the run are therefore listed once, and again after each failure.

Pictures of `records.LATEST` stay in the run, one per logged epoch as for any card; MLflow shows the one with the latest
timestamp.
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

from recon_worker.pictures.records import LATEST, Card
from recon_worker.upload.errors import forbids_listing

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "images"
"""Artifact folder in which MLflow keeps image cards."""
_FILE = re.compile(
    r"images/(?P<key>.+)(?P<mark>[+%])step(?P=mark)(?P<step>\d+)(?P=mark)timestamp(?P=mark)(?P<time_ms>\d+)(?P=mark)[0-9a-f-]{36}"
    r"(?P<thumbnail>(?P=mark)compressed)?\.\w+"
)
"""Names of the two files that `log_image` writes, the image and its thumbnail; older versions separate with %."""
_SLASHES = str.maketrans("~#", "//")
_THUMBNAIL_PX, _LATEST_THUMBNAIL_PX = 256, 512
"""Longer sides of thumbnails. MLflow shows them without enlarging, in cards of 260 px or, in a wide window, 400 px."""
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
            files = found.setdefault(card, {})
            self._found = None  # until the upload has succeeded
            if False not in files:
                with Image.open(local) as image:
                    # MLflow would compress the whole picture again, which takes longer than drawing it
                    vars(image).update(save=partial(shutil.copyfile, local), resize=lambda _: _thumbnail(image, card))
                    key, step, time_ms = card
                    self._client.log_image(self._run_id, image, key=key, step=step, timestamp=time_ms, synchronous=True)
            elif True not in files and (match := _FILE.fullmatch(files[False])) is not None:
                # `log_image` was interrupted between the two files: upload the second in the same form
                name = files[False].removeprefix("images/").rpartition(".")[0] + match["mark"] + "compressed.webp"
                with tempfile.TemporaryDirectory(prefix="recon-log-") as folder, Image.open(local) as image:
                    _thumbnail(image.convert("RGB"), card).save(Path(folder, name))
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


def _thumbnail(image: Image.Image, card: Card) -> Image.Image:
    """Shrink an image to one that is quickly saved as WebP."""
    longest_px = _THUMBNAIL_PX if card.time_ms is None else _LATEST_THUMBNAIL_PX
    width, height = (max(1, round(side * min(1, longest_px / max(image.size)))) for side in image.size)
    small = Image.Image.resize(image, (width, height), reducing_gap=3.0)
    vars(small).update(save=partial(small.save, method=1))
    return small


def _cards_of(files: Sequence[Any]) -> dict[Card, dict[bool, str]]:
    """Group the files of a listing by card, and by whether they are thumbnails."""
    found: dict[Card, dict[bool, str]] = {}
    for file in files:
        match = _FILE.fullmatch(file.path)
        if match:
            key = match["key"].translate(_SLASHES)
            time_ms = int(match["time_ms"]) if key.rpartition("/")[2] == LATEST else None
            card = Card(key, int(match["step"]), time_ms)
            found.setdefault(card, {})[match["thumbnail"] is not None] = file.path
    return found
