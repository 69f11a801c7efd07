"""Uploads to an MLflow run after a look at whether it is there, and knows when trying again does not help."""

import threading
from pathlib import Path
from typing import Any

from recon_worker.mlflow_sink import MlflowSink
from recon_worker.outbox import RunTarget
from recon_worker.uris import without_credentials

_NO_RETRY_HELPS = {"RESOURCE_DOES_NOT_EXIST", "UNAUTHENTICATED", "PERMISSION_DENIED"}


class UploadError(RuntimeError):
    """An upload failed. The message says why, without credentials."""


class RunUnusableError(RuntimeError):
    """The server answers, but artifacts cannot go to the run, and trying again does not help."""


class RunSink:
    """Uploads to a run that exists; connects with its first upload, in the thread that uploads.

    Args:
        target: The run.
    """

    def __init__(self, target: RunTarget) -> None:
        self.last_error = ""
        """Why the last failed upload failed."""
        self.unusable = threading.Event()
        """Set when it is no use to try again."""
        self._target, self._connecting = target, threading.Lock()
        self._sink: MlflowSink | None = None

    def upload(self, local: Path, name: str) -> None:
        """See `ArtifactSink`."""
        try:
            self._connected().upload(local, name)
        except Exception as error:
            self.last_error = f"{type(error).__name__}: {without_credentials(str(error))[:300]}"
            if isinstance(error, RunUnusableError) or getattr(error, "error_code", "") in _NO_RETRY_HELPS:
                self.unusable.set()
            raise UploadError(self.last_error) from None  # the original may quote the URI with its password

    def _connected(self) -> MlflowSink:
        with self._connecting:
            if self._sink is None:
                self._sink = MlflowSink(connect(self._target), self._target.run_id)
            return self._sink


def connect(target: RunTarget) -> Any:  # noqa: ANN401 - a mlflow.MlflowClient
    """A client of the server that has the run.

    Raises:
        RunUnusableError: There is no such database, or the run is deleted.
        Exception: Whatever the client raises.
    """
    import mlflow

    database = Path(target.tracking_uri.removeprefix("sqlite:///"))
    if target.tracking_uri.startswith("sqlite:///") and not database.is_file():
        raise RunUnusableError(f"there is no database {database.absolute()}.")
    client = mlflow.MlflowClient(target.tracking_uri)
    if client.get_run(target.run_id).info.lifecycle_stage == "deleted":
        raise RunUnusableError(f"run {target.run_id} is deleted. Restore it, or remove its spool.")
    return client
