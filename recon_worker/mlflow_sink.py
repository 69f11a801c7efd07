"""Uploads artifacts to an MLflow run through any client that has MLflow's `log_artifact`."""

import tempfile
from pathlib import Path, PurePosixPath
from typing import Protocol

from recon_worker.artifacts import Artifact


class ArtifactClient(Protocol):
    """The part of `mlflow.MlflowClient` that is used."""

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """Copy a local file to `artifact_path/<file name>` of the run."""


class MlflowSink:
    """Writes artifacts to one MLflow run.

    Args:
        client: A client that is connected to the tracking server.
        run_id: The run.
    """

    def __init__(self, client: ArtifactClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def upload(self, artifact: Artifact) -> None:
        """Upload one artifact; blocks. Raises what the client raises."""
        place = PurePosixPath(artifact.path)
        with tempfile.TemporaryDirectory(prefix="recon-log-") as folder:
            local = Path(folder, place.name)
            local.write_bytes(artifact.data)
            self._client.log_artifact(self._run_id, str(local), str(place.parent))
