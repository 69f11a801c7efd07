"""Trains a network from its settings: data -> model -> Trainer -> fit.

The scripts call `run_training`. Logger, callbacks and Trainer are created before data is read, so that invalid settings
fail within seconds rather than after loading a large scan.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from recon_worker.system.mlflow_environment import for_training, variable_kept

os.environ.update(for_training(os.environ))  # before importing mlflow, which starts telemetry threads
# MLflow would print the run's URI with its password; `announce_run` prints it without.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from ptycho_torch.checks import ConfigError, make_directory
from ptycho_torch.config import RunConfig
from ptycho_torch.data.datamodule import PtychoDataModule
from ptycho_torch.model.lightning_module import PtychoLightningModule
from ptycho_torch.workflows.checkpoint import Recipe, RecipeInCheckpoint, check_resumable
from ptycho_torch.workflows.ending import EndTogether
from ptycho_torch.workflows.mlflow_run import RunInCheckpoint, chosen_run_id, prepare_run
from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from ptycho_torch.workflows.terminal import EpochBar, EpochLines, announce_run, announce_training, conclude
from recon_worker.capture.errors import WrongSettingError
from recon_worker.lightning.mlflow_logger import QueuedMLFlowLogger
from recon_worker.settings import WorkerSettings, default_queue_bytes
from recon_worker.system.messages import show_messages
from recon_worker.system.standard_streams import shows_progress


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Trainer, trained model and data of a finished training."""

    trainer: Trainer
    model: PtychoLightningModule
    datamodule: PtychoDataModule


def run_training(config: RunConfig) -> TrainingResult:
    """Train with the given settings.

    Raises:
        ConfigError: A setting does not match this machine or the data.
        DataError: A data file is invalid.
    """
    show_messages("ptycho_torch")
    seed_everything(config.training.seed, workers=True, verbose=False)
    logger = make_logger(config)
    trainer = make_trainer(config, logger)
    datamodule = make_datamodule(config)
    datamodule.setup("fit")
    _check_fixed_indices(config, datamodule)
    model = _checked_model(config)
    if isinstance(logger, MLFlowLogger) and trainer.is_global_zero:
        with variable_kept("MLFLOW_TRACKING_URI"):  # connecting sets it; the next training would use it
            name = prepare_run(logger, config.as_dict(), config.as_yaml())
            announce_run(logger, name)
    announce_training(trainer, model, datamodule, config)
    _train_with_lightning(trainer, model, datamodule, config.training.resume_path)
    conclude(trainer)
    return TrainingResult(trainer=trainer, model=model, datamodule=datamodule)


def describe(config: RunConfig) -> str:
    """Check settings, machine and data without training; returns a summary of each file."""
    make_trainer(config, None)
    datamodule = make_datamodule(config)
    datamodule.setup("fit")
    _check_fixed_indices(config, datamodule)
    parameters = sum(p.numel() for p in _checked_model(config).parameters())
    lines = datamodule.train_dataset.overview().describe("train", config.data.train_data_file)
    if datamodule.test_dataset is not None:
        lines += datamodule.test_dataset.overview().describe("test", config.data.test_data_file)
    return "\n".join([*lines, f"model: {parameters} parameters", "Settings and data are valid."])


def make_logger(config: RunConfig) -> Logger | None:
    """Create the configured logger; None for "none"."""
    output_dir, execution = config.training.output_dir.absolute(), config.execution
    if execution.logger == "mlflow":
        make_directory("output_dir", output_dir)
        return QueuedMLFlowLogger(
            experiment_name=execution.mlflow_experiment,
            run_name=execution.mlflow_run_name,
            tracking_uri=config.tracking_uri,
            finish_timeout_s=execution.recon_log_flush_timeout,
            artifact_location=config.artifact_location,
            run_id=chosen_run_id(config),
        )
    if execution.logger == "csv":
        return CSVLogger(output_dir, name="csv")
    if execution.logger == "tensorboard":
        try:
            return TensorBoardLogger(output_dir, name="tensorboard")
        except ModuleNotFoundError as error:
            raise ConfigError("logger is 'tensorboard', which is not installed: pip install tensorboard.") from error
    return None


def make_trainer(config: RunConfig, logger: Logger | None) -> Trainer:
    """Create the Trainer with its callbacks. Raises ConfigError if Lightning or the machine rejects a setting."""
    training, execution = config.training, config.execution
    try:
        trainer = Trainer(
            accelerator=execution.accelerator,
            devices=int(execution.devices) if execution.devices.lstrip("-").isdigit() else execution.devices,
            num_nodes=execution.num_nodes,
            strategy=execution.strategy,
            precision=execution.precision,
            max_epochs=training.nepochs,
            check_val_every_n_epoch=training.check_val_every_n_epoch,
            limit_val_batches=None if config.data.test_data_file is not None else 0,
            logger=logger or False,
            callbacks=_callbacks(config),
            enable_progress_bar=shows_progress("stdout"),
            enable_model_summary=False,
            default_root_dir=training.output_dir.absolute(),
            log_every_n_steps=1,
        )
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"the Trainer cannot be created on this machine: {error}") from error
    if training.merge_neighbours > 1 and trainer.world_size > 1:
        raise ConfigError(
            f"merge_neighbours is {training.merge_neighbours}; it needs a single device, but there are "
            f"{trainer.world_size}, which would split each group of neighbours."
        )
    return trainer


