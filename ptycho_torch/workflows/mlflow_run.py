"""Selects the MLflow run to log to; resumed training continues its earlier run.

Checkpoints store their run (`RunInCheckpoint`); `chosen_run_id` reads it before the logger is created.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient
from mlflow.entities import Param, Run
from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException

from ptycho_torch.checks import ConfigError
from ptycho_torch.config import RunConfig, credentials_found
from ptycho_torch.workflows.checkpoint import read_checkpoint
from recon_worker.system.errors import reason
from recon_worker.system.messages import message_log
from recon_worker.system.uris import without_credentials

_log = message_log(__name__)

_PARAMETERS = {"model": ("model_type",), "training": ("batch_size", "learning_rate")}
"""Settings that are also parameters of the run, by section. Only a few: MLflow prints them above each card's image."""


class RunInCheckpoint(Callback):
    """Stores the id and server of the MLflow run, without credentials, in checkpoints."""

    def __init__(self) -> None:
        self._state: dict[str, str] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up the run of the MLflow logger."""
        for logger in trainer.loggers:
            if isinstance(logger, MLFlowLogger):
                uri = without_credentials(str(logger._tracking_uri))
                self._state = {"run_id": str(logger.run_id), "tracking_uri": uri}

    def state_dict(self) -> dict[str, Any]:
        """Return run id and server; empty without an MLflow logger."""
        return dict(self._state)


def chosen_run_id(config: RunConfig) -> str | None:
    """Return the id of the run to continue; None for a new run.

    Raises:
        ConfigError: The checkpoint cannot be read.
    """
    asked, path = config.execution.mlflow_run_id, config.training.resume_path
    if asked is not None:
        return None if asked == "new" else asked
    if path is None:
        return None
    named, ours = _named_by(path), without_credentials(config.tracking_uri)
    if named and named["tracking_uri"] != ours:
        _log.warning(
            "The checkpoint belongs to run %s at %s; training continues in a new run at %s.",
            named["run_id"], named["tracking_uri"], ours,
        )  # fmt: skip
    return named["run_id"] if named.get("tracking_uri") == ours else None


def _named_by(path: Path) -> dict[str, str]:
    named: dict[str, str] = read_checkpoint(path, "resume")["callbacks"].get(RunInCheckpoint.__qualname__, {})
    return named


def prepare_run(logger: MLFlowLogger, settings: dict[str, Any], settings_text: str) -> str:
    """Create or reopen the run, log the settings as tags and config.yaml, a few as parameters; return the run's name.

    In a continued run the latest training overwrites the tags and adds a file, `config_2.yaml` etc. Parameters keep
    their first values.

    Raises:
        ConfigError: The server is unreachable or rejects the run, or the run is deleted.
    """
    try:
        client, run_id = logger.experiment, str(logger.run_id)
        run = client.get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            raise ConfigError(f"MLflow run {run_id} is deleted. Restore it, or start another: --mlflow-run-id new.")
        client.update_run(run_id, status="RUNNING")
        logger.log_hyperparams(settings)
        _log_parameters(client, run, settings)
        client.log_text(run_id, settings_text, _free_name([file.path for file in client.list_artifacts(run_id)]))
        return str(run.info.run_name)
    except (MlflowException, OSError) as error:
        uri = str(logger._tracking_uri)
        raise ConfigError(
            f"MLflow at {without_credentials(uri)} cannot be used: {_reason(error, uri)}, log to a file "
            "without a server (--mlflow-tracking-uri sqlite:///<file>), or train without MLflow: --logger csv."
        ) from None  # the original may contain the URI with its password


def _log_parameters(client: MlflowClient, run: Run, settings: dict[str, Any]) -> None:
    """Log the parameters that the run does not have yet: MLflow refuses to change the others."""
    named = {name: settings[section][name] for section, names in _PARAMETERS.items() for name in names}
    params = [Param(name, str(value)) for name, value in named.items() if name not in run.data.params]
    client.log_batch(run.info.run_id, params=params, synchronous=True)


def _reason(error: Exception, uri: str) -> str:
    """Return the reason for the failure and the remedy."""
    status = ERROR_CODE_TO_HTTP_STATUS.get(error.error_code) if isinstance(error, MlflowException) else None
    if status == 401:
        found = " and ".join(credentials_found(uri)) or "none in the environment"
        return (
            f"it answers 401, not authenticated. Credentials found: {found}. Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to valid ones"
        )
    if status == 403:
        return (
            "it answers 403, this user may not write there. Request the permission EDIT on the experiment, choose "
            "another with --mlflow-experiment"
        )
    return f"{reason(error)}. Start it, correct --mlflow-tracking-uri"


def _free_name(names: list[str]) -> str:
    number = 1 + sum(name.startswith("config") and name.endswith(".yaml") for name in names)
    return "config.yaml" if number == 1 else f"config_{number}.yaml"
