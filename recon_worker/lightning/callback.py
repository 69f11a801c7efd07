"""WHEN reconstructions are logged: `PtychoReconLoggingCallback`, a Lightning callback.

    setup                     launch the worker, which imports while the data is read
    on_train_start            hand over what does not change (labels, diffraction, positions); log the untrained network
    on_validation_start       is an epoch due? then take arrays from the backend
    on_validation_batch_end   copy the predictions that validation computed anyway
    on_validation_end         gather the ranks' predictions, fill in what validation did not deliver, submit
    on_train_epoch_end        the same without a validation set, from the training set
    on_train_end              log the last epoch if it was not, flush
    on_exception, teardown    flush

Every rank captures what it predicts; only global rank zero has a backend. All ranks come to the same hooks at the same
epochs, and so into the same collectives, whether or not something of the logging has failed on one of them. Nothing
that goes wrong in here reaches `fit`, unless `strict`; wrong settings do, before the first step.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, fields, replace
from importlib.util import find_spec
from typing import Any, Concatenate, ParamSpec, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from recon_worker.capture.capture import CapturePlan, WrongSettingError, batch_indices, choose_indices
from recon_worker.capture.copying import copier_for
from recon_worker.capture.gathering import Ranks
from recon_worker.client.backend import ReconBackend
from recon_worker.client.inline_backend import InlineBackend
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.lightning.dataset import UnusableDataError, dataset_length, read_scan
from recon_worker.lightning.extra_pass import Precision, fill_missing, random_state_kept
from recon_worker.lightning.logged_run import LoggedRun
from recon_worker.lightning.trainer_state import (
    choose_data,
    completed_epochs,
    logged_loader,
    mlflow_logger,
    set_up_validation_data,
    validation_reach,
)
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.choices import ArraysFormat, StitchWeight
from recon_worker.snapshot.records import Snapshot, SnapshotLayout
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.databases import as_opened_by
from recon_worker.system.messages import message_log

_log = message_log(__name__)

_INLINE_CLOSE_S = 0.0
"""Nothing is ever left over inline."""
_SHARDING = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)
"""With these no rank can call the network by itself: each has a part of it."""

P = ParamSpec("P")


def _guarded(
    hook: Callable[Concatenate["PtychoReconLoggingCallback", P], None],
) -> Callable[Concatenate["PtychoReconLoggingCallback", P], None]:
    """Keep exceptions of the logging away from the training: count them and warn once, unless `strict`."""

    name = getattr(hook, "__name__", "a hook")

    @functools.wraps(hook)
    def wrapper(self: "PtychoReconLoggingCallback", *args: P.args, **kwargs: P.kwargs) -> None:
        self._hook_started_s = time.perf_counter()
        try:
            hook(self, *args, **kwargs)
        except WrongSettingError:
            raise
        except Exception as error:  # whatever fails here must not cost the training
            if self.strict:
                raise
            self.errors += 1
            if self.errors == 1:
                self._warn(name, error)
        finally:
            self._stall_s += time.perf_counter() - self._hook_started_s

    return wrapper  # type: ignore[return-value]  # functools.wraps hides that the signature is the hook's


class PtychoReconLoggingCallback(Callback):
    """Logs reconstructions to MLflow while a ptychography network trains.

    Args:
        every_n_epochs: Log after every this many epochs, counted from 1, and after the last one.
        num_patches: Number of fixed sample patches, spread evenly over the dataset.
        fixed_indices: Dataset indices of the patches, instead of an even spread.
        log_stitch: Whether the whole object is stitched and logged too.
        max_stitch_samples: Stitch only the first this many samples; None: all.
        stitch_weight: Average overlapping patches by the probe's intensity ("probe") or equally ("uniform").
        baseline: Log the untrained network too, as epoch 0: one extra pass over the logged samples before the first
            step. MLflow's image cards are blank until the slider is moved without a picture at step 0.
        remove_ramp: Take a linear phase ramp out of the stitched object before it is compared with the truth. False for
            a supervised network, which learns the true phase.
        pixel_size_m: Side of an object pixel, metres; None: not known.
        arrays: Log the stitched object as numbers too: "npz", "h5" (HDF5 in CXI's conventions) or "none".
        description: Show the latest summary in the run's description. Text of the user's own there is kept.
        worker: Queue of the separate process that stitches, renders and uploads; None: all of that happens at once, on
            the training thread.
        strict: Raise when logging fails. By default it warns once, counts in `errors`, and the training goes on.

    Raises:
        ValueError: A setting is out of its range; at the start of `fit`, `fixed_indices` do not fit the dataset.
    """

    def __init__(
        self,
        every_n_epochs: int = 5,
        num_patches: int = 4,
        fixed_indices: tuple[int, ...] | list[int] | None = None,
        log_stitch: bool = False,
        max_stitch_samples: int | None = None,
        *,
        stitch_weight: StitchWeight = "probe",
        baseline: bool = True,
        remove_ramp: bool = True,
        pixel_size_m: float | None = None,
        arrays: ArraysFormat = "none",
        description: bool = False,
        worker: WorkerSettings | None = None,
        strict: bool = False,
    ) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs is {every_n_epochs}; it must be at least 1.")
        if num_patches < 0:
            raise ValueError(f"num_patches is {num_patches}; it must be at least 0.")
        if max_stitch_samples is not None and max_stitch_samples < 1:
            raise ValueError(f"max_stitch_samples is {max_stitch_samples}; it must be at least 1, or None for all.")
        _check_pictures(pixel_size_m, arrays, log_stitch)
        self.every_n_epochs = every_n_epochs
        self.num_patches = num_patches
        self.fixed_indices = fixed_indices
        self.log_stitch = log_stitch
        self.max_stitch_samples = max_stitch_samples
        self.stitch_weight: StitchWeight = stitch_weight
        self.baseline = baseline
        self.remove_ramp = remove_ramp
        self.pixel_size_m = pixel_size_m
        self.arrays: ArraysFormat = arrays
        self.description = description
        self.worker = worker
        self.strict = strict
        self.errors = 0
        self._backend: ReconBackend | None = None
        self._run: LoggedRun | None = None
        self._run_id: str | None = None
        self._fit_unix_s = 0.0  # when the training that goes on here from nothing began to log
        self._earlier_run_id: str | None = None
        self._earlier_fit_unix_s = 0.0
        self._hook_started_s = 0.0
        self._stall_s = 0.0  # time on the training thread since the last snapshot was submitted

    def _warn(self, hook: str, error: Exception) -> None:
        cost = "No reconstructions are logged" if self._run is None else "A reconstruction is not logged"
        if isinstance(error, UnusableDataError):
            _log.warning("%s: %s The training goes on.", cost, error)
        else:
            _log.warning("Reconstruction logging failed in %s; training goes on.", hook, exc_info=error)

    def __getstate__(self) -> dict[str, Any]:
        """Settings only: a running backend stays in its process."""
        return {**self.__dict__, "_run": None, "_backend": None}

    def state_dict(self) -> dict[str, Any]:
        """Goes into checkpoints: a resumed training keeps the colour ranges and the gallery of the run it continues."""
        return {"run_id": self._run_id, "fit_unix_s": self._fit_unix_s} if self._run_id is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`. What somebody else has put there counts as absent."""
        state = state_dict if isinstance(state_dict, Mapping) else {}
        run_id, fit_unix_s = state.get("run_id"), state.get("fit_unix_s")
        self._earlier_run_id = run_id if isinstance(run_id, str) else None
        self._earlier_fit_unix_s = fit_unix_s if isinstance(fit_unix_s, float) else 0.0

    @_guarded
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Launch the backend on the rank that logs; does not wait for it."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        self._finish()
        self._earlier_run_id, self._earlier_fit_unix_s = None, 0.0
        logger = mlflow_logger(trainer)
        if logger is None:
            _log.warning("No reconstructions are logged: the Trainer has no MLFlowLogger.")
            return
        self._backend = InlineBackend() if self.worker is None else ReconWorker(self.worker)
        self._backend.launch()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the samples and start the backend. Wrong indices raise here, before the first step."""
        self._start(trainer, pl_module)
        if self.baseline and trainer.global_step == 0:
            self._log_baseline(trainer, pl_module)

    @_guarded
    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if mlflow_logger(trainer) is None:
            return
        ranks = Ranks.of(trainer)
        try:
            self._run = self._begin(trainer, pl_module, ranks)
        except BaseException:
            ranks.close()
            raise

    def _begin(self, trainer: Trainer, pl_module: LightningModule, ranks: Ranks) -> LoggedRun:
        """Rank zero chooses what is logged; a rank that cannot follow says so, and then none logs."""
        may_predict = not isinstance(trainer.strategy, _SHARDING)
        if not may_predict:
            rank_zero_warn(
                f"{type(trainer.strategy).__name__} shards the network: reconstructions are logged from what "
                "validation predicts, and not before training or from the training set."
            )
        ranks.together(lambda: set_up_validation_data(trainer))
        chosen, length = ranks.from_zero(lambda: choose_data(trainer)).tolist()
        from_training_set = bool(chosen)
        indices = choose_indices(length, self.num_patches, self.fixed_indices)
        numbers = ranks.from_zero(lambda: astuple(self._start_backend(trainer, from_training_set, indices)))
        plan = CapturePlan(fixed_indices=indices, layout=_layout_of(numbers.tolist()))

        def make() -> LoggedRun:
            loader = logged_loader(trainer, from_training_set=from_training_set)
            batches = [] if from_training_set else batch_indices(loader, ranks.rank, ranks.size)
            return LoggedRun(
                backend=self._backend,
                ranks=ranks,
                plan=plan,
                shard=plan.whole(batches) if ranks.rank == 0 else plan.part(batches),
                copier=copier_for(pl_module.device),
                loader=loader,
                from_training_set=from_training_set,
                may_predict=may_predict,
                next_due=(trainer.current_epoch // self.every_n_epochs + 1) * self.every_n_epochs,
            )

        return ranks.together(make)

    def _start_backend(self, trainer: Trainer, from_training_set: bool, indices: tuple[int, ...]) -> SnapshotLayout:
        """On rank zero: hand over what does not change; returns the layout of snapshots."""
        if self._backend is None:
            raise RuntimeError("the backend could not be launched.")
        loader = logged_loader(trainer, from_training_set=from_training_set)
        dataset, length = loader.dataset, dataset_length(loader)  # type: ignore[attr-defined]
        reach = length if from_training_set else validation_reach(trainer, loader, length)
        with random_state_kept():
            scan, layout = read_scan(
                dataset,
                indices,
                stitch=self.log_stitch,
                max_stitch_samples=min(self.max_stitch_samples or length, reach),
                stitch_weight=self.stitch_weight,
                epoch_digits=max(2, len(str(trainer.max_epochs))),
            )
        scan = replace(
            scan,
            remove_ramp=self.remove_ramp,
            pixel_size_m=self.pixel_size_m,
            arrays_format=self.arrays if scan.geometry is not None else "none",
            description=self.description,
        )
        self._backend.start(self._target(trainer), scan, layout)
        return layout

    def _target(self, trainer: Trainer) -> RunTarget:
        """This run, and, if the training is resumed, the one it continues; that may be this one."""
        logger = mlflow_logger(trainer)
        assert logger is not None
        if self._earlier_run_id is None:  # no checkpoint was loaded: what goes on is what this callback has logged
            self._earlier_run_id, self._earlier_fit_unix_s = self._run_id, self._fit_unix_s
        self._run_id = str(logger.run_id)
        target = RunTarget(
            run_id=self._run_id,
            tracking_uri=as_opened_by(logger.experiment, str(logger._tracking_uri)),
            earlier_run_id=(self._earlier_run_id or self._run_id) if trainer.global_step > 0 else None,
            earlier_epoch=trainer.current_epoch,
            earlier_fit_unix_s=self._earlier_fit_unix_s if trainer.global_step > 0 else 0.0,
            started_unix_s=time.time(),
        )
        self._fit_unix_s = target.fit_unix_s
        return target

    @_guarded
    def _log_baseline(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log_by_extra_pass(trainer, pl_module, 0)

    def _log_by_extra_pass(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        run = self._run
        if run is not None and run.may_predict:
            run.begin_capture()
            self._submit(run, trainer, pl_module, epoch)

    @_guarded
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take arrays for a snapshot if an epoch is due."""
        run = self._run
        if run is None or run.from_training_set or trainer.sanity_checking:
            return
        if self._is_due(completed_epochs(trainer), trainer):
            run.begin_capture()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - whatever validation_step returned
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Copy the predictions of a batch, if `validation_step` returned them. What fails is told at the end."""
        run = self._run
        if run is None or run.capture is None or not run.shard.routes or dataloader_idx != 0:
            return
        start_s = time.perf_counter()
        try:
            run.capture.add_outputs(batch_idx, outputs)
        except Exception as error:
            run.give_up(error)
        self._stall_s += time.perf_counter() - start_s

    @_guarded
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete and submit the snapshot."""
        run = self._run
        if run is not None and run.is_due:
            self._submit(run, trainer, pl_module, completed_epochs(trainer))

    @_guarded
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Without a validation set: log from the training set."""
        run, epoch = self._run, trainer.current_epoch + 1
        if run is not None and run.from_training_set and self._is_due(epoch, trainer):
            self._log_by_extra_pass(trainer, pl_module, epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last epoch if that has not happened, and flush."""
        self._log_last(trainer, pl_module)
        self._finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Flush what was submitted."""
        self._finish()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Flush what was submitted."""
        if stage == "fit":
            self._finish()

    def _is_due(self, epoch: int, trainer: Trainer) -> bool:
        run = self._run
        is_last = epoch == trainer.max_epochs
        return run is not None and epoch > run.last_logged and (epoch >= run.next_due or is_last)

    @_guarded
    def _log_last(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run, epoch = self._run, trainer.current_epoch
        if run is not None and epoch > run.last_logged and trainer.global_step > 0:
            self._log_by_extra_pass(trainer, pl_module, epoch)

    def _submit(self, run: LoggedRun, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        run.last_logged = epoch
        run.next_due = (epoch // self.every_n_epochs + 1) * self.every_n_epochs
        capture, is_complete = run.end_capture()
        if run.may_predict and not is_complete:
            plugin = trainer.precision_plugin
            precision = Precision(plugin.val_step_context, plugin.convert_input)
            fill_missing(capture, run.plan, pl_module, run.dataset, precision, run.ranks)
        if run.backend is not None:
            run.backend.submit(
                Snapshot(
                    epoch=epoch,
                    step=trainer.global_step,
                    has_diffraction=capture.has_diffraction,
                    created_unix_s=time.time(),
                    stall_s=self._stall_s + time.perf_counter() - self._hook_started_s,
                    arrays=capture.arrays,
                )
            )
        self._stall_s = 0.0

    @_guarded
    def _finish(self) -> None:
        backend, run = self._backend, self._run
        self._backend = self._run = None
        try:
            if run is not None:
                run.copier.close()
                run.ranks.close()
        finally:
            if backend is not None:
                backend.close(_INLINE_CLOSE_S if self.worker is None else self.worker.flush_timeout_s)
                if backend.stats.submitted:
                    rank_zero_info(backend.summary())


def _layout_of(numbers: Sequence[int]) -> SnapshotLayout:
    return SnapshotLayout(**{field.name: n for field, n in zip(fields(SnapshotLayout), numbers, strict=True)})


def _check_pictures(pixel_size_m: float | None, arrays: ArraysFormat, log_stitch: bool) -> None:
    if pixel_size_m is not None and not 0 < pixel_size_m < 1:
        raise ValueError(f"pixel_size_m is {pixel_size_m}; it must be above 0 and below 1 metre, or None.")
    if arrays not in get_args(ArraysFormat):
        raise ValueError(f"arrays is {arrays!r}; allowed: {', '.join(get_args(ArraysFormat))}.")
    if arrays != "none" and not log_stitch:
        raise ValueError(f"arrays is {arrays!r}, but there is no stitched object; add log_stitch=True.")
    if arrays == "h5" and find_spec("h5py") is None:
        raise ValueError("arrays is 'h5', which needs h5py: pip install h5py. Or take 'npz'.")