def _callbacks(config: RunConfig) -> list[Callback]:
    monitored = "train_loss" if config.data.test_data_file is None else "val_loss"
    callbacks: list[Callback] = [
        EndTogether(),
        ModelCheckpoint(config.training.checkpoint_dir, filename="best", monitor=monitored, save_last=True),
        RecipeInCheckpoint(Recipe.of(config)),
    ]
    callbacks.append(EpochBar() if shows_progress("stdout") else EpochLines())
    if config.execution.logger == "mlflow":
        callbacks.append(RunInCheckpoint())
    if config.execution.recon_log_enabled:
        callbacks.append(make_recon_callback(config))
    return callbacks


def make_recon_callback(config: RunConfig) -> PtychoReconLoggingCallback:
    """Create the callback of the reconstruction logging. Raises ConfigError if it is off."""
    execution = config.execution
    if execution.recon_log_every_n_epochs is None:
        raise ConfigError("reconstruction logging is off: recon_log_every_n_epochs is not set.")
    return PtychoReconLoggingCallback(
        every_n_epochs=execution.recon_log_every_n_epochs,
        num_patches=execution.recon_log_num_patches,
        fixed_indices=execution.recon_log_fixed_indices,
        log_stitch=execution.recon_log_stitch,
        max_stitch_samples=execution.recon_log_max_stitch_samples,
        stitch_weight=execution.recon_log_stitch_weight,
        baseline=execution.recon_log_baseline,
        remove_ramp=config.remove_ramp,
        pixel_size_m=execution.recon_log_pixel_size,
        arrays=execution.recon_log_arrays,
        tiles_from_px=execution.recon_log_tiles_from,
        description=execution.recon_log_description,
        worker=_worker_settings(config) if execution.recon_log_async else None,
        strict=execution.recon_log_strict,
    )


def _worker_settings(config: RunConfig) -> WorkerSettings:
    execution, depth = config.execution, config.execution.recon_log_queue_depth
    gib = execution.recon_log_queue_gib
    try:
        return WorkerSettings(
            spool_dir=execution.recon_log_spool_dir or config.training.output_dir.absolute() / "recon_spool",
            depth=None if depth == "auto" else int(depth),
            overflow=execution.recon_log_overflow,
            spill_bytes=int(execution.recon_log_spill_gib * 2**30),
            queue_bytes=default_queue_bytes() if gib is None else int(gib * 2**30),
            flush_timeout_s=execution.recon_log_flush_timeout,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def make_datamodule(config: RunConfig) -> PtychoDataModule:
    """Create the datamodule; `setup` reads the files."""
    data = config.data
    return PtychoDataModule(
        train_data_file=data.train_data_file,
        test_data_file=data.test_data_file,
        kind=data.scan_kind,
        n_px=data.N,
        gridsize=data.gridsize,
        batch_size=config.training.batch_size,
        num_workers=config.execution.num_workers,
        nphotons=data.nphotons,
        probe_file=data.probe_file,
        allow_pickled_metadata=data.allow_pickled_metadata,
        model_type=config.model.model_type,
        merge_neighbours=config.training.merge_neighbours,
        seed=config.training.seed,
    )


def make_model(config: RunConfig) -> PtychoLightningModule:
    """Create the untrained model."""
    return PtychoLightningModule(
        n_px=config.data.N,
        gridsize=config.data.gridsize,
        model_type=config.model.model_type,
        loss=config.model.loss,
        probe_big=config.model.probe_big,
        n_filters_scale=config.model.n_filters_scale,
        learning_rate=config.training.learning_rate,
        warmup_steps=config.training.warmup_steps,
        lr_schedule=config.training.lr_schedule,
        merge_neighbours=config.training.merge_neighbours,
    )


def _checked_model(config: RunConfig) -> PtychoLightningModule:
    """Create the model and, with --resume, check that it matches the checkpoint."""
    model, resumed = make_model(config), config.training.resume_path
    if resumed is not None:
        check_resumable(resumed, model)
    return model


def _train_with_lightning(
    trainer: Trainer, model: PtychoLightningModule, datamodule: PtychoDataModule, resume_path: Path | None
) -> None:
    try:
        trainer.fit(model, datamodule=datamodule, ckpt_path=resume_path, weights_only=True)
    except WrongSettingError as error:  # raised before the first step
        raise ConfigError(str(error)) from error


def _check_fixed_indices(config: RunConfig, datamodule: PtychoDataModule) -> None:
    """Check that the selected patches exist in the logged dataset."""
    logged = datamodule.train_dataset if datamodule.test_dataset is None else datamodule.test_dataset
    outside = [i for i in config.execution.recon_log_fixed_indices or () if i >= len(logged)]
    if outside:
        raise ConfigError(
            f"recon_log_fixed_indices has {outside}, but the logged dataset has {len(logged)} samples; "
            f"allowed: 0 to {len(logged) - 1}."
        )
