"""`PtychoReconLoggingCallback`: the Lightning hooks, which decide WHEN to log.

    setup                     launch the worker, which imports its modules while the data loads
    on_train_start            read the constant data (labels, diffraction, positions), start the backend
    on_validation_start       if the epoch is due: acquire arrays; then, in each batch, watch the module's calls
    on_validation_batch_end   copy the predictions already computed by validation
    on_validation_end         gather the predictions of all ranks, predict missing samples, submit
    on_train_epoch_end        without a usable validation set: log from the training set
    on_train_end              log the last epoch if not yet logged, flush
    on_exception, teardown    flush

Every rank captures its predictions; only global rank zero has a backend. All ranks run the same hooks at the same
epochs, hence the same collectives, even if logging has failed on one of them. Logging errors never propagate into
`fit` unless `strict` is set; invalid settings raise before the first step.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from recon_worker.capture.adapters import Adapter
from recon_worker.capture.errors import NOTHING_LOGGED, Guard
from recon_worker.capture.logged_run import close_backend, launched
from recon_worker.capture.plan import Interval, ScanOptions
from recon_worker.client.backend import ReconBackend
from recon_worker.lightning.begin import Settings, TrainerRun, begin_run
from recon_worker.lightning.trainer_state import Progress, logged_loader, mlflow_logger, ranks_of, why_no_logger
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.choices import TILES_FROM_PX, ArraysFormat, StitchWeight
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.arguments import check_arguments
from recon_worker.system.databases import as_opened_by
from recon_worker.system.messages import message_log

_log = message_log(__name__)


class PtychoReconLoggingCallback(Callback):
    """Logs reconstructions to MLflow while a ptychography network trains.

    Args:
        every_n_epochs: Log every N epochs, counted from 1, and after the last epoch.
        num_patches: Number of fixed sample patches, spread evenly over the dataset.
        fixed_indices: Dataset indices of the patches, instead of an even spread.
        log_stitch: Also stitch and log the whole object.
        max_stitch_samples: Number of leading samples to stitch; None: all.
        stitch_weight: Average overlapping patches by the probe's intensity, if known ("probe"), or equally ("uniform").
        baseline: Also log the untrained network, as epoch 0. This adds one forward pass over the logged samples before
            the first step. By default step 0 of MLflow's image cards shows the ground truth or the measured data.
        remove_ramp: Remove a linear phase ramp from the stitched object before comparing it with the truth. Use False
            for a supervised network, which learns the true phase.
        pixel_size_m: Side of an object pixel, metres; None: unknown.
        arrays: Also log the stitched object as numeric arrays: "npz", "h5" (HDF5 in CXI's conventions) or "none".
        tiles_from_px: Also log stitched objects with a longer side of at least this as tiles, for zooming; 0: never.
        description: Show the latest summary in the run's description, below your text; None: only if you wrote no text.
        worker: Settings of the worker process that stitches, renders and uploads; None: use the training thread.
        strict: Raise when logging fails. By default the first failure is logged as a warning, all failures are counted
            in `errors`, and training continues.
        adapter: Translates dataset items and network outputs for the logging; None: recognised from the dataset.
        predictions_from: Name of the submodule whose `forward` predicts, such as "model"; None: the LightningModule.
        intensity: Whether diffraction is intensity instead of amplitude; None: recognised from the fields.
        positions: Patch centres of all samples of the logged dataset, (n, 2) or (n, C, 2), (x, y), object pixels, or a
            function of the dataset that returns them; None: found in the dataset.
        ground_truth: True object, complex (H, W), or the path of an NPZ file with it; None: found in the dataset.
        object_index: Object of each sample, (n,), from 0; None: found in the dataset, or a single object.

    Raises:
        ValueError: A setting is out of range or, at the start of `fit`, does not match the dataset.
    """

    def __init__(
        self,
        every_n_epochs: int = 5,
        num_patches: int = 4,
        fixed_indices: Sequence[int] | None = None,
        log_stitch: bool = False,
        max_stitch_samples: int | None = None,
        *,
        stitch_weight: StitchWeight = "probe",
        baseline: bool = False,
        remove_ramp: bool = True,
        pixel_size_m: float | None = None,
        arrays: ArraysFormat = "none",
        tiles_from_px: int = TILES_FROM_PX,
        description: bool | None = None,
        worker: WorkerSettings | None = None,
        strict: bool = False,
        adapter: Adapter | None = None,
        predictions_from: str | None = None,
        intensity: bool | None = None,
        positions: Any = None,  # noqa: ANN401 - array-like or callable
        ground_truth: Any = None,  # noqa: ANN401 - array-like or path
        object_index: Any = None,  # noqa: ANN401 - array-like
    ) -> None:
        check_arguments(PtychoReconLoggingCallback.__init__, locals())
        self.every_n_epochs = Interval(every_n_epochs).every_n_epochs
        self.num_patches, self.fixed_indices = num_patches, fixed_indices
        self.log_stitch, self.max_stitch_samples, self.stitch_weight = log_stitch, max_stitch_samples, stitch_weight
        self.remove_ramp, self.pixel_size_m, self.intensity = remove_ramp, pixel_size_m, intensity
        self.arrays, self.tiles_from_px, self.description = arrays, tiles_from_px, description
        self.positions, self.ground_truth, self.object_index = positions, ground_truth, object_index
        self._options()
        self.baseline, self.worker, self.adapter, self.predictions_from = baseline, worker, adapter, predictions_from
        self._guard = Guard(strict=strict)
        self._backend: ReconBackend | None = None
        self._run: TrainerRun | None = None
        self._progress = Progress()
        self._earlier = Progress()  # in the checkpoint from which the training is resumed

    @property
    def errors(self) -> int:
        """Number of logging errors so far."""
        return self._guard.errors

    def _options(self) -> ScanOptions:
        """Return the settings that define what to log. Raises ValueError if one is out of range."""
        return ScanOptions(**{field.name: getattr(self, field.name) for field in fields(ScanOptions)})

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the run and the backend, which stay in their process."""
        return {**self.__dict__, "_run": None, "_backend": None}

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoint state, from which resumed training continues its run's colour ranges and gallery."""
        return asdict(self._progress) if self._progress.run_id is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state from a checkpoint. Values of unexpected types are ignored."""
        self._earlier = Progress.of_state(state_dict)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Launch the backend on global rank zero, in the background."""
        self._earlier = Progress()  # Lightning loads a checkpoint after `setup`
        if stage != "fit" or not trainer.is_global_zero:
            return
        with self._guard("setup", lost=NOTHING_LOGGED):
            self._finish()
            if mlflow_logger(trainer) is None:
                _log.warning("%s: the Trainer has no MLFlowLogger%s.", NOTHING_LOGGED, why_no_logger(trainer))
                return
            self._backend = launched(self.worker)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Select the samples and start the backend. Invalid settings raise here, before the first step."""
        with self._guard("on_train_start", lost=NOTHING_LOGGED):
            self._start(trainer, pl_module)
        if self.baseline and trainer.global_step == 0:
            self._log_by_extra_pass(trainer, pl_module, 0)

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ranks, completed = ranks_of(trainer), max(trainer.current_epoch, self._earlier.completed_epochs)
        if ranks is None:
            return
        settings = Settings(
            options=self._options(),
            every_n_epochs=self.every_n_epochs,
            completed_epochs=completed,
            adapter=self.adapter,
            predictions_from=self.predictions_from,
            reference=not self.baseline,
            worker=self.worker,
        )
        target = partial(self._target, trainer, completed)
        try:
            self._run = begin_run(trainer, pl_module, ranks, settings, self._backend, target)
        except BaseException:
            ranks.close()
            raise

    def _target(self, trainer: Trainer, completed_epochs: int) -> RunTarget:
        """Return the MLflow run of the Trainer and, if training is resumed, the run that it continues."""
        earlier = self._progress if self._earlier.run_id is None else self._earlier  # without a checkpoint: its own run
        resumed, logger = trainer.global_step > 0, mlflow_logger(trainer)
        assert logger is not None
        target = RunTarget(
            run_id=str(logger.run_id),
            tracking_uri=as_opened_by(logger.experiment, str(logger._tracking_uri)),
            earlier_run_id=(earlier.run_id or str(logger.run_id)) if resumed else None,
            earlier_epoch=completed_epochs,
            earlier_fit_unix_s=earlier.fit_unix_s if resumed else 0.0,
            started_unix_s=time.time(),
        )
        self._progress = Progress(target.run_id, target.fit_unix_s, completed_epochs)
        return target

    def _log_by_extra_pass(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        run = self._run
        if run is not None and run.may_predict:
            with self._guard("the extra pass"):
                run.begin_capture(epoch)
                self._submit(run, trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Acquire arrays for a snapshot if the epoch is due."""
        run = self._run
        if run is None or run.from_training_set or trainer.sanity_checking:
            return
        with self._guard("on_validation_start"):
            epoch = trainer.current_epoch + int(trainer.is_last_batch)  # completed epochs
            if run.interval.is_due(epoch, trainer.max_epochs):
                run.follow(logged_loader(trainer, from_training_set=False))
                run.begin_capture(epoch)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Watch the calls of the module, if the batch may be logged."""
        if self._run is not None and self._run.capture is not None and dataloader_idx == 0:
            self._run.watch.start()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - the result of validation_step
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Copy the predictions of a batch, if validation computed them. `on_validation_end` raises the errors."""
        run = self._run
        if run is None or run.capture is None:
            return
        began_s = time.perf_counter()
        try:
            if dataloader_idx == 0:
                run.take_batch(batch_idx, outputs, batch)
        except Exception as error:
            run.fail(error)
        self._guard.add_stall(began_s)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete and submit the snapshot."""
        run = self._run
        if run is not None and not trainer.sanity_checking:
            completed = trainer.current_epoch + int(trainer.is_last_batch)  # Lightning increments after the hooks
            self._progress = replace(self._progress, completed_epochs=completed)
        if run is not None and run.epoch is not None:
            with self._guard("on_validation_end"):
                run.watch.stop()
                self._submit(run, trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log from the training set if no validation set is usable."""
        run, epoch = self._run, trainer.current_epoch + 1
        self._progress = replace(self._progress, completed_epochs=epoch)
        if run is not None and run.from_training_set and run.interval.is_due(epoch, trainer.max_epochs):
            self._log_by_extra_pass(trainer, pl_module, epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last epoch if not yet logged, and flush."""
        run, epoch = self._run, trainer.current_epoch
        if run is not None and epoch > run.interval.last_logged and trainer.global_step > 0:
            self._log_by_extra_pass(trainer, pl_module, epoch)
        self._flush()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Flush the submitted snapshots."""
        self._flush()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Flush the submitted snapshots."""
        if stage == "fit":
            self._flush()

    def _submit(self, run: TrainerRun, trainer: Trainer) -> None:
        capture, is_complete = run.end_capture()
        if not is_complete:
            run.predict_missing(capture, trainer.precision_plugin)
        run.submit(capture, step=trainer.global_step, stall_s=self._guard.stall_s)
        self._guard.restart()

    def _flush(self) -> None:
        with self._guard("the final flush"):
            self._finish()

    def _finish(self) -> None:
        backend, run = self._backend, self._run
        self._backend = self._run = None
        try:
            if run is not None:
                run.watch.stop()
                run.copier.close()
                run.ranks.close()
        finally:
            if backend is not None:
                close_backend(backend, self.worker)
