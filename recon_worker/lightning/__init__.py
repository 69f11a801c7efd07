"""WHEN to log: Lightning's hooks, and adapters for datasets and modules. Runs in the training process, on every rank.

callback        `PtychoReconLoggingCallback`: cadence, Lightning's hooks, failures
begin           selects what to log at the start of training, on all ranks
trainer_state   reads loggers, loaders and ranks from the Trainer
dataset         reads the constant data of a run: patterns, labels, positions
extra_pass      predicts the samples missing from validation
"""

from recon_worker.lightning.callback import PtychoReconLoggingCallback

__all__ = ["PtychoReconLoggingCallback"]
