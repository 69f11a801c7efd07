"""How patient MLflow's own client is in this project's processes, unless the user says so in the environment.

The client reads the environment only. The training process sets its values there, where its worker finds them beside
the user's; so it notes which ones are its own, for other processes too.
"""

from collections.abc import Mapping

_OURS = "RECON_LOG_MLFLOW_DEFAULTS"
"""Names of the variables that `for_training` has added."""
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_REDIRECTS = "MLFLOW_ALLOW_HTTP_REDIRECTS"
"""A redirected upload becomes a download of, say, a sign-in page, which the client takes for success."""
_EVERYWHERE = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", _REDIRECTS: "false"}
_TRAINING = {**_EVERYWHERE, _RETRIES: "3"}
"""A server that is not there costs seconds, not four minutes."""
_UPLOADS = {**_EVERYWHERE, _RETRIES: "1"}
"""Once, to wait as long as Retry-After says; the uploader does the rest."""


def for_training(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a training process: as the user has set it, and else as above. MLflow reads some at import."""
    ours = ",".join(name for name in _TRAINING if name not in environment)
    return {**_TRAINING, _OURS: ours, **environment}  # a process that a training has started keeps that one's note


def for_uploads(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that uploads: as the user has set it, and else as it should be for that."""
    ours = environment.get(_OURS, "").split(",")
    users = {name: value for name, value in environment.items() if name not in ours or value != _TRAINING.get(name)}
    return {**_UPLOADS, **users}
