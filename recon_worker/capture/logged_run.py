"""State of one rank during a logged run: constant settings, logging interval and current capture."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import numpy as np
import torch

from recon_worker.capture.capture import Capture
from recon_worker.capture.copying import Copier
from recon_worker.capture.errors import MisfitWarning, UnusableDataError, WrongSettingError, wrong_spool
from recon_worker.capture.gathering import Destination, Ranks, Rows
from recon_worker.capture.plan import CapturePlan, Interval, Route
from recon_worker.client.backend import ReconBackend, make_backend
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.records import Snapshot, SnapshotArrays
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.handler_errors import raise_if_from_signal_handler
from recon_worker.system.messages import message_log

_log = message_log(__name__)
_logged: "WeakValueDictionary[str, ReconBackend]" = WeakValueDictionary()
"""The backend that logs to each run, by its ID, in this process."""


def launched(worker: WorkerSettings | None) -> ReconBackend:
    """Return a backend whose initialisation has begun. Raises WrongSettingError if its spool cannot be used."""
    backend = make_backend(worker)
    try:
        with wrong_spool():
            backend.launch()
    except BaseException:
        backend.close(0.0)
        raise
    return backend


def claim(target: RunTarget, backend: ReconBackend | None) -> None:
    """Reserve a run for a backend of this process until `close_backend`; None: no backend could be launched.

    Raises:
        WrongSettingError: Another backend logs to this run: artifacts of the same names would replace each other.
    """
    if backend is not None and _logged.setdefault(target.run_id, backend) is not backend:
        raise WrongSettingError(
            f"run {target.run_id} is being logged to by another ReconLogger or callback of this process; allowed: one "
            "at a time, as their pictures have the same names. Close the other one, or log to another run, for example "
            "mlflow.start_run(nested=True)."
        )


def close_backend(backend: ReconBackend, worker: WorkerSettings | None) -> None:
    """Flush and close a backend, log what it has done, and let others log to its run."""
    for run_id, owner in list(_logged.items()):
        if owner is backend:
            del _logged[run_id]
    backend.close(worker.flush_timeout_s if worker is not None else 0.0)
    if backend.stats.submitted:
        _log.info("%s", backend.summary())


@dataclass(kw_only=True)
class LoggedRun:
    """State of one rank between the start and the end of a logged training."""

    backend: ReconBackend | None
    """Receives the snapshots on rank zero; None on the other ranks."""
    ranks: Ranks
    plan: CapturePlan
    copier: Copier
    interval: Interval
    routes: tuple[Route, ...] = ()
    """Destination of each of this rank's batches, if known in advance."""
    epoch: int | None = None
    """Epoch whose predictions are being captured; None if no snapshot is due."""
    capture: Capture | None = None
    """Current capture; None if there is none, or if it failed on this rank."""
    failure: Exception | None = None
    """Error of the current capture, raised only where all ranks synchronise, so that no rank is left waiting."""
    own_arrays: SnapshotArrays | None = None
    """Arrays with the predictions of this rank; None on rank zero."""
    captures: dict[int, Capture] = field(default_factory=dict)
    """Captures into reused memory, by its address."""
    misfit_warning: MisfitWarning = field(default_factory=MisfitWarning)
    order_explained: bool = False
    """Whether a message about epochs before the last logged one has been logged."""

    def begin_capture(self, epoch: int) -> None:
        """Acquire arrays for a snapshot. `end_capture` raises any error."""
        self.epoch, self.capture, self.failure = epoch, None, None
        layout = self.plan.layout
        try:
            if self.backend is not None:
                arrays = self.backend.acquire(layout)
            else:
                self.ranks.wait_sent()
                self.own_arrays = arrays = self.own_arrays or layout.allocate()
                arrays.mark_unfilled()
            if self.backend is not None and not self.backend.reuses_memory:
                self.capture = self._new_capture(arrays)
                return
            self.copier.prepare(arrays, layout.nbytes)
            address = arrays.fixed_amp.ctypes.data
            if address not in self.captures:
                self.captures[address] = self._new_capture(arrays)
            self.capture = self.captures[address]
            self.capture.restart()
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Give up the current capture. `end_capture` raises the error; that of a signal handler is raised now."""
        raise_if_from_signal_handler(error)
        self.capture, self.failure = None, error

    def use_device(self, device: torch.device) -> None:
        """Copy from another device from now on, unless the current capture holds predictions of an earlier one."""
        if self.copier.device == device or self.capture is None or self.capture.has_rows:
            return
        self.copier.close()
        self.copier = Copier(device)
        self.captures.clear()
        self.copier.prepare(self.capture.arrays, self.plan.layout.nbytes)
        self.capture = self._new_capture(self.capture.arrays)

    def _new_capture(self, arrays: SnapshotArrays) -> Capture:
        return Capture(self.plan, arrays, self.copier, self.routes, self.misfit_warning)

    def end_capture(self) -> tuple[Capture, bool]:
        """Gather the predictions of all ranks on rank zero. All ranks must call this.

        Returns:
            This rank's capture, and whether rank zero has all predictions.

        Raises:
            Exception: The capture failed on this rank.
            RankFailedError: The capture failed on another rank.
        """
        assert self.epoch is not None
        self.interval.last_logged = self.epoch
        capture, self.capture, self.epoch = self.capture, None, None

        def captured() -> Capture:
            if self.failure is not None:
                raise self.failure
            assert capture is not None
            return capture

        return self._gather(captured)

    def add_missing(self, capture: Capture, add: Callable[[], None]) -> bool:
        """Gather the predictions that `add` adds to the captures of all ranks. All ranks must call this.

        Returns whether rank zero has all predictions now. Raises the same errors as `end_capture`.
        """
        if self.ranks.rank != 0:
            self.ranks.wait_sent()
            capture.arrays.mark_unfilled()
            capture.restart()

        def captured() -> Capture:
            add()
            return capture

        return self._gather(captured)[1]

    def _gather(self, captured: Callable[[], Capture]) -> tuple[Capture, bool]:
        """Gather the rows of all ranks' captures on rank zero."""
        found = list[Capture]()

        def rows() -> list[tuple[Destination, Rows]]:
            capture = captured()
            capture.finish()
            found.append(capture)
            if self.ranks.rank == 0:  # its own rows are in place
                return [(to, to.no_rows()) for to in capture.destinations]
            return [(to, to.rows()) for to in capture.destinations]

        fixed, _, stitched = self.ranks.gather(rows)
        return found[0], (fixed, stitched) == (self.plan.layout.n_fixed, self.plan.layout.n_stitch)

    def submit(self, capture: Capture, *, step: int, stall_s: float) -> None:
        """Submit a complete snapshot to the backend. Does nothing on ranks without a backend."""
        if self.backend is None:
            return
        diffraction = capture.arrays.fixed_diffraction
        diffraction[~capture.has_diffraction] = np.nan  # not predicted for these; the memory holds earlier values
        if self.plan.intensity:
            np.sqrt(np.maximum(diffraction, 0, out=diffraction), out=diffraction)
        misfits = capture.arrays.misfit[capture.arrays.stitch_filled]
        if misfits.size and np.isinf(misfits).all():
            why = "each pattern, measured or predicted, is dark or has pixels that are not finite, such as NaN."
            self.misfit_warning("", UnusableDataError(why))
        self.backend.submit(
            Snapshot(
                epoch=self.interval.last_logged,
                step=step,
                has_diffraction=bool(capture.has_diffraction.any()),
                created_unix_s=time.time(),
                stall_s=stall_s,
                arrays=capture.arrays,
            )
        )
