"""Writes artifacts and records of a training run to its MLflow run.

    epoch_05/..., recon_log/...   -> log_artifact, below `fit_2/` or `before_resume_1/` if needed (`resume`)
    cards/...                     -> log_image (`image_cards`)
    metrics/...                   -> log_batch; alerts: the tag `recon_log.alert`
    description/...               -> the run's description

Repeated uploads create no duplicates.
"""

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from recon_worker.pictures.records import Card, Description, Metrics, card_of, is_file, is_metrics, merged_description
from recon_worker.snapshot.artifact import TILES
from recon_worker.spool.outbox import Version
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.errors import reason
from recon_worker.system.handler_errors import raise_if_from_signal_handler
from recon_worker.system.messages import message_log
from recon_worker.upload.errors import RefusedError, UnacceptableError, error_type, forbids_listing
from recon_worker.upload.image_cards import FOLDER, ImageCards
from recon_worker.upload.mlflow_client import artifact_store, connect, without_mlflow_tracebacks
from recon_worker.upload.resume import Resume, folder_of, note_training

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

_log = message_log(__name__)
_DESCRIPTION_TAG = "mlflow.note.content"
_ALERT_TAG = "recon_log.alert"


@dataclass(frozen=True)
class _Connection:
    """State of the run, read again after each failure."""

    client: "MlflowClient"
    run: "Run"
    cards: ImageCards
    folder: str
    """Folder of this training's artifacts; empty: the run's top level."""
    resumes: Sequence[Resume]

    @cached_property
    def repository(self) -> "ArtifactRepository":
        """The artifact store, created on demand: metrics can be logged without it."""
        return artifact_store(self.client, self.run)


class MlflowSink:
    """Writes to an existing MLflow run. Thread-safe.

    Connects on the first request, and again after each failure, because the run may have been deleted meanwhile.

    Args:
        target: The run.
        connect: Creates the client.
        run_request: Executes each request, possibly in another thread, and returns when it is done.
    """

    def __init__(
        self,
        target: RunTarget,
        connect: Callable[[RunTarget], "MlflowClient"] = connect,
        run_request: Callable[[Callable[[], None]], None] = lambda request: request(),
    ) -> None:
        self.last_error = ""
        """Reason for the last failure."""
        self._target, self._connect, self._run_request = target, connect, run_request
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._warned_of_no_listing = False

    def upload(self, local: Path, name: str) -> None:
        """Upload an artifact or a record. Blocks.

        Args:
            local: The file, with the base name of `name` and the modification time of its snapshot.
            name: Name in the outbox, which defines whether it is a file or a record (`pictures.records`).

        Raises:
            RefusedError: The server refuses uploads, or (`UnacceptableError`) this file, which may be damaged.
            UploadError: Any other failure; may be temporary.
        """
        taken_unix_s = local.stat().st_mtime
        self._request(lambda connection: _upload(connection, local, name, taken_unix_s))

    def missing(self, sent: Mapping[str, Version]) -> set[str]:
        """Return the uploaded files and image cards that are missing or incomplete in the run. Blocks.

        Lists each folder once. Metrics and the description are not checked, as the tracking server itself acknowledges
        them. If the store forbids listing, nothing counts as missing; this is logged once. Raises like `upload`.

        Args:
            sent: Uploaded versions by name.
        """
        found = set[str]()
        self._request(lambda connection: found.update(self._missing(connection, sent)))
        if found:
            self.last_error = f"{len(found)} artifacts were acknowledged but are missing; the first: {min(found)}"
        return found

    def log_numbers(self, numbers: Metrics) -> None:
        """Log metrics of a step. Blocks. Raises the same errors as `upload`."""
        self._request(lambda connection: _log_numbers(connection, numbers))

    def _request(self, action: Callable[[_Connection], None]) -> None:
        def request() -> None:
            with without_mlflow_tracebacks():
                action(self._connected())

        try:
            self._run_request(request)
        except Exception as error:
            with self._lock:
                self._connection = None
            raise_if_from_signal_handler(error)  # without a worker
            self.last_error = reason(error)
            raise error_type(error)(self.last_error) from None  # the original may quote the URI with its password

    def _connected(self) -> _Connection:
        with self._lock:
            if self._connection is None:
                run_id, client = self._target.run_id, self._connect(self._target)
                run = client.get_run(run_id)
                if run.info.lifecycle_stage == "deleted":
                    raise RefusedError(f"run {run_id} is deleted. Restore it, or remove its spool.")
                folder, resumes = note_training(client, self._target, run.data.tags)
                self._connection = _Connection(client, run, ImageCards(client, run_id), folder, resumes)
            return self._connection

    def _missing(self, connection: _Connection, sent: Mapping[str, Version]) -> set[str]:
        files, cards = dict[str, str](), dict[str, Card]()
        for name, (_, taken_unix_ns, _) in sent.items():
            replaced = folder_of(name, taken_unix_ns / 1e9, connection.resumes)
            if is_file(name):
                files[name] = str(PurePosixPath(connection.folder, replaced or "", name))
            elif replaced is None and (card := _card(connection, name)) is not None:
                cards[name] = card
        if not (files or cards):
            return set()
        try:
            listing = connection.repository.list_artifacts
            missing_cards = connection.cards.missing(listing(FOLDER), cards.values()) if cards else set()
            folders = {str(PurePosixPath(path).parent) for path in files.values()}
            listed = {file.path: file.file_size for folder in folders for file in listing(folder)}
        except Exception as error:
            if not forbids_listing(error):
                raise
            if not self._warned_of_no_listing:
                self._warned_of_no_listing = True
                _log.warning(
                    'The artifacts cannot be listed (%s). So "logged" means that the server has acknowledged each '
                    "upload, not that the artifact was seen in the run.",
                    reason(error),
                )
            return set()
        absent = -1  # None: the store does not report sizes
        lost = {name for name, path in files.items() if listed.get(path, absent) not in (None, sent[name][2])}
        return lost | {name for name, card in cards.items() if card in missing_cards}


