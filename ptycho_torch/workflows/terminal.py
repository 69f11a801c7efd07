"""Terminal output of a training run: run and data at the start, a line per epoch in log files, results at the end.

The lines of logged epochs come from `recon_worker`.
"""

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import MLFlowLogger

from ptycho_torch.config import RunConfig
from ptycho_torch.data.datamodule import PtychoDataModule
from recon_worker.system.messages import message_log, show_messages
from recon_worker.system.uris import without_credentials

_log = message_log(__name__)

_UI_PORT = 5000
_TRAIN_LOSS, _VAL_LOSS = "train_loss", "val_loss"


class EpochBar(TQDMProgressBar):
    """Progress bar that counts epochs from 1, as all other output does, and vanishes at the end."""

    def init_train_tqdm(self) -> Tqdm:
        """Create the bar of the epochs."""
        bar = super().init_train_tqdm()
        bar.leave = False
        return bar

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:  # noqa: ANN401 - as in Lightning
        """Name the epoch."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1} of {trainer.max_epochs}")

    def get_metrics(self, *args: Any) -> dict[str, int | str | float | dict[str, float]]:  # noqa: ANN401 - as in Lightning
        """Return the losses, without `v_num`, a part of the run's ID that Lightning adds."""
        return {name: value for name, value in super().get_metrics(*args).items() if name != "v_num"}


class EpochLines(Callback):
    """Logs the losses and the duration of each epoch where no progress bar can be shown, as in a log file."""

    def __init__(self) -> None:
        self._began_s = 0.0
        self._shown = [_TRAIN_LOSS]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Show the lines in processes that Lightning starts, too."""
        show_messages("ptycho_torch")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began_s, self._shown = time.monotonic(), [_TRAIN_LOSS]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the validation loss only in the line of its epoch: Lightning keeps the value in later epochs."""
        self._shown = [_TRAIN_LOSS, _VAL_LOSS]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the line, on global rank zero. The epoch's validation is over."""
        if trainer.is_global_zero:
            took_s = time.monotonic() - self._began_s
            epoch, losses = trainer.current_epoch + 1, _losses(trainer, self._shown)
            _log.info("Epoch %d of %d: %s, %.1f s", epoch, trainer.max_epochs, losses, took_s)


def announce_run(logger: MLFlowLogger, name: str) -> None:
    """Log the name of the run, and how to open it."""
    uri = str(logger._tracking_uri)
    if not _is_server(uri):
        shown = without_credentials(uri)
        _log.info("To view this run, start: mlflow ui --backend-store-uri '%s' --port %d", shown, _UI_PORT)
    _log.info("MLflow run: %s", run_url(logger))
    _log.info("  name: %s, experiment: %s", name, logger._experiment_name)


def announce_training(
    trainer: Trainer, model: LightningModule, datamodule: PtychoDataModule, config: RunConfig
) -> None:
    """Log the last epoch, the size of the network, its device and data, and where checkpoints are saved."""
    if not trainer.is_global_zero:
        return
    data, training, test = config.data, config.training, datamodule.test_dataset
    resumed = "" if training.resume_path is None else f", continued from {training.resume_path}"
    _log.info(
        "Training: to epoch %d%s, %d parameters on %s; checkpoints: %s",
        training.nepochs,
        resumed,
        sum(parameter.numel() for parameter in model.parameters()),
        trainer.strategy.root_device,
        training.checkpoint_dir,
    )
    validation = "no validation" if test is None else f"validation on {len(test)} of {data.test_data_file}"
    _log.info("  %d samples of %s, %s", len(datamodule.train_dataset), data.train_data_file, validation)


def conclude(trainer: Trainer) -> None:
    """Log where the results are."""
    if not trainer.is_global_zero:
        return
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    _log.info(
        "Finished: %s%s", _losses(trainer, [_TRAIN_LOSS, _VAL_LOSS]), f"; best checkpoint: {best}" if best else ""
    )
    if isinstance(trainer.logger, MLFlowLogger):
        _log.info("Results: %s", run_url(trainer.logger))


def _losses(trainer: Trainer, names: Sequence[str]) -> str:
    metrics = trainer.callback_metrics
    return ", ".join(f"{name} {float(metrics[name]):.4g}" for name in names if name in metrics)


def run_url(logger: MLFlowLogger) -> str:
    """Return the URL of the run's page; for a database, the URL served by `mlflow ui`."""
    uri = str(logger._tracking_uri)
    server = without_credentials(uri).rstrip("/") if _is_server(uri) else f"http://127.0.0.1:{_UI_PORT}"
    return f"{server}/#/experiments/{logger.experiment_id}/runs/{logger.run_id}?workflowType=machine_learning"


def _is_server(tracking_uri: str) -> bool:
    return urlsplit(tracking_uri).scheme in ("http", "https")
