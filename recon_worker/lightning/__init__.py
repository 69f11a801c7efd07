"""WHEN to log: Lightning's hooks, and what validation computes. Runs in the training process, on every rank.

callback          `PtychoReconLoggingCallback`: cadence, Lightning's hooks, failures
quality           `ReconQuality`: the checkpoints of the best reconstructions, early stopping
quality_settings  checks the settings of `ReconQuality`
ranking           which checkpoints to keep
checkpoint_files  checks and removes checkpoint files
begin             selects what to log at the start of training, on all ranks
trainer_state     reads loggers, loaders and ranks from the Trainer
forward_watch     observes the predictions that validation computes
extra_pass        predicts the samples missing from validation
mlflow_logger     `QueuedMLFlowLogger`: sends the training's own metrics from a background thread

The logger is imported on first use: it loads MLflow, which takes seconds.
"""

from typing import TYPE_CHECKING

from recon_worker.lightning.callback import PtychoReconLoggingCallback
from recon_worker.lightning.quality import ReconQuality

if TYPE_CHECKING:
    from recon_worker.lightning.mlflow_logger import QueuedMLFlowLogger

__all__ = ["PtychoReconLoggingCallback", "QueuedMLFlowLogger", "ReconQuality"]


def __getattr__(name: str) -> object:
    if name != "QueuedMLFlowLogger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recon_worker.lightning.mlflow_logger import QueuedMLFlowLogger

    return QueuedMLFlowLogger


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
