"""`ReconLogger`: logs the reconstructions of a training loop without Lightning."""

import atexit
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

import torch

from recon_worker.capture.adapters import Adapter, adapter_for
from recon_worker.capture.announcement import announce
from recon_worker.capture.copying import Copier
from recon_worker.capture.dataset import RunData, channels_of, read_item, read_sample, read_scan, start_on_rank_zero
from recon_worker.capture.errors import NOTHING_LOGGED, Guard, MisfitWarning, WrongSettingError, wrong_spool
from recon_worker.capture.gathering import ranks_of_process_group
from recon_worker.capture.given_scan import GivenScan, SampleAdapter
from recon_worker.capture.logged_run import LoggedRun, claim, close_backend, launched
from recon_worker.capture.placement.samples import Samples, place_samples
from recon_worker.capture.placement.unchanged import left_unchanged
from recon_worker.capture.plan import CapturePlan, Interval, ScanOptions, choose_indices
from recon_worker.capture.shot import Shot, whole_number
from recon_worker.client.backend import ReconBackend
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.records import SnapshotLayout
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.arguments import check_arguments
from recon_worker.system.databases import with_absolute_path
from recon_worker.system.messages import message_log
from recon_worker.upload.mlflow_client import why_no_run

_log = message_log(__name__)
_SMALLEST_PX = 4
"""Smallest side of a patch."""


