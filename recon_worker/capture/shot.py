"""`Shot`: takes the predictions of one epoch from a training loop."""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recon_worker.capture.adapters import Predictions
from recon_worker.capture.capture import Capture, Measured
from recon_worker.capture.copying import Copier, as_tensor
from recon_worker.capture.errors import (
    LeftEpochError,
    UnusableDataError,
    UnusablePredictionsError,
    WrongSettingError,
    described,
)
from recon_worker.capture.given_scan import patterns_of
from recon_worker.system.messages import message_log

if TYPE_CHECKING:
    from recon_worker.capture.recon_logger import ReconLogger

_log = message_log(__name__)


class Shot:
    """Takes the predictions of one epoch. Does nothing unless the epoch is due.

    Args:
        logger: The logger that created it.
        epoch: Completed epochs.
        step: Optimiser steps so far.
        due: Whether to log the epoch.
    """

    def __init__(self, logger: "ReconLogger", epoch: int, step: int, *, due: bool) -> None:
        self.due = due
        """Whether predictions are wanted; if not, skip computing them."""
        self._logger, self._epoch, self._step = logger, epoch, step
        self._first: Capture | None = None
        self._entered = self._was_refused = False

    def __enter__(self) -> "Shot":
        self._entered = True
        if self.due:
            with self._logger.guard("the start of an epoch"):
                if self._logger.run is not None:
                    self._logger.run.begin_capture(self._epoch)
        else:
            self._explain_order()
        return self

    def add(
        self,
        indices: Sequence[int] | NDArray[Any] | Tensor,
        *,
        amp: Tensor | NDArray[Any],
        phase: Tensor | NDArray[Any],
        diffraction: Tensor | NDArray[Any] | None = None,
        observed: Tensor | NDArray[Any] | None = None,
    ) -> None:
        """Copy the predictions of a batch. If a sample is added twice, its last prediction counts.

        Args:
            indices: (B,) numbers of the samples in the validation set, from 0.
            amp: (B, N, N) or (B, C, N, N) object amplitude, on any device.
            phase: The same shape, radians.
            diffraction: The same shape, predicted diffraction in the units of the measured one; None: not predicted.
            observed: The same shape, measured diffraction of the batch, for the misfit map; None: taken from the
                logger's `diffraction`, if that is an array or tensor. If it cannot be used, only the misfit is lost.
        """
        if not self.due:
            return
        before = self._logger.guard.errors
        with self._logger.guard("ReconLogger.add", lost=f"Predictions of epoch {self._epoch} are not logged"):
            if not self._entered:
                raise UnusablePredictionsError("`add` was called outside the `with` block of the epoch.")
            numbers = _numbers(indices, self._logger.num_samples)
            predicted = None if diffraction is None else _batch(diffraction, len(numbers))
            measured = Measured("`observed`", lambda: observed)
            if observed is None:
                measured = Measured("`diffraction`", lambda: patterns_of(self._logger.dataset, numbers))
            predictions = Predictions(_batch(amp, len(numbers)), _batch(phase, len(numbers)), predicted)
            capture = self._capture(predictions.amp)
            if capture is not None:
                capture.add(capture.target_of(numbers), predictions, measured)
        self._was_refused |= self._logger.guard.errors > before

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.due:
            self.due = False
            with self._logger.guard("the end of an epoch"):
                self._submit(failed=error is not None)

    def _capture(self, amp: Tensor) -> Capture | None:
        """Return the current capture; None if it failed."""
        logger = self._logger
        if logger.run is not None:
            logger.run.use_device(amp.device)
            return logger.run.capture
        if self._first is None:  # captured in private memory, because the queue is not open yet
            plan = logger.plan(amp.shape[-1])
            arrays, warning = plan.layout.allocate(), logger.misfit_warning
            self._first = Capture(plan, arrays, Copier(amp.device), misfit_warning=warning)
        return self._first

    def _submit(self, *, failed: bool) -> None:
        """Gather the predictions of all ranks, and submit them. All ranks must call this."""
        logger, first, self._first = self._logger, self._first, None
        if logger.run is None:
            patch_px = logger.ranks.maximum(0 if first is None else first.plan.layout.patch_px)
            with logger.ranks.all_or_none():
                if failed:
                    raise LeftEpochError
            if patch_px:
                try:
                    logger.begin(patch_px)
                except WrongSettingError as error:  # too late to raise: the training runs
                    raise UnusableDataError(str(error)) from error
        run = logger.run
        if run is None:
            self._warn_of_nothing()
            return
        if run.epoch is None:
            run.begin_capture(self._epoch)
            if first is not None and run.capture is not None:
                run.capture.take_over(first)
        if failed:
            run.capture, run.failure = None, LeftEpochError()
        capture, is_complete = run.end_capture()
        if logger.ranks.rank == 0 and not is_complete and not self._explain_missing(capture):
            return
        run.submit(capture, step=self._step, stall_s=logger.guard.stall_s)
        logger.guard.restart()

    def _warn_of_nothing(self) -> None:
        why = "all predictions that were added were refused" if self._was_refused else "no predictions were added"
        _log.warning("Epoch %d is not logged: %s.", self._epoch, why)

    def _explain_order(self) -> None:
        """Say, once and on rank zero, that epochs before the last logged one are not logged."""
        run = self._logger.run
        if run is None or run.order_explained or not 0 < self._epoch < run.interval.last_logged:
            return
        run.order_explained = True
        if run.ranks.rank == 0:
            text = "Epoch %d is not logged, because epoch %d was. For another training, create another ReconLogger."
            _log.warning(text, self._epoch, run.interval.last_logged)

    def _explain_missing(self, capture: Capture) -> bool:
        """Log how many predictions are missing, on rank zero. Returns whether there are any predictions at all."""
        filled = np.concatenate([capture.arrays.stitch_filled, capture.arrays.fixed_filled])
        if not filled.any():
            self._warn_of_nothing()
            return False
        missing = np.flatnonzero(~capture.arrays.stitch_filled)
        if missing.size and not self._logger.has_explained:
            self._logger.has_explained = True
            _log.warning(
                "Epoch %d: %d of %d samples have no prediction (first: %d); their part of the object is shown as not "
                "scanned.",
                self._epoch, missing.size, len(capture.arrays.stitch_filled), missing[0],
            )  # fmt: skip
        return True


