"""`ReconQuality`: keeps the checkpoints of the best reconstructions, by the metrics that the worker computes.

    on_train_start                        find the logging callback's run
    on_validation_end, on_train_epoch_end if an epoch was logged: save its checkpoint, prune, decide on early stopping
    on_train_end                          the same for the last epoch; after the flush: prune, name the best
    on_exception, teardown                after the flush: prune, name the best

A checkpoint is saved when its epoch is logged, before its metrics are known, and kept until they arrive. All ranks save
(Lightning's checkpoints are collective) and follow the decision of global rank zero to stop. Only rank zero knows the
metrics, and removes files.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from recon_worker.capture.errors import WrongSettingError
from recon_worker.client.backend import ReconBackend
from recon_worker.client.ledger import quality_text
from recon_worker.lightning.begin import TrainerRun
from recon_worker.lightning.checkpoint_files import exists, forget_missing, remove, why_unusable
from recon_worker.lightning.quality_settings import (
    check_local,
    default_folder,
    default_root,
    logging_callback,
    lower_is_better,
)
from recon_worker.lightning.ranking import Ranking
from recon_worker.pictures.labels import metric_label
from recon_worker.system.arguments import check_arguments
from recon_worker.system.messages import message_log

_log = message_log(__name__)


class ReconQuality(Checkpoint):
    """Keeps the checkpoints of the best reconstructions, and can stop training when they no longer improve.

    Use it beside a `PtychoReconLoggingCallback`, in any order. Checkpoints are named after their epoch, counted from 1
    as in the logs: `recon-epoch=008.ckpt`. Which ones remain does not depend on how late the metrics arrive.

    Args:
        monitor: Metric by its name in MLflow, such as recon/stitched/phase_ssim, recon/stitched/frc_resolution_half_px
            or recon/patches/r_factor. Whether higher or lower is better follows from the name.
        save_top_k: Number of checkpoints to keep; -1: all; 0: none.
        dirpath: Folder of the checkpoints; None: that of Lightning's `ModelCheckpoint`, below the MLflow run.
        patience: Stop training after this number of logged epochs without a better reconstruction; None: never.
        deterministic: For `patience`, wait at each logged epoch for its metrics, at most the flush timeout. By default
            only metrics that have arrived count, so that a slow worker delays the end of training.

    Raises:
        ValueError: A setting is out of range, the metric is unknown or, at the start of `fit`, is not logged, or the
            folder is not on this machine or is that of another `ReconQuality`.
    """

    def __init__(
        self,
        monitor: str = "recon/stitched/phase_ssim",
        save_top_k: int = 1,
        dirpath: Path | None = None,
        *,
        patience: int | None = None,
        deterministic: bool = False,
    ) -> None:
        check_arguments(ReconQuality.__init__, locals())
        if save_top_k < -1:
            raise ValueError(f"save_top_k is {save_top_k}; it must be at least 1, 0 for none, or -1 for all.")
        if patience is not None and patience < 1:
            raise ValueError(f"patience is {patience}; it must be at least 1, or None.")
        if deterministic and patience is None:
            raise ValueError("deterministic is True, but only early stopping waits for metrics; set patience as well.")
        check_local("dirpath", dirpath)
        self.monitor, self.save_top_k = monitor, save_top_k
        self._state_key = f"ReconQuality[monitor={monitor}, dirpath={dirpath}]"
        self.dirpath = None if dirpath is None else Path(dirpath).expanduser().absolute()
        self.patience, self.deterministic = patience, deterministic
        self.best_model_path = ""
        """Checkpoint of the best reconstruction, known when training has ended; empty: none."""
        self.best_model_score: float | None = None
        """Its metric; None: unknown, and the checkpoint is that of the last reconstruction."""
        self._lower_is_better = lower_is_better(monitor)
        self._ranking = self._new_ranking()
        self._run: TrainerRun | None = None
        self._backend: ReconBackend | None = None
        self._flush_timeout_s = 0.0
        self._folder = ""
        self._earlier: frozenset[int] = frozenset()  # epochs of the run that this one continues
        self._last = 0  # epoch whose checkpoint was saved last
        self._stage, self._warned = "fit", False

    def _new_ranking(self) -> Ranking:
        return Ranking(lower_is_better=self._lower_is_better, save_top_k=self.save_top_k)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the run and the backend, which stay in their process."""
        return {**self.__dict__, "_run": None, "_backend": None}

    @property
    def state_key(self) -> str:
        """Return the name of the state in a checkpoint, by which Lightning distinguishes several `ReconQuality`."""
        return self._state_key

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoint state: checkpoints and metrics so far, including those of the epoch just logged."""
        self._register()
        self._collect()
        return {"paths": dict(self._ranking.paths), "numbers": dict(self._ranking.numbers)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state from a checkpoint."""
        if self._stage != "fit":
            return  # the checkpoint is only validated or tested
        self._ranking = self._new_ranking()
        self._ranking.paths |= state_dict["paths"]
        self._ranking.numbers |= state_dict["numbers"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check, before training, that the metric will be logged and the checkpoints have a local folder."""
        self._stage = stage
        if stage == "fit":
            self._folder = ""
            logging_callback(trainer, self.monitor)
            if self.dirpath is None and self.save_top_k:
                check_local("The folder of the logger or Trainer", default_root(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the run that the logging callback has begun, and the checkpoints of the run that it continues."""
        logging = logging_callback(trainer, self.monitor)
        saves = logging._run is not None and self.save_top_k != 0
        folder = self.dirpath or default_folder(trainer)
        problem = why_unusable(folder) if saves and trainer.is_global_zero else ""
        self._folder, problem = trainer.strategy.broadcast((str(folder), problem))
        if problem:
            raise WrongSettingError(f"ReconQuality cannot save checkpoints in {self._folder}: {problem}.")
        self._check_folder(trainer)
        self._run, self._backend = logging._run, logging._backend
        self._flush_timeout_s = 0.0 if logging.worker is None else logging.worker.flush_timeout_s
        self._last, self.best_model_path, self.best_model_score = 0, "", None
        if trainer.global_step == 0:
            self._ranking = self._new_ranking()
            if saves and trainer.is_global_zero and (found := sorted(Path(self._folder).glob("recon-epoch=*.ckpt"))):
                _log.warning(
                    "Checkpoints of the same epochs will be replaced in %s: %s, ...", self._folder, found[0].name
                )
        paths = self._ranking.paths
        self._earlier = frozenset(paths)
        if trainer.is_global_zero:
            paths |= {epoch: "" for epoch, path in paths.items() if not exists(path)}  # removed since then

    def _check_folder(self, trainer: Trainer) -> None:
        """Raise WrongSettingError if another `ReconQuality` saves its checkpoints in the same folder."""
        folder = os.path.realpath(self._folder)
        for other in trainer.callbacks:  # type: ignore[attr-defined] # set by Lightning
            if other is self or not isinstance(other, ReconQuality) or not (other._folder and other.save_top_k):
                continue
            if self.save_top_k and os.path.realpath(other._folder) == folder:
                raise WrongSettingError(
                    f"Two ReconQuality, which monitor {other.monitor} and {self.monitor}, would remove each other's "
                    f"checkpoints in {folder}; give each a dirpath of its own."
                )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the checkpoint of the epoch just logged, if any."""
        self._after_logging(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the checkpoint of the epoch just logged from the training set, if any."""
        self._after_logging(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the checkpoint of the last epoch, if not yet saved, and name the best."""
        self._save(trainer)
        self._finish(trainer)
        best = (self.best_model_path, self.best_model_score)
        self.best_model_path, self.best_model_score = trainer.strategy.broadcast(best)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Prune the checkpoints, and name the best."""
        self._finish(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prune the checkpoints, and name the best."""
        if stage == "fit":
            self._finish(trainer)

    def _after_logging(self, trainer: Trainer) -> None:
        """Save the checkpoint of an epoch logged since the last call, and decide on early stopping."""
        if not self._save(trainer):
            return
        stop = False
        if trainer.is_global_zero:
            self._await_metrics()
            self._prune(trainer)
            stop = self.patience is not None and self._ranking.stagnates(self.patience)
            if stop:
                _log.info("Training stops: no better reconstruction in %d logged epochs.", self.patience)
        if self.patience is not None and trainer.strategy.broadcast(stop):
            trainer.should_stop = True

    def _register(self) -> bool:
        """Record the path of the epoch just logged. Returns whether one was logged since `_last`."""
        if self._run is None or self._run.interval.last_logged <= self._last:
            return False
        epoch = self._run.interval.last_logged
        name = f"recon-epoch={epoch:03d}.ckpt"
        self._ranking.paths[epoch] = str(Path(self._folder, name)) if self.save_top_k else ""
        self._ranking.numbers.pop(epoch, None)
        return True

    def _save(self, trainer: Trainer) -> bool:
        """Save the checkpoint of an epoch logged since the last call; returns whether one was. All ranks call this."""
        if not self._register():
            return False
        assert self._run is not None
        epoch = self._run.interval.last_logged
        if path := self._ranking.paths[epoch]:
            trainer.save_checkpoint(path, weights_only=False)
        self._last = epoch  # set only now: a checkpoint that cannot be saved must not replace another
        return True

    def _await_metrics(self) -> None:
        """With `deterministic`, wait for the metrics of the epoch just logged."""
        backend, wait_s = self._backend, self._flush_timeout_s
        if self.deterministic and backend is not None and not backend.settled(self._last, wait_s):
            text = "The metrics of epoch %d have not arrived within %.0f s: training continues without them."
            _log.warning(text, self._last, wait_s)

    def _collect(self) -> None:
        """Record the numbers that have arrived."""
        if self._backend is None:
            return
        ranking, arrived = self._ranking, self._backend.stats.metrics.copy()
        for epoch in ranking.without_number:
            if epoch in arrived:
                ranking.numbers[epoch] = arrived[epoch].get(self.monitor, math.nan)
                self._explain(epoch, arrived[epoch])

    def _explain(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Warn, once, that the metric is undefined, and list the others."""
        if self.monitor in metrics or self._warned or self._ranking.best is not None:
            return
        self._warned = True
        others = ", ".join(sorted(name for name in metrics if metric_label(name.rpartition("/")[2]).better))
        _log.warning("Epoch %d has no %s, by which ReconQuality ranks. It has: %s.", epoch, self.monitor, others)

    def _awaits(self, epoch: int) -> bool:
        """Return whether the metrics of an epoch may still arrive, possibly after training, by `recon-worker sync`."""
        return epoch in self._earlier or (self._backend is not None and self._backend.awaits(epoch))

    def _prune(self, trainer: Trainer, *, at_end: bool = False) -> None:
        """Remove the checkpoints that are not among the best, except those whose metrics may still arrive."""
        # Before `_collect`: what arrives in between is pruned next time.
        awaited = set(filter(self._awaits, self._ranking.without_number))
        self._collect()
        paths, folder = self._ranking.paths, os.path.realpath(self._folder)
        if not forget_missing(paths, trainer, at_end=at_end):
            return
        for epoch in self._ranking.surplus(awaited):
            path, paths[epoch] = paths[epoch], ""
            remove(path, folder, trainer)

    def _finish(self, trainer: Trainer) -> None:
        """After the flush: prune the checkpoints and name the best, once."""
        run, ranking = self._run, self._ranking
        if run is not None and run.interval.last_logged > self._last:  # registered, but its checkpoint is not saved
            ranking.paths.pop(run.interval.last_logged, None)
            ranking.numbers.pop(run.interval.last_logged, None)
        if run is not None and trainer.is_global_zero and ranking.paths:
            self._prune(trainer, at_end=True)
            self._announce()
        self._run = self._backend = None

    def _announce(self) -> None:
        """Set the best checkpoint. Log one line about it, and one about reconstructions whose metrics are missing."""
        ranking, paths, missing = self._ranking, self._ranking.paths, self._ranking.without_number
        best, last = ranking.best, max(self._ranking.paths)
        self.best_model_path = paths[last if best is None else best]
        checkpoint = f", checkpoint {self.best_model_path}" if self.best_model_path else ""
        if best is None:
            _log.warning("No reconstruction has a %s; the last one is epoch %d%s", self.monitor, last, checkpoint)
        else:
            self.best_model_score = ranking.numbers[best]
            text = quality_text(self.monitor, self.best_model_score)
            _log.info("Best reconstruction: epoch %d (%s)%s", best, text, checkpoint)
        if missing:
            kept = ", ".join(Path(paths[epoch]).name for epoch in missing if paths[epoch])
            kept = kept and f" Kept as well, in {self._folder}: {kept}."
            sync = " `recon-worker sync` logs the metrics in the spool." if any(map(self._awaits, missing)) else ""
            text = "The metrics of %d of %d reconstructions have not arrived; the last of them is epoch %d.%s%s"
            _log.warning(text, len(missing), len(paths), missing[-1], kept, sync)
