"""Uploads artifacts to an MLflow run through any client that has MLflow's `log_artifact`."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol


class ArtifactClient(Protocol):
    """The part of `mlflow.MlflowClient` that is used."""

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """Copy a local file to `artifact_path/<file name>` of the run."""

    def log_batch(self, run_id: str, metrics: Sequence[Any]) -> object:
        """Log several metrics at once."""


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

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a step; blocks.

        Raises:
            Exception: Whatever the client raises.
        """
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(self._run_id, metrics=[Metric(k, v, now_ms, step) for k, v in values.items()])