def _upload(connection: _Connection, local: Path, name: str, taken_unix_s: float) -> None:
    run_id, replaced = connection.run.info.run_id, folder_of(name, taken_unix_s, connection.resumes)
    if is_file(name):
        folder = PurePosixPath(connection.folder, replaced or "", name).parent
        with _as_uploaded(local, name, "" if replaced else str(PurePosixPath(run_id, connection.folder))) as file:
            connection.client.log_artifact(run_id, str(file), str(folder))
    elif replaced is not None:
        pass  # records of epochs repeated since then would mislead
    elif (card := _card(connection, name)) is not None:
        connection.cards.log(local, card)
    else:
        data = local.read_bytes()
        try:
            record = Metrics.from_json(data) if is_metrics(name) else Description.from_json(data)
        except (ValueError, KeyError, TypeError) as error:
            raise UnacceptableError(f"{name} is damaged: {error}") from error
        if isinstance(record, Metrics):
            _log_numbers(connection, record)
        else:
            run = connection.client.get_run(run_id)
            before = run.data.tags.get(_DESCRIPTION_TAG, "")
            after = merged_description(before, record, run_id, run.info.experiment_id, connection.folder)
            if after != before:
                connection.client.set_tag(run_id, _DESCRIPTION_TAG, after, synchronous=True)


@contextlib.contextmanager
def _as_uploaded(local: Path, name: str, address: str) -> Iterator[Path]:
    """Yield the file to upload: `local`, or a copy of the viewer of tiles that names the address of its artifacts."""
    if name != f"recon_log/{TILES}" or not address:
        yield local
        return
    from recon_worker.pictures.tiles.page import addressed

    with tempfile.TemporaryDirectory(prefix="recon-log-") as folder:
        copy = Path(folder, local.name)
        copy.write_bytes(addressed(local.read_bytes(), address))
        yield copy


def _card(connection: _Connection, name: str) -> Card | None:
    """Return the image card of a record, in this training's folder; None if it has none."""
    card = card_of(name)
    return card and card._replace(key=str(PurePosixPath(connection.folder, card.key)))


def _log_numbers(connection: _Connection, numbers: Metrics) -> None:
    from mlflow.entities import Metric, RunTag

    values = {str(PurePosixPath(connection.folder, name)): value for name, value in numbers.values.items()}
    metrics = [Metric(name, value, numbers.time_ms, numbers.step) for name, value in values.items()]
    key = ".".join(filter(None, [_ALERT_TAG, connection.folder]))
    tags = [RunTag(key, numbers.alerts)] if numbers.alerts else []
    connection.client.log_batch(connection.run.info.run_id, metrics=metrics, tags=tags, synchronous=True)
