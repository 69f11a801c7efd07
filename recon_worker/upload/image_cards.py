"""MLflow's image cards: pictures by key and step, with a slider, on the page of a run.

`log_image` gives each file a random name, so logging the same picture twice, after an upload that was tried again or a
worker that died, would show it twice. What a run has already is asked for once, and after each failure.
"""

import re
import tempfile
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from recon_worker.pictures.records import Card
from recon_worker.upload.answers import forbids_listing

_FILE = re.compile(
    r"images/(?P<key>.+)(?P<mark>[+%])step(?P=mark)(?P<step>\d+)(?P=mark)timestamp(?P=mark)\d+(?P=mark)[0-9a-f-]{36}"
    r"(?P<small>(?P=mark)compressed)?\.\w+"
)
"""What `log_image` calls its two files, the picture and a small version; older MLflow separates with %."""
FOLDER = "images"
"""Where MLflow keeps them."""
_SLASHES = str.maketrans("~#", "//")
_SMALL_PX = 256
_BOTH: dict[bool, str] = {False: "", True: ""}
"""The files of a card that is whole, whatever they are called: a long training has many."""


class CardClient(Protocol):
    """The part of `mlflow.MlflowClient` that is used."""

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """Copy a local file to `artifact_path/<file name>` of the run."""

    def list_artifacts(self, run_id: str, path: str | None = None) -> list[Any]:
        """The files in a folder."""

    def log_image(self, run_id: str, image: Any, *, key: str, step: int, synchronous: bool) -> None:  # noqa: ANN401
        """Log a picture for the image cards."""


class ImageCards:
    """The image cards of one run. May be used from several threads.

    Args:
        client: Connected to the tracking server.
        run_id: The run.
    """

    def __init__(self, client: CardClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._lock = threading.Lock()
        self._found: dict[Card, dict[bool, str]] | None = None

    def log(self, local: Path, card: Card) -> None:
        """Log a picture, unless it is there; one of which the small version is missing gets that.

        Raises:
            Exception: Whatever the client raises.
        """
        with self._lock:
            found = self._find() if self._found is None else self._found
            files = found.setdefault(card, {})
            self._found = None  # until this has succeeded
            if False not in files:
                with Image.open(local) as image:
                    self._client.log_image(self._run_id, image, key=card.key, step=card.step, synchronous=True)
            elif True not in files:
                self._add_small(local, files[False])
            found[card] = _BOTH
            self._found = found

    def missing(self, files: Sequence[Any], cards: Collection[Card]) -> set[Card]:
        """Which cards are not among what a listing of `FOLDER` has found, or not whole; `log` logs them again."""
        found = _cards_of(files)
        gone = {card for card in cards if len(found.get(card, {})) < 2}
        with self._lock:
            if self._found is not None:
                for card in gone:
                    self._found[card] = found.get(card, {})
        return gone

    def _find(self) -> dict[Card, dict[bool, str]]:
        """What is there; nothing where the store does not let this user look, and a card may be there twice then."""
        try:
            return _cards_of(self._client.list_artifacts(self._run_id, FOLDER))
        except Exception as error:
            if forbids_listing(error):
                return {}
            raise

    def _add_small(self, local: Path, name: str) -> None:
        """What `log_image` did not come to: the small version, named after the picture."""
        match = _FILE.fullmatch(name)
        assert match is not None
        small = name.removeprefix("images/").rpartition(".")[0] + match["mark"] + "compressed.webp"
        with tempfile.TemporaryDirectory(prefix="recon-log-") as folder, Image.open(local) as image:
            place = Path(folder, small)
            image.convert("RGB").resize(_small_size(image.size)).save(place)
            self._client.log_artifact(self._run_id, str(place), FOLDER)


def _cards_of(files: Sequence[Any]) -> dict[Card, dict[bool, str]]:
    """Per card: its files by whether they are the small version."""
    found: dict[Card, dict[bool, str]] = {}
    for file in files:
        match = _FILE.fullmatch(file.path)
        if match:
            card = Card(key=match["key"].translate(_SLASHES), step=int(match["step"]))
            found.setdefault(card, {})[match["small"] is not None] = file.path
    return found


def _small_size(size: tuple[int, int]) -> tuple[int, int]:
    width, height = (max(1, round(side * _SMALL_PX / max(size))) for side in size)
    return width, height
