"""Logs reconstructions to MLflow while a ptychography network trains: `PtychoReconLoggingCallback`.

    callback        WHEN: cadence, ranks, Lightning's hooks
    logged_run      what is held while `fit` lasts, on each rank
    capture         WHAT: predictions -> arrays of a snapshot
    copying         from the network's device into these arrays
    dataset         what does not change: patterns, labels, positions
    extra_pass      predictions that validation did not deliver
    gathering       from all ranks to rank zero
    trainer_state   what the Trainer says

Imports only torch, Lightning, numpy and recon_worker, so that the folder can be copied into other projects.
"""

from recon_worker.lightning.callback import PtychoReconLoggingCallback

__all__ = ["PtychoReconLoggingCallback"]
