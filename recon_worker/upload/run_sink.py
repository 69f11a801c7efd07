"""Uploads to one MLflow run, after a look at whether it is there, and again after each failure.

Says which failures it is no use to repeat (`RefusedError`), and keeps what a resumed training has replaced from
overwriting newer pictures.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recon_worker.pictures.records import Metrics, is_file
from recon_worker.spool.outbox import RunTarget, Version
from recon_worker.system.databases import is_sqlite, why_not_mlflows
from recon_worker.system.messages import message_log
from recon_worker.system.reasons import reason
from recon_worker.upload.answers import (
    RefusedError,
    UnacceptableError,
    UnlistableError,
    is_no_answer_of_mlflow,
    status_of,
)
from recon_worker.upload.mlflow_log import without_its_tracebacks
from recon_worker.upload.mlflow_sink import MlflowSink
from recon_worker.upload.resumes import Resume, folder_of, note_training

_log = message_log(__name__)

_REFUSALS = {"RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND", "UNAUTHENTICATED", "PERMISSION_DENIED"}
_UNACCEPTABLE_STATUS = {413, 415, 422}
"""Of the 4xx, those that are about the content: too large, of a kind or a form that is not taken."""
_TEMPORARY_STATUS = {408, 425, 429}
"""Of the 4xx, those that say: try again."""


class UploadError(RuntimeError):
    """An upload failed. The message says why, without credentials."""


class RunSink:
    """Uploads to a run that exists; connects with its first upload, in the thread that uploads.

    Args:
        target: The run.
    """

    def __init__(self, target: RunTarget) -> None:
        self.last_error = ""
        """Why the last failed upload failed."""
        self._target, self._connecting = target, threading.Lock()
        self._sink: MlflowSink | None = None
        self._resumes: Sequence[Resume] = ()
        self._lists = True

    def upload(self, local: Path, name: str) -> None:
        """See `ArtifactSink`.

        Raises:
            RefusedError: The server answers that it takes nothing, or (`UnacceptableError`) not this file.
            UploadError: Anything else; it may help to try again.
        """
        taken_unix_s = local.stat().st_mtime
        self._attempt(lambda sink: self._upload(sink, local, name, taken_unix_s))

    def missing(self, sent: Mapping[str, Version]) -> set[str]:
        """See `ArtifactSink`; where the store does not let this user look, all count as there. Raises like `upload`."""
        found = set[str]()
        self._attempt(lambda sink: found.update(self._missing(sink, sent)))
        if found:
            names = sorted(found)
            self.last_error = f"{len(names)} artifacts were acknowledged and are not there; the first: {names[0]}"
        return found

    def _missing(self, sink: MlflowSink, sent: Mapping[str, Version]) -> set[str]:
        below: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for name, (_, taken_unix_ns, size) in sent.items():
            folder = folder_of(name, taken_unix_ns / 1e9, self._resumes)
            if folder is None or is_file(name):
                below[folder or ""][name] = size
        try:
            return {name for folder, sizes in below.items() for name in sink.missing(sizes, folder)}
        except UnlistableError as error:
            if self._lists:
                self._lists = False
                warn_of_no_listing(error)
            return set()

    def log_numbers(self, numbers: Metrics) -> None:
        """Log metrics of a step; logging the same ones again changes nothing. Raises like `upload`."""
        self._attempt(lambda sink: sink.log_numbers(numbers))

    def _upload(self, sink: MlflowSink, local: Path, name: str, taken_unix_s: float) -> None:
        folder = folder_of(name, taken_unix_s, self._resumes)
        if folder is None:
            sink.upload(local, name)
        elif is_file(name):  # numbers, cards and the description of epochs that were repeated would only confuse
            sink.upload_below(folder, local, name)

    def _attempt(self, action: Callable[[MlflowSink], None]) -> None:
        try:
            with without_its_tracebacks():
                action(self._connected())
        except Exception as error:
            with self._connecting:
                self._sink = None  # the run may have been deleted: look again
            self.last_error = reason(error)
            raise _kind_of(error)(self.last_error) from None  # the original may quote the URI with its password

    def _connected(self) -> MlflowSink:
        with self._connecting:
            if self._sink is None:
                client = connect(self._target)
                part = note_training(client, self._target, _active_run(client, self._target.run_id).data.tags)
                self._resumes = part.resumes
                self._sink = MlflowSink(client, self._target.run_id, part.folder)
            return self._sink


def warn_of_no_listing(error: UnlistableError) -> None:
    """Say what "logged" means where nobody can look."""
    _log.warning(
        'The artifacts cannot be listed (%s). So "logged" means that the server has acknowledged each upload, not '
        "that somebody has seen it there.",
        reason(error),
    )


def connect(target: RunTarget) -> Any:  # noqa: ANN401 - a mlflow.MlflowClient
    """A client of the server that has the run.

    Raises:
        RefusedError: There is no such database, or it is not one of MLflow's: that would make its tables in it.
        Exception: Whatever the client raises.
    """
    import mlflow

    refusal = why_not_mlflows(target.tracking_uri) if is_sqlite(target.tracking_uri) else None
    if refusal:
        raise RefusedError(refusal)
    return mlflow.MlflowClient(target.tracking_uri)


def _active_run(client: Any, run_id: str) -> Any:  # noqa: ANN401
    run = client.get_run(run_id)
    if run.info.lifecycle_stage == "deleted":
        raise RefusedError(f"run {run_id} is deleted. Restore it, or remove its spool.")
    return run


def _kind_of(error: Exception) -> type[RuntimeError]:
    if isinstance(error, UnacceptableError) or status_of(error) in _UNACCEPTABLE_STATUS:
        return UnacceptableError
    return RefusedError if is_refusal(error) else UploadError


def is_refusal(error: BaseException) -> bool:
    """Whether the server has answered, and would answer the same again."""
    status = status_of(error)
    refused = 400 <= status < 500 and status not in _TEMPORARY_STATUS
    named = refused or isinstance(error, RefusedError) or getattr(error, "error_code", "") in _REFUSALS
    return named or is_no_answer_of_mlflow(error)