def _numbers(indices: Sequence[int] | NDArray[Any] | Tensor, num_samples: int) -> NDArray[np.int64]:
    """Return sample numbers, (B,). Raises UnusablePredictionsError if they are not integers, or out of range."""
    found = indices.detach().cpu().numpy() if isinstance(indices, Tensor) else np.asarray(indices)
    if found.size and found.dtype.kind not in "iu":
        raise UnusablePredictionsError(
            f"indices have the dtype {found.dtype}; they must be integers, the numbers of the samples."
        )
    numbers = found.reshape(-1).astype(np.int64, copy=False)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < num_samples:
        outside = numbers[(numbers < 0) | (numbers >= num_samples)]
        raise UnusablePredictionsError(
            f"indices contain {outside[:5].tolist()}, but there are {num_samples} samples; allowed: 0 to "
            f"{num_samples - 1}."
        )
    return numbers


def _batch(values: Tensor | NDArray[Any], length: int) -> Tensor:
    """Return values as a (B, C, N, N) tensor. Raises UnusablePredictionsError if they have another shape."""
    try:
        tensor = as_tensor(values)
    except Exception as error:  # raised by the library of the values
        raise UnusablePredictionsError(
            f"predictions are {described(values)}; expected: tensors or arrays of real numbers."
        ) from error
    if tensor.is_meta:
        raise UnusablePredictionsError("predictions are on the device 'meta', which holds no data.")
    batch = tensor[:, None] if tensor.ndim == 3 else tensor
    if batch.ndim != 4 or len(batch) != length or batch.is_complex() or batch.shape[-1] != batch.shape[-2]:
        raise UnusablePredictionsError(
            f"predictions have the shape {tuple(tensor.shape)} and dtype {tensor.dtype} for {length} indices; "
            f"expected: real, ({length}, N, N) or ({length}, C, N, N)."
        )
    return batch


def whole_number(name: str, value: object) -> int:
    """Return a number of any type as an int. Raises UnusableDataError if it is not a whole number, or negative."""
    try:
        number = int(value)  # type: ignore[call-overload]
        if number == value and number >= 0:
            return int(number)
    except Exception:  # raised by the value's type
        pass
    raise UnusableDataError(f"{name} is {value!r}; allowed: a whole number, at least 0.")
