"""Selects what to log at the start of training, on all ranks, and starts the backend on rank zero."""

from collections.abc import Callable
from dataclasses import astuple, fields
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn

from recon_worker.capture.copying import Copier
from recon_worker.capture.gathering import Ranks
from recon_worker.capture.logged_run import LoggedRun
from recon_worker.capture.plan import CapturePlan, ScanOptions, batch_indices, choose_indices
from recon_worker.client.backend import ReconBackend
from recon_worker.lightning.dataset import read_scan
from recon_worker.lightning.extra_pass import random_state_kept
from recon_worker.lightning.trainer_state import choose_data, logged_loader, set_up_validation_data
from recon_worker.snapshot.records import SnapshotLayout
from recon_worker.spool.run_target import RunTarget

_SHARDING = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)
"""Strategies that shard the network: no rank can call it alone."""


def begin_run(
    trainer: Trainer,
    module: LightningModule,
    ranks: Ranks,
    options: ScanOptions,
    *,
    every_n_epochs: int,
    backend: ReconBackend | None,
    target: Callable[[], RunTarget],
) -> LoggedRun:
    """Select the logged samples on rank zero and prepare every rank. All ranks must call this.

    If one rank fails, no rank logs.

    Args:
        trainer: Trainer, at the start of training.
        module: The network.
        ranks: Ranks of the Trainer.
        options: What to log.
        every_n_epochs: Logging interval, in epochs.
        backend: Receives the snapshots on rank zero; None on the other ranks.
        target: Returns the MLflow run; called on rank zero only.

    Raises:
        WrongSettingError: `fixed_indices` are invalid for the dataset.
        UnusableDataError: The dataset cannot be logged.
        RankFailedError: Another rank failed.
    """
    may_predict = not isinstance(trainer.strategy, _SHARDING)
    if not may_predict:
        rank_zero_warn(
            f"{type(trainer.strategy).__name__} shards the network: reconstructions are logged from what "
            "validation predicts, and neither before training nor from the training set."
        )
    with ranks.all_or_none():
        set_up_validation_data(trainer)
    chosen, length = ranks.broadcast(lambda: choose_data(trainer)).tolist()
    from_training_set = bool(chosen)
    indices = choose_indices(length, options)
    numbers = ranks.broadcast(
        lambda: astuple(_start_backend(trainer, backend, target, indices, options, length, from_training_set))
    ).tolist()
    layout = SnapshotLayout(**{field.name: n for field, n in zip(fields(SnapshotLayout), numbers, strict=True)})
    plan = CapturePlan(fixed_indices=indices, layout=layout)

    with ranks.all_or_none():
        loader = logged_loader(trainer, from_training_set=from_training_set)
        batches = [] if from_training_set else batch_indices(loader, ranks.rank, ranks.size)
        return LoggedRun(
            backend=backend,
            ranks=ranks,
            plan=plan,
            shard=plan.shard(batches, whole=ranks.rank == 0),
            copier=Copier(module.device),
            dataset=loader.dataset,  # type: ignore[attr-defined]
            from_training_set=from_training_set,
            may_predict=may_predict,
            every_n_epochs=every_n_epochs,
            first_epoch=trainer.current_epoch,
        )


def _start_backend(
    trainer: Trainer,
    backend: ReconBackend | None,
    target: Callable[[], RunTarget],
    indices: tuple[int, ...],
    options: ScanOptions,
    length: int,
    from_training_set: bool,
) -> SnapshotLayout:
    """Read the constant data of the run, start the backend with it, and return the layout of its snapshots.

    Random states are restored.
    """
    if backend is None:
        raise RuntimeError("the backend could not be launched.")
    loader: Any = logged_loader(trainer, from_training_set=from_training_set)
    reach = length
    if not from_training_set:  # `limit_val_batches` may cut the validation short
        try:
            in_loader: float = len(loader)
        except Exception:  # user code: a loader of unknown length may raise anything
            in_loader = float("inf")
        limit = trainer.num_val_batches[0]
        if limit < in_loader:
            reach = min(length, int(limit) * (getattr(loader, "batch_size", None) or 1) * trainer.world_size)
    digits = max(2, len(str(trainer.max_epochs)))
    with random_state_kept():
        scan, layout = read_scan(loader.dataset, indices, options, reach=reach, epoch_digits=digits)
    backend.start(target(), scan, layout)
    return layout
