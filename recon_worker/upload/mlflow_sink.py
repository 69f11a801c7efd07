"""Brings what waits in the outbox to an MLflow run: files as artifacts, and what `deliveries` are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from recon_worker.pictures.records import (
    DESCRIPTION_NAME,
    Card,
    Description,
    Metrics,
    card_of,
    is_file,
    is_metrics,
    merged_description,
)
from recon_worker.upload.answers import UnacceptableError, UnlistableError, check_answers_to_uploads, forbids_listing
from recon_worker.upload.image_cards import FOLDER, CardClient, ImageCards

T = TypeVar("T")

_DESCRIPTION_TAG = "mlflow.note.content"


class ArtifactClient(CardClient, Protocol):
    """The part of `mlflow.MlflowClient` that is used."""

    @property
    def tracking_uri(self) -> str:
        """Of the server."""

    def log_batch(self, run_id: str, metrics: Sequence[Any], *, synchronous: bool) -> object:
        """Log several metrics at once."""

    def get_run(self, run_id: str) -> Any:  # noqa: ANN401
        """The run, with its tags and its experiment."""

    def download_artifacts(self, run_id: str, path: str, dst_path: str | None = None) -> str:
        """Copy an artifact to a local folder; returns where it lies."""

    def set_tag(self, run_id: str, key: str, value: Any, *, synchronous: bool) -> object:  # noqa: ANN401
        """Set a tag of the run."""


class MlflowSink:
    """Writes to one MLflow run.

    Args:
        client: A client that is connected to the tracking server.
        run_id: The run.
        folder: Below which everything goes, as of a second training in the same run; empty: as it is named.
    """

    def __init__(self, client: ArtifactClient, run_id: str, folder: str = "") -> None:
        self._client = client
        self._run_id = run_id
        self._folder = folder
        self._cards = ImageCards(client, run_id)
        self._repository: Any = None
        check_answers_to_uploads()

    def upload(self, local: Path, name: str) -> None:
        """Bring the file `local` to where its `name` says; blocks. The file must be called as the name ends.

        Raises:
            UnacceptableError: The file is damaged.
            Exception: Whatever the client raises.
        """
        card = card_of(name)
        if card is not None:
            self._cards.log(local, self._own(card))
        elif is_metrics(name):
            self.log_numbers(_read(local, name, Metrics.from_json))
        elif name == DESCRIPTION_NAME:
            self._describe(_read(local, name, Description.from_json))
        else:
            self.upload_below("", local, name)

    def upload_below(self, folder: str, local: Path, name: str) -> None:
        """Like `upload`, of a file, to the artifact `folder`/`name`."""
        self._client.log_artifact(self._run_id, str(local), str(PurePosixPath(self._folder, folder, name).parent))

    def _below(self, name: str) -> str:
        return str(PurePosixPath(self._folder, name))

    def _own(self, card: Card) -> Card:
        return replace(card, key=self._below(card.key))

    def missing(self, sizes: Mapping[str, int], folder: str = "") -> set[str]:
        """Which uploaded files and cards are not there as they were sent. Lists each of their folders once; blocks.

        Numbers and the description are not looked for: the tracking server acknowledges those itself.

        Args:
            sizes: Bytes by name.
            folder: What `upload_below` got.

        Raises:
            UnlistableError: The store does not let this user look.
            Exception: Whatever the client raises.
        """
        cards = {name: self._own(card) for name in sizes if (card := card_of(name)) is not None}
        gone = self._cards.missing(self._listing(FOLDER), cards.values()) if cards else set()
        places = {name: str(PurePosixPath(self._folder, folder, name)) for name in sizes if is_file(name)}
        folders = {_parent(place) for place in places.values()}
        found = {file.path: file for one in folders for file in self._listing(one)}
        lost = {name for name, place in places.items() if not _is_whole(found.get(place), sizes[name])}
        return lost | {name for name, card in cards.items() if card in gone}

    def _listing(self, folder: str) -> list[Any]:
        """One request, where `MlflowClient.list_artifacts` makes four."""
        try:
            if self._repository is None:
                self._repository = _repository(self._client, self._run_id)
            return list(self._repository.list_artifacts(folder or None))
        except Exception as error:
            if forbids_listing(error):
                raise UnlistableError(f"{type(error).__name__}: {error}") from error
            raise

    def log_numbers(self, numbers: Metrics) -> None:
        """Log metrics of a step; blocks. Logging the same ones again changes nothing.

        Raises:
            Exception: Whatever the client raises.
        """
        from mlflow.entities import Metric

        values = numbers.values.items()
        metrics = [Metric(self._below(name), value, numbers.time_ms, numbers.step) for name, value in values]
        self._client.log_batch(self._run_id, metrics=metrics, synchronous=True)

    def _describe(self, latest: Description) -> None:
        run = self._client.get_run(self._run_id)
        before = run.data.tags.get(_DESCRIPTION_TAG, "")
        after = merged_description(before, latest, self._run_id, run.info.experiment_id, self._folder)
        if after != before:
            self._client.set_tag(self._run_id, _DESCRIPTION_TAG, after, synchronous=True)


def _repository(client: ArtifactClient, run_id: str) -> Any:  # noqa: ANN401 - an mlflow ArtifactRepository
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

    with_profile: Any = add_databricks_profile_info_to_artifact_uri
    place = with_profile(client.get_run(run_id).info.artifact_uri, client.tracking_uri)
    return get_artifact_repository(place, tracking_uri=client.tracking_uri)


def _parent(place: str) -> str:
    folder = str(PurePosixPath(place).parent)
    return "" if folder == "." else folder


def _is_whole(file: Any, size: int) -> bool:  # noqa: ANN401
    """Whether a listing has the file, with all its bytes where the store says how many there are."""
    return file is not None and file.file_size in (None, size)


def _read(local: Path, name: str, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(local.read_bytes())
    except (ValueError, KeyError, TypeError) as error:
        raise UnacceptableError(f"{name} is damaged: {error}") from error
