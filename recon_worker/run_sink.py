"""Uploads to one MLflow run, after a look at whether it is there, and again after each failure.

Says which failures it is no use to repeat (`RefusedError`), and keeps what a resumed training has replaced from
overwriting newer pictures.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recon_worker.databases import is_sqlite, why_not_mlflows
from recon_worker.deliveries import Numbers, is_file
from recon_worker.mlflow_sink import MlflowSink
from recon_worker.outbox import RunTarget
from recon_worker.resumes import Resume, folder_of, note_resume
from recon_worker.uploader import RefusedError, UnacceptableError
from recon_worker.uris import without_credentials

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
        self._resumes: list[Resume] = []

    def upload(self, local: Path, name: str) -> None:
        """See `ArtifactSink`.

        Raises:
            RefusedError: The server answers that it takes nothing, or (`UnacceptableError`) not this file.
            UploadError: Anything else; it may help to try again.
        """
        taken_unix_s = local.stat().st_mtime
        self._attempt(lambda sink: self._upload(sink, local, name, taken_unix_s))

    def log_numbers(self, numbers: Numbers) -> None:
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
            action(self._connected())
        except Exception as error:
            with self._connecting:
                self._sink = None  # the run may have been deleted: look again
            self.last_error = f"{type(error).__name__}: {without_credentials(str(error))[:300]}"
            raise _kind_of(error)(self.last_error) from None  # the original may quote the URI with its password

    def _connected(self) -> MlflowSink:
        with self._connecting:
            if self._sink is None:
                client = connect(self._target)
                self._resumes = note_resume(client, self._target, _active_run(client, self._target.run_id).data.tags)
                self._sink = MlflowSink(client, self._target.run_id)
            return self._sink


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
    if isinstance(error, UnacceptableError) or _status(error) in _UNACCEPTABLE_STATUS:
        return UnacceptableError
    return RefusedError if is_refusal(error) else UploadError


def _status(error: BaseException) -> int:
    return getattr(getattr(error, "response", None), "status_code", 0)


def is_refusal(error: BaseException) -> bool:
    """Whether the server has answered, and would answer the same again."""
    status = _status(error)
    refused = 400 <= status < 500 and status not in _TEMPORARY_STATUS
    return refused or isinstance(error, RefusedError) or getattr(error, "error_code", "") in _REFUSALS
