"""Timeouts and retries of MLflow's HTTP client in the processes of this project; variables of the user take precedence.

MLflow reads them from the environment only. The training process adds its values to its own environment, which workers
inherit; it records which ones it added, so that other processes can distinguish them from the user's.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_ADDED = "RECON_LOG_MLFLOW_DEFAULTS"
"""Names of the variables that `for_training` added."""
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_REDIRECTS = "MLFLOW_ALLOW_HTTP_REDIRECTS"
"""A redirected upload becomes a download, of a sign-in page for example, which MLflow reports as success."""
_EVERYWHERE = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", _REDIRECTS: "false"}
_TRAINING = {**_EVERYWHERE, _RETRIES: "3"}
"""An unreachable server is reported after seconds instead of four minutes."""
_UPLOADS = {**_EVERYWHERE, _RETRIES: "1"}
"""One retry, which honours Retry-After; the uploader performs all others."""


def for_training(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a training process: the given one with this project's defaults added.

    Apply it before MLflow is imported, because MLflow reads some variables then.
    """
    added = ",".join(name for name in _TRAINING if name not in environment)
    return {**_TRAINING, _ADDED: added, **environment}  # a child of a training process keeps the parent's record


def for_uploads(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that uploads: the user's variables, and defaults for all others."""
    added = environment.get(_ADDED, "").split(",")
    users = {name: value for name, value in environment.items() if name not in added or value != _TRAINING.get(name)}
    return {**_UPLOADS, **users}


@contextmanager
def variable_kept(name: str) -> Iterator[None]:
    """Restore a variable of this process's environment on exit."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
