"""Selects what to log at the start of training, on all ranks, and starts the backend on rank zero."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn

from recon_worker.capture.adapters import Adapter, adapter_for
from recon_worker.capture.announcement import announce
from recon_worker.capture.capture import Capture, Measured
from recon_worker.capture.copying import Copier
from recon_worker.capture.dataset import RunData, read_item, read_scan, start_on_rank_zero
from recon_worker.capture.errors import UnusableDataError, UnusablePredictionsError, described, wrong_spool
from recon_worker.capture.gathering import Ranks
from recon_worker.capture.logged_run import LoggedRun, claim
from recon_worker.capture.placement.unchanged import left_unchanged
from recon_worker.capture.plan import CapturePlan, Interval, Route, ScanOptions, batch_indices, choose_indices
from recon_worker.client.backend import ReconBackend
from recon_worker.lightning.extra_pass import fill_missing, predict_samples
from recon_worker.lightning.forward_watch import ForwardWatch, predicting_module, recognised
from recon_worker.lightning.trainer_state import choose_data, logged_loader, set_up_validation_data
from recon_worker.settings import WorkerSettings
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.handler_errors import raise_if_from_signal_handler
from recon_worker.system.messages import message_log

_log = message_log(__name__)
_SHARDING = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)
"""Strategies that shard the network: no rank can call it alone."""
_UNKNOWN_SAMPLES = (
    "which samples are in a validation batch is unknown. Do not shuffle them, use a plain DataLoader and batch "
    "sampler, and the same dataset in all epochs"
)


@dataclass(kw_only=True)
class TrainerRun(LoggedRun):
    """State of one rank of a Trainer between the start and the end of a logged training."""

    loader: Any
    """Loader whose batches `routes` describes."""
    dataset: Any
    """Map-style dataset of the logged samples."""
    adapter: Adapter
    module: torch.nn.Module
    """Network that predicts."""
    watch: ForwardWatch
    from_training_set: bool
    may_predict: bool
    """Whether the network can be called outside training and validation."""
    _why_extra_pass: str = ""
    """Reason why validation's predictions cannot be used; empty: none found."""
    _explained: bool = False

    def take_batch(self, batch_idx: int, outputs: object, batch: object) -> None:
        """Copy the predictions of a validation batch: those that `validation_step` returned, or that it computed.

        Predictions named `amp` and `phase` in the returned mapping are meant for logging and take precedence.
        """
        (seen, unread, changed), capture = self.watch.stop(), self.capture
        if capture is None or batch_idx >= len(capture.targets):
            self._why_extra_pass = self._why_extra_pass if self.routes else _UNKNOWN_SAMPLES
            return
        returned = recognised(self.adapter, outputs)
        use_returned = returned is not None and (isinstance(outputs, Mapping) or len(seen) != 1)
        predictions = returned if use_returned else seen[0] if len(seen) == 1 and not changed else None
        if predictions is None:
            self._why_extra_pass = self._why_none(len(seen), None if unread is outputs else unread)
            return
        if not capture.targets[batch_idx].fits(predictions):
            self._why_extra_pass = "validation predicts another number of samples than its batches should hold"
        try:
            measured = Measured(f"`{type(self.adapter).__name__}.observed`", lambda: _observed(self.adapter, batch))
            capture.add(capture.targets[batch_idx], predictions, measured)
        except UnusablePredictionsError as error:
            self._why_extra_pass = str(error).rstrip(".")

    def follow(self, loader: object) -> None:
        """Take predictions from this validation loader; Lightning may have created another one since the start."""
        if loader is not self.loader:
            self.loader, self.routes = loader, _routes(self.plan, loader, self.dataset, self.ranks)
            self.captures.clear()

    def _why_none(self, calls: int, unread: object) -> str:
        """Return why a validation batch gives no predictions."""
        name = type(self.module).__name__
        advice = "Return amp and phase in a mapping, or name a submodule called once per batch (predictions_from)"
        if self.watch.refusal:
            return f"{name} accepts no hook that sees what validation_step computes ({self.watch.refusal}). {advice}"
        if calls == 1:
            return f"validation_step changes what {name} returned in place. Change a clone. {advice}"
        if calls:
            return f"validation_step calls {name} {calls} times per batch. {advice}"
        if unread is not None:
            return f"{name} returns {described(unread)}, which {type(self.adapter).__name__} does not read"
        return f"validation_step does not call {name}, or only past the hook (its `forward`, compiled code). {advice}"

    def predict_missing(self, capture: Capture, precision: Precision) -> None:
        """Predict the samples missing from a capture in an extra pass, if possible. All ranks must call this."""
        if not self.may_predict:
            self._explain()
            return
        predict = partial(
            predict_samples,
            capture,
            dataset=self.dataset,
            adapter=self.adapter,
            module=self.module,
            precision=precision,
        )
        try:
            fill_missing(self, capture, predict)
        except UnusableDataError:  # its message gives the reason
            raise
        except Exception:
            self._explain()
            raise
        self._explain()

    def _explain(self) -> None:
        """Log, once and on rank zero, why validation's predictions are not used."""
        if self._why_extra_pass and not self._explained and self.ranks.rank == 0:
            self._explained = True
            if self.may_predict:
                _log.warning(
                    "Logged samples are predicted by an extra pass, which costs time: %s.", self._why_extra_pass
                )
            else:
                _log.warning("Logged samples are shown as not predicted: %s.", self._why_extra_pass)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the callback that define a run."""

    options: ScanOptions
    every_n_epochs: int
    completed_epochs: int
    """Epochs trained before the start; above 0 if training is resumed."""
    adapter: Adapter | None
    """None: recognised from the dataset's items."""
    predictions_from: str | None
    """Name of the submodule that predicts; None: the LightningModule."""
    reference: bool
    """Whether to log the reference at step 0, unless training is resumed."""
    worker: WorkerSettings | None
    """Settings of the backend's worker; None: it has none."""