class ReconLogger:
    """Logs reconstructions to an MLflow run while a training loop runs.

        with ReconLogger(run_id=run_id, positions=positions_px, ground_truth=obj, worker=WorkerSettings(...)) as recon:
            for epoch in range(epochs):
                train()
                with recon.epoch(epoch + 1, step=step) as shot:
                    for indices, batch in val_loader:
                        _, amp, phase = model(batch)
                        shot.add(indices, amp=amp, phase=phase)

    With torch.distributed, create it on every rank, and enter every epoch on every rank: each rank adds the samples
    that it predicted. Logging errors never propagate into the loop unless `strict` is set; invalid settings raise in
    the constructor.

    Args:
        tracking_uri: MLflow server or database; None: MLflow's current one.
        run_id: MLflow run; None: the active run. Used on rank zero only.
        positions: Patch centres, (n, 2) or (n, C, 2), (x, y), object pixels, or a function of `dataset` that returns
            them; None: found in the dataset, or unknown.
        ground_truth: True object, complex (H, W), or the path of an NPZ file with it; None: as for positions.
        object_index: Object of each sample, (n,), from 0; None: as for positions, or a single object.
        diffraction: Measured patterns, (n, N, N) or (n, C, N, N), amplitudes unless `intensity`; None: unknown.
        probe: Complex probe, (N, N) or (P, N, N), which weights overlapping patches; None: equal weights.
        dataset: Map-style dataset of the n samples, from which patterns, labels, positions and truth are read, instead
            of `diffraction` and `probe`.
        adapter: Reads the dataset's items; None: recognised.
        num_samples: Number n of samples, if no other argument gives it.
        patch_px: Side N of a patch, if there are no patterns. Without it, positions are compared with the true object
            only when the first predictions are added, and the cards of step 0 appear then.
        every_n_epochs: Log every N epochs, counted from 1.
        max_epochs: Last epoch, which is always logged; None: unknown.
        first_epoch: Completed epochs, if training is resumed in the same run.
        worker: Settings of the worker process that stitches, renders and uploads; None: use the training thread.
        strict: Raise when logging fails. By default the first failure is logged as a warning, all failures are counted
            in `errors`, and training continues.
        distributed: Whether all ranks of torch.distributed take part; None: if it is initialised.
        **options: What to log, as for `PtychoReconLoggingCallback`: num_patches, fixed_indices, log_stitch (default: if
            positions or a dataset are given), max_stitch_samples, stitch_weight, remove_ramp, pixel_size_m, arrays,
            tiles_from_px, description, intensity.

    Raises:
        TypeError: An option is unknown.
        ValueError: A setting is out of range, or does not match the data.
        RuntimeError: Not all ranks created a logger within 60 s.
    """

    run: LoggedRun | None = None
    """State of this rank; None until the patch size is known."""
    failed = False
    """Whether the logging could not be started."""
    has_explained = False
    """Whether a message about missing predictions has been logged."""
    _backend: ReconBackend | None = None
    _target: RunTarget | None = None
    _channels = 1

    def __init__(
        self,
        *,
        tracking_uri: str | None = None,
        run_id: str | None = None,
        positions: Any = None,  # noqa: ANN401 - array-like or callable
        ground_truth: Any = None,  # noqa: ANN401 - array-like or path
        object_index: Any = None,  # noqa: ANN401 - array-like
        diffraction: Any = None,  # noqa: ANN401 - indexable by sample
        probe: Any = None,  # noqa: ANN401 - array-like
        dataset: Any = None,  # noqa: ANN401 - map-style
        adapter: Adapter | None = None,
        num_samples: int | None = None,
        patch_px: int | None = None,
        every_n_epochs: int = 5,
        max_epochs: int | None = None,
        first_epoch: int = 0,
        worker: WorkerSettings | None = None,
        strict: bool = False,
        distributed: bool | None = None,
        **options: Any,  # noqa: ANN401 - of several types
    ) -> None:
        check_arguments(ReconLogger.__init__, locals())
        defaults = {"log_stitch": positions is not None or dataset is not None}
        passed = {"positions": positions, "ground_truth": ground_truth, "object_index": object_index}
        self._options = ScanOptions(**defaults | passed | _known(options))
        self._interval, self._max_epochs = Interval(every_n_epochs, first_epoch), max_epochs
        self._worker, self.guard, self.misfit_warning = worker, Guard(strict=strict), MisfitWarning()
        self.dataset: Any = dataset
        if dataset is None:
            self.dataset = GivenScan(length=num_samples, diffraction=diffraction, positions=positions, probe=probe)
            adapter = SampleAdapter()
        if patch_px is not None and patch_px < _SMALLEST_PX:
            raise WrongSettingError(f"patch_px is {patch_px}; it must be at least {_SMALLEST_PX}, or None.")
        with left_unchanged(dataset):
            self._adapter = adapter or adapter_for(read_item(dataset, 0), type(dataset).__name__)
            self._known_px = self._pattern_px() if patch_px is None else patch_px
        self.num_samples = len(self.dataset)
        """Number of samples of the scan."""
        self.indices = choose_indices(self.num_samples, self._options)
        self.ranks, self._closed, self._owner = ranks_of_process_group(distributed), False, os.getpid()
        self._start(tracking_uri, run_id)

    def _start(self, tracking_uri: str | None, run_id: str | None) -> None:
        """Launch the backend on rank zero; start it if the patch size is known. All ranks must call this."""
        try:
            with self.ranks.all_or_none():
                if not self._known_px or self.ranks.size > 1:  # `begin` checks them, on rank zero
                    self._check_positions()
                if self.ranks.rank == 0:
                    with self.guard("the launch of the worker", lost=NOTHING_LOGGED):
                        self._backend = launched(self._worker)
                    self._target = _target(tracking_uri, run_id, self._interval.first_epoch)
                    claim(self._target, self._backend)
            with self.guard("the start", lost=NOTHING_LOGGED):
                if known_px := self.ranks.maximum(self._known_px):
                    self.begin(known_px)
        except BaseException:
            self.close()
            raise
        atexit.register(self.close)

    def _check_positions(self) -> None:
        """Check explicit positions and ground truth before training; the patch size may be unknown yet."""
        options, n, n_px = self._options, self.num_samples, self._known_px or _SMALLEST_PX
        if options.positions is not None or options.ground_truth is not None:
            samples = Samples(dataset=self.dataset, length=n, count=n, n_px=n_px, weight="uniform")
            with left_unchanged(self.dataset):
                geometry = place_samples(samples, options).geometry
            self._channels = 1 if geometry is None else channels_of(geometry)

    def _pattern_px(self) -> int:
        """Return the side of a pattern of the dataset; 0 if unknown."""
        diffraction = read_sample(self.dataset, self._adapter, 0).diffraction
        return 0 if diffraction is None else diffraction.shape[-1]

    @property
    def errors(self) -> int:
        """Number of logging errors so far."""
        return self.guard.errors

    @property
    def metrics(self) -> dict[int, Mapping[str, float]]:
        """Metrics of the reconstructions made so far: of each epoch, by their names in MLflow. On rank zero."""
        return {} if self._backend is None else dict(self._backend.stats.metrics)

    def __enter__(self) -> "ReconLogger":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def epoch(self, epoch: int, *, step: int | None = None, due: bool | None = None) -> Shot:
        """Return a context manager for the predictions of one epoch.

        Args:
            epoch: Completed epochs, counted from 1; 0 is the untrained network, logged with `due=True`.
            step: Optimiser steps so far, the step of the logged metrics; None: the epoch.
            due: Whether to log this epoch; None: as `every_n_epochs` and `max_epochs` say. Equal on all ranks.
        """
        if self._closed:
            _log.warning("Epoch %s is not logged: the ReconLogger is closed.", epoch)
        elif due is not False and not self.failed and os.getpid() == self._owner:
            with self.guard("ReconLogger.epoch"):
                number, at = whole_number("epoch", epoch), whole_number("step", epoch if step is None else step)
                is_due = self._interval.is_due(number, self._max_epochs) if due is None else bool(due)
                return Shot(self, number, at, due=is_due)
        return Shot(self, 0, 0, due=False)

    def close(self) -> None:
        """Flush what was logged, and end the worker. May be called twice; runs at exit if forgotten."""
        if self._closed or os.getpid() != self._owner:  # a forked child has a copy
            return
        self._closed = True
        atexit.unregister(self.close)
        with self.guard("the final flush"):
            try:
                if self.run is not None:
                    self.run.copier.close()
                self.ranks.close()
            finally:
                if self._backend is not None:
                    close_backend(self._backend, self._worker)

    def plan(self, patch_px: int) -> CapturePlan:
        """Return the plan for patches of this size, if the positions can be used."""
        options = self._options
        layout = SnapshotLayout(n_fixed=len(self.indices), patch_px=patch_px, channels=self._channels)
        if options.log_stitch:
            n_stitch = min(self.num_samples, options.max_stitch_samples or self.num_samples)
            layout = replace(layout, n_stitch=n_stitch, crop_px=patch_px // 4 * 2)
        return CapturePlan(fixed_indices=self.indices, layout=layout, intensity=bool(options.intensity))

    def begin(self, patch_px: int) -> None:
        """Read the constant data, start the backend, and prepare this rank. All ranks must call this."""

        def start() -> RunData:
            if self._backend is None or self._target is None:
                raise RuntimeError("the backend could not be launched.")
            digits = max(2, len(str(self._max_epochs or 0)))
            data = read_scan(
                self.dataset, self._adapter, self.indices, self._options, patch_px=patch_px, epoch_digits=digits
            )
            scan = replace(data.scan, reference=self._interval.first_epoch == 0)
            with wrong_spool():
                self._backend.start(self._target, scan, data.layout)
            announce(data, self._target, self._interval, self._max_epochs, self._worker)
            return data

        self.failed = True  # until the end of this function
        layout, intensity = start_on_rank_zero(self.ranks, start)
        self.run = LoggedRun(
            backend=self._backend,
            ranks=self.ranks,
            plan=CapturePlan(fixed_indices=self.indices, layout=layout, intensity=intensity),
            copier=Copier(torch.device("cpu")),
            interval=self._interval,
            misfit_warning=self.misfit_warning,
        )
        self.failed = False


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options. Raises TypeError, which suggests another name, if one is unknown."""
    arguments = set(ReconLogger.__init__.__kwdefaults__ or {})
    allowed = {field.name for field in fields(ScanOptions)} - arguments
    for name in options.keys() - allowed:
        near = get_close_matches(name, allowed | arguments, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(sorted(allowed | arguments))}."
        raise TypeError(f"ReconLogger got an unknown option {name!r}; {advice}")
    return options


def _target(tracking_uri: str | None, run_id: str | None, first_epoch: int) -> RunTarget:
    """Return the MLflow run to log to. Raises WrongSettingError if none is given or active, or if it does not exist."""
    mlflow, is_active = sys.modules.get("mlflow"), run_id is tracking_uri is None
    if run_id is None:
        active = mlflow.active_run() if mlflow is not None else None
        if active is None:
            raise WrongSettingError(
                "run_id is not given, and there is no active MLflow run. Pass run_id=, for example that of "
                "mlflow.start_run()."
            )
        run_id = str(active.info.run_id)
    if tracking_uri is None:
        if mlflow is None:
            raise WrongSettingError("tracking_uri is not given. Pass it, because MLflow has not been imported.")
        tracking_uri = str(mlflow.get_tracking_uri())
    target = RunTarget(
        run_id=run_id,
        tracking_uri=with_absolute_path(tracking_uri),
        earlier_run_id=run_id if first_epoch else None,
        earlier_epoch=first_epoch,
        started_unix_s=time.time(),
    )
    if not is_active and (refusal := why_no_run(target)):
        raise WrongSettingError(
            f"nothing can be logged to run_id={run_id!r} ({refusal}). Pass the ID of an existing run, for example that "
            "of mlflow.start_run(), and the tracking_uri of its server."
        )
    return target
