"""Uploads artifacts to an MLflow run through any client that has MLflow's `log_artifact`."""

from pathlib import Path, PurePosixPath
from typing import Protocol


class ArtifactClient(Protocol):
    """The part of `mlflow.MlflowClient` that is used."""

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """Copy a local file to `artifact_path/<file name>` of the run."""


class MlflowSink:
    """Writes to one MLflow run.

    Args:
        client: A client that is connected to the tracking server.
        run_id: The run.
    """

    def __init__(self, client: ArtifactClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def upload(self, local: Path, name: str) -> None:
        """Upload the file `local` as the artifact `name`; blocks. The file must be called as the name ends.

        Raises:
            Exception: Whatever the client raises.
        """
        self._client.log_artifact(self._run_id, str(local), str(PurePosixPath(name).parent))