@dataclass(frozen=True, kw_only=True)
class LoggedData:
    """The data of a Trainer from which a run is logged."""

    loader: Any
    length: int
    """Number of samples of its dataset."""
    from_training_set: bool
    indices: tuple[int, ...]
    """Samples whose patches are logged."""
    adapter: Adapter


def begin_run(
    trainer: Trainer,
    module: LightningModule,
    ranks: Ranks,
    settings: Settings,
    backend: ReconBackend | None,
    target: Callable[[], RunTarget],
) -> TrainerRun:
    """Select the logged samples on rank zero and prepare every rank. All ranks must call this.

    If one rank fails, no rank logs. `backend` is None, and `target` not called, except on rank zero.

    Raises:
        WrongSettingError: A setting is invalid for the dataset or the module.
        UnusableDataError: The dataset cannot be logged.
        RankFailedError: Another rank failed.
    """
    with ranks.all_or_none():
        predicting = predicting_module(module, settings.predictions_from)
        set_up_validation_data(trainer)
    data = _chosen(trainer, ranks, settings)
    interval = Interval(settings.every_n_epochs, settings.completed_epochs)
    layout, intensity = start_on_rank_zero(ranks, lambda: _start(trainer, data, settings, interval, backend, target))
    plan = CapturePlan(fixed_indices=data.indices, layout=layout, intensity=intensity)
    with ranks.all_or_none():
        return TrainerRun(
            backend=backend,
            ranks=ranks,
            plan=plan,
            copier=Copier(module.device),
            interval=interval,
            routes=() if data.from_training_set else _routes(plan, data.loader, data.loader.dataset, ranks),
            loader=data.loader,
            dataset=data.loader.dataset,
            adapter=data.adapter,
            module=predicting,
            watch=ForwardWatch(predicting, data.adapter),
            from_training_set=data.from_training_set,
            may_predict=_may_predict(trainer),
        )


def _chosen(trainer: Trainer, ranks: Ranks, settings: Settings) -> LoggedData:
    """Choose on rank zero what to log. All ranks must call this. Raises the same errors as `begin_run`."""
    chosen, length = ranks.broadcast(lambda: choose_data(trainer)).tolist()
    from_training_set = bool(chosen)
    indices = choose_indices(length, settings.options)
    with ranks.all_or_none():
        loader: Any = logged_loader(trainer, from_training_set=from_training_set)
        return LoggedData(
            loader=loader,
            length=length,
            from_training_set=from_training_set,
            indices=indices,
            adapter=settings.adapter or _recognised(loader.dataset),
        )


def _start(
    trainer: Trainer,
    data: LoggedData,
    settings: Settings,
    interval: Interval,
    backend: ReconBackend | None,
    target: Callable[[], RunTarget],
) -> RunData:
    """Read the constant data of a run and start the backend, on rank zero."""
    if backend is None:
        raise RuntimeError("the backend could not be launched.")
    dataset, digits = data.loader.dataset, max(2, len(str(trainer.max_epochs)))
    reach = data.length if data.from_training_set else _reach(trainer, data.loader, data.length)
    found = read_scan(dataset, data.adapter, data.indices, settings.options, reach=reach, epoch_digits=digits)
    scan = replace(found.scan, reference=settings.reference and trainer.global_step == 0)
    run = target()
    claim(run, backend)
    with wrong_spool():
        backend.start(run, scan, found.layout)
    announce(found, run, interval, trainer.max_epochs, settings.worker)
    return found


def _routes(plan: CapturePlan, loader: Any, dataset: object, ranks: Ranks) -> tuple[Route, ...]:  # noqa: ANN401
    """Return the destination of each batch of a validation loader; empty if its samples are unknown."""
    try:
        batches = batch_indices(loader, ranks.rank, ranks.size) if loader.dataset is dataset else []
    except Exception as error:  # user code
        raise_if_from_signal_handler(error)
        batches = []
    return tuple(map(plan.route, batches))


def _may_predict(trainer: Trainer) -> bool:
    """Return whether the network can be called outside training and validation; warn if not."""
    may_predict = not isinstance(trainer.strategy, _SHARDING)
    if not may_predict:
        rank_zero_warn(
            f"{type(trainer.strategy).__name__} shards the network: reconstructions are logged from what "
            "validation predicts, and neither before training nor from the training set."
        )
    return may_predict


def _observed(adapter: Adapter, batch: object) -> object:
    """Return the measured diffraction of a batch; None if the adapter has no method for it."""
    return adapter.observed(batch) if hasattr(adapter, "observed") else None


def _recognised(dataset: Any) -> Adapter:  # noqa: ANN401
    with left_unchanged(dataset):
        return adapter_for(read_item(dataset, 0), type(dataset).__name__)


def _reach(trainer: Trainer, loader: Any, length: int) -> int:  # noqa: ANN401
    """Return the number of leading samples that validation reaches; `limit_val_batches` may reduce it."""
    try:
        in_loader: float = len(loader)
    except Exception as error:  # user code: a loader of unknown length may raise anything
        raise_if_from_signal_handler(error)
        in_loader = float("inf")
    limit = trainer.num_val_batches[0]
    if limit >= in_loader:
        return length
    samplers = (getattr(loader, "batch_sampler", None), loader)
    in_batch = next(filter(None, (getattr(one, "batch_size", None) for one in samplers)), length / in_loader or 1)
    return min(length, math.ceil(limit * in_batch * trainer.world_size))
