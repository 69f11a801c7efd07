#!/usr/bin/env python3
"""Train a ptychography network on grid-lines data and log its reconstructions to MLflow: from Python or a shell."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ptycho_torch.checks import same_option
from ptycho_torch.cli import main, resolve
from ptycho_torch.config import DataConfig, LoggerName, PyTorchExecutionConfig, RunConfig, TrainingConfig
from ptycho_torch.recon_log_config import ReconLogConfig

if TYPE_CHECKING:
    from ptycho_torch.workflows.components import TrainingResult


@dataclass(frozen=True, kw_only=True)
class TorchRunnerConfig(ReconLogConfig):
    """Settings of one training run on a pair of grid-lines files, for studies that start it from Python.

    Each field maps to a setting of the command line; its metadata holds the name and the help text of that setting. A
    `recon_log_*` field that differs from its default switches the logging on, every 5 epochs unless
    `recon_log_every_n_epochs` is set. Settings without a field keep their defaults.

    Raises:
        ptycho_torch.checks.ConfigError: A value is not allowed, or a file does not exist.
    """

    train_npz: Path = same_option(DataConfig, "train_data_file", required=True)
    test_npz: Path | None = same_option(DataConfig, "test_data_file")
    output_dir: Path = same_option(TrainingConfig, "output_dir")
    N: int = same_option(DataConfig, "N")
    gridsize: int = same_option(DataConfig, "gridsize")
    epochs: int = same_option(TrainingConfig, "nepochs")
    batch_size: int = same_option(TrainingConfig, "batch_size")
    learning_rate: float = same_option(TrainingConfig, "learning_rate")
    seed: int = same_option(TrainingConfig, "seed")
    logger_backend: LoggerName = same_option(PyTorchExecutionConfig, "logger")

    def __post_init__(self) -> None:
        self.run_config()

    def run_config(self) -> RunConfig:
        """Return the settings of the training run, complete and checked."""
        values = {f.metadata.get("setting", f.name): (getattr(self, f.name), f.default) for f in fields(self)}
        return resolve("grid_lines", {name: value for name, (value, default) in values.items() if value != default})


def run_grid_lines_torch(config: TorchRunnerConfig) -> "TrainingResult":
    """Train with the settings of `config`; returns the Trainer, the trained model and the data.

    Raises:
        ptycho_torch.checks.ConfigError: A setting does not match this machine or the data.
        ptycho_torch.files.npz.DataError: A data file is invalid.
    """
    from ptycho_torch.workflows.components import run_training

    return run_training(config.run_config())


def run_command_line(argv: Sequence[str] | None = None) -> int:
    """Parse, check and run; returns the exit code. The fields of `TorchRunnerConfig` are flags too."""
    settings = {f.name: f.metadata.get("setting", f.name) for f in fields(TorchRunnerConfig)}
    aliases = {name: setting for name, setting in settings.items() if name != setting}
    description = "Train a ptychography network on grid-lines files (diffraction, Y_I, Y_phi)."
    return main("grid_lines", description, argv, aliases=aliases)


if __name__ == "__main__":
    sys.exit(run_command_line())
