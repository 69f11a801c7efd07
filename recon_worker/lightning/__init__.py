"""WHEN to log: Lightning's hooks, and adapters for datasets and modules. Runs in the training process, on every rank.

callback        `PtychoReconLoggingCallback`: cadence, Lightning's hooks, failures
begin           chooses what is logged at the start of a training, on all ranks
trainer_state   reads loggers, loaders and ranks from the Trainer
dataset         reads what does not change from a dataset: patterns, labels, positions
extra_pass      predicts the samples that validation did not deliver
"""

from recon_worker.lightning.callback import PtychoReconLoggingCallback

__all__ = ["PtychoReconLoggingCallback"]
