"""Copies predictions of a network, batch by batch, into the arrays of a snapshot."""

import math
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon_worker.capture.adapters import Predictions
from recon_worker.capture.copying import Copier, Part, RowNumbers, as_tensor
from recon_worker.capture.errors import MisfitWarning, UnusableDataError, UnusablePredictionsError, described
from recon_worker.capture.gathering import Destination
from recon_worker.capture.plan import CapturePlan, FixedRows, Route, as_slice
from recon_worker.reconstruction.stitching import crop_start_px
from recon_worker.snapshot.records import SnapshotArrays, SnapshotLayout
from recon_worker.system.handler_errors import raise_if_from_signal_handler

_LEAST_RATE = 1e-12
"""Minimum predicted photons of a pixel, as a fraction of the mean of the measured ones."""
_MAX_CACHED = 4096
"""Maximum number of batches whose destinations are cached. Shuffled batches do not recur."""


class Target(NamedTuple):
    """Where to copy a batch's predictions."""

    amp: Tensor
    """Rows of the amplitude stitch array, as a view; with `rows`, the whole array."""
    phase: Tensor
    misfit: Tensor
    rows: Tensor | None
    """Row numbers, if they are not evenly spaced."""
    part: Part | None
    """Part of the predictions to copy to `rows`; None: nothing."""
    fixed: FixedRows
    size: int
    """Number of samples of the batch, without the padding of a DistributedSampler."""
    filled: RowNumbers
    """The rows, for marking them as filled."""

    def fits(self, predictions: Predictions) -> bool:
        """Return whether the number of predictions matches this batch. One more is allowed: it may be padding."""
        return all(0 <= len(one) - self.size <= 1 for one in predictions[:2])


class Measured(NamedTuple):
    """Measured diffraction of a batch, read only if its misfit is computed."""

    source: str
    """Its name in messages, such as "`observed`"."""
    read: Callable[[], object]
    """Returns it, (B, C, N, N) or (B, N, N), a tensor or array-like; None if it is unknown. May raise any exception."""


class Capture:
    """Fills the arrays of one snapshot, batch by batch.

    Code between batches runs with cold caches, where every line of Python is expensive: views are created in advance,
    once per memory block. Releasing tensors is expensive too, because other threads may take the GIL meanwhile.

    Args:
        plan: Destinations of the samples.
        arrays: Arrays with the plan's layout.
        copier: Copies predictions into the arrays.
        routes: Destinations of the batches that `targets` prepares.
        misfit_warning: The run's warning; None: a new one.
    """

    def __init__(
        self,
        plan: CapturePlan,
        arrays: SnapshotArrays,
        copier: Copier,
        routes: tuple[Route, ...] = (),
        misfit_warning: MisfitWarning | None = None,
    ) -> None:
        self.plan, self.arrays = plan, arrays
        self._misfit_warning = misfit_warning or MisfitWarning()
        self.destinations = (
            Destination((arrays.fixed_amp, arrays.fixed_phase), arrays.fixed_filled),
            Destination((arrays.fixed_diffraction,), np.zeros(len(arrays.fixed_filled), bool)),
            Destination((arrays.stitch_amp, arrays.stitch_phase, arrays.misfit), arrays.stitch_filled),
        )
        """Destinations of the fixed patches' objects, of their diffraction, and of the centre crops and misfits."""
        self.has_diffraction = self.destinations[1].filled
        """(k,) Whether the diffraction of each fixed patch is predicted; not all networks predict it."""
        self._copier, self._tensors = copier, copier.tensors_of(arrays)
        self._crop = crop_of(plan.layout)
        self.targets = [self.target(route) for route in routes]
        """Destination of each batch of `routes`."""
        self._known: dict[bytes, Target] = {}
        self._stitched: list[RowNumbers] = []
        self._fixed: list[int] = []

    def target_of(self, indices: NDArray[np.int64]) -> Target:
        """Return the destination of a batch with these dataset indices; most loops use the same batches each epoch."""
        key = indices.tobytes()
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            found = self._known[key] = self.target(self.plan.route(indices))
        return found

    def target(self, route: Route) -> Target:
        """Prepare the destination of a batch."""
        arrays = (self._tensors.stitch_amp, self._tensors.stitch_phase, self._tensors.misfit)
        samples = route.samples if isinstance(route.samples, slice) else torch.from_numpy(route.samples)
        part = (samples, *self._crop) if not isinstance(route.rows, slice) or route.rows.stop else None
        if isinstance(route.rows, slice):
            amp, phase, misfits = (one[route.rows] for one in arrays)
            return Target(amp, phase, misfits, None, part, route.fixed, route.size, route.rows)
        return Target(*arrays, torch.from_numpy(route.rows), part, route.fixed, route.size, route.rows)

    @property
    def has_rows(self) -> bool:
        """Whether predictions were added since the start, or since `finish`."""
        return bool(self._stitched or self._fixed)

    def restart(self) -> None:
        """Start over in the same arrays. Their rows must be marked as not filled."""
        self.has_diffraction[:] = False
        self._stitched.clear()
        self._fixed.clear()

    def add(self, target: Target, predictions: Predictions, measured: Measured | None = None) -> None:
        """Copy the predictions of a batch, and the misfit of its diffraction.

        Ignores batches of another size (a collate function may skip or repeat samples), because their samples cannot be
        identified.

        Args:
            target: Where to copy to.
            predictions: What the network returned.
            measured: Measured diffraction of the batch; None: unknown, as is the misfit. If it cannot be used, only the
                misfit is lost.

        Raises:
            UnusablePredictionsError: They have a wrong shape, or hold no data.
        """
        amp, phase, diffraction = predictions
        if amp.is_meta:
            raise UnusablePredictionsError("predictions are on the device 'meta', which holds no data.")
        if any(one is not None and one.is_complex() for one in predictions):
            raise UnusablePredictionsError("predictions are complex; expected: real amplitude, phase and diffraction.")
        if not target.fits(predictions):
            return
        if target.part is not None:
            self._check(amp, phase)
            self._put(target.amp, target.rows, amp.detach()[target.part])
            self._put(target.phase, target.rows, phase.detach()[target.part])
            self._put(target.misfit, target.rows, self._misfit(target, diffraction, measured))
            self._stitched.append(target.filled)
        for row, sample in target.fixed:
            tensors = self._tensors
            for to, one in zip(tensors[:3], (amp, phase, diffraction), strict=True):
                if one is None:
                    continue
                patch = one.detach()[sample, 0]
                if patch.shape != to.shape[1:]:
                    raise _wrong_shape(one, f"patches of {self.plan.layout.patch_px} x {self.plan.layout.patch_px} px")
                to[row].copy_(patch, non_blocking=True)
            self.has_diffraction[row] = diffraction is not None
            self._fixed.append(row)

    def _misfit(self, target: Target, predicted: Tensor | None, measured: Measured | None) -> Tensor:
        """Return the misfit of the samples of a batch that fill rows, (r, 2); NaN, (1, 2), if it is unknown."""
        assert target.part is not None
        if predicted is not None and measured is not None:
            try:
                found = measured.read()
                if found is not None:
                    samples, observed = target.part[0], _observed(found, predicted, measured.source)
                    on_gpu = predicted.device.type != "cpu"  # a copy to the CPU must be complete before it is read
                    observed = observed[samples].to(predicted.device, non_blocking=on_gpu)
                    return misfit(predicted.detach()[samples], observed, intensity=self.plan.intensity)
            except Exception as error:  # user code, or a lack of memory: the predictions must be kept
                raise_if_from_signal_handler(error)
                self._misfit_warning(measured.source, error)
        return target.misfit.new_full((1, 2), math.nan)

    def _check(self, amp: Tensor, phase: Tensor) -> None:
        layout = self.plan.layout
        expected = (layout.channels, layout.patch_px, layout.patch_px)
        for one in (amp, phase):
            if one.shape[1:] != expected:
                raise _wrong_shape(one, f"(B, {', '.join(map(str, expected))})")

    @staticmethod
    def _put(target: Tensor, rows: Tensor | None, values: Tensor) -> None:
        if rows is None:
            target.copy_(values, non_blocking=True)
        else:
            target[rows] = values.to(target.device, target.dtype)

    def finish(self) -> None:
        """Wait for all copies, then mark the filled rows."""
        stitched, fixed = _union(self._stitched), as_slice(np.unique(np.array(self._fixed, np.int64)))
        self._copier.finish(self.arrays, self._tensors, fixed, stitched)
        self.arrays.stitch_filled[stitched] = True
        self.arrays.fixed_filled[fixed] = True
        self._stitched.clear()
        self._fixed.clear()

    def take_over(self, other: "Capture") -> None:
        """Copy the rows of another capture into arrays that are not staged. Arrays of another shape are skipped."""
        other.finish()
        for to, source in zip(self.destinations, other.destinations, strict=True):
            pairs = [(to.filled, source.filled), *zip(to.arrays, source.arrays, strict=True)]
            if all(a.shape == b.shape for a, b in pairs):
                for a, b in pairs:
                    a[...] = b


def _union(rows: list[RowNumbers]) -> RowNumbers:
    """Return all rows of a list; as one slice if they are consecutive and in order, as after a whole validation."""
    slices = [one for one in rows if isinstance(one, slice) and one.step == 1]
    if slices and len(slices) == len(rows) and all(a.stop == b.start for a, b in pairwise(slices)):
        return slice(slices[0].start, slices[-1].stop)
    every = [np.arange(one.start or 0, one.stop, one.step) if isinstance(one, slice) else one for one in rows]
    return as_slice(np.unique(np.concatenate([np.zeros(0, np.int64), *every])))


def _wrong_shape(tensor: Tensor, expected: str) -> UnusablePredictionsError:
    return UnusablePredictionsError(f"predictions have the shape {tuple(tensor.shape)}; expected: {expected}.")


def _observed(values: object, predicted: Tensor, source: str) -> Tensor:
    """Return measured patterns as float32 (MPS has no float64). Raises UnusableDataError if predicted ones differ."""
    array = values if isinstance(values, Tensor) else np.asarray(values)
    is_complex = array.is_complex() if isinstance(array, Tensor) else np.iscomplexobj(array)
    if not is_complex and _pattern_shape(array.shape) == _pattern_shape(predicted.shape):
        if isinstance(array, Tensor):
            return array.detach().float()
        with suppress(TypeError, ValueError), np.errstate(over="ignore"):
            return as_tensor(array.astype(np.float32, copy=False))
    raise UnusableDataError(
        f"{source} is {described(values)}; allowed: real numbers in the shape of the predicted diffraction, "
        f"{tuple(predicted.shape)}, with or without axes of length 1."
    )


def _pattern_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (samples, patterns per sample, rows, columns) of a batch of patterns with any number of channel axes."""
    axes = (1, 1, *(n for n in shape[1:] if n != 1))
    return (*shape[:1], math.prod(axes[:-2]), *axes[-2:])


def misfit(predicted: Tensor, observed: Tensor, *, intensity: bool) -> Tensor:
    """Return R-factor and Poisson deviance per photon of each sample, (B, 2) float32, on the device of the patterns.

    sum |A_obs - A_pred| / sum A_obs, and 2 sum [k log(k / lambda) - k + lambda] / sum k with k = A_obs^2 and
    lambda = A_pred^2, at least 1e-12 of the mean k (McCullagh & Nelder, Generalized Linear Models, 2nd ed. (1989),
    section 2.3). Neither depends on the common scale of both patterns, nor on whether these are counts or amplitudes.

    Args:
        predicted: (B, ..., N, N) predicted diffraction.
        observed: Measured diffraction, the same shape but for axes of length 1.
        intensity: Whether both are intensities k and lambda instead of amplitudes.

    Returns:
        Both values; infinite if a measured pattern is dark or a pixel is not finite.
    """
    a, b = observed.flatten(1).float(), predicted.flatten(1).float()
    if intensity:
        a, b = a.clamp(min=0).sqrt_(), b.clamp(min=0).sqrt_()
    r_factor = torch.linalg.vector_norm(a - b, 1, dim=1) / a.sum(1)
    counts, rate = a * a, b * b
    total = counts.sum(1, keepdim=True)
    torch.maximum(rate, total * (_LEAST_RATE / max(1, counts.shape[1])), out=rate)
    terms = counts / rate
    deviance = 2 * torch.xlogy(counts, terms, out=terms).sub_(counts).add_(rate).sum(1) / total[:, 0]
    return torch.stack([r_factor, deviance], dim=1).nan_to_num_(math.inf, math.inf, math.inf)


def crop_of(layout: SnapshotLayout) -> tuple[slice, slice, slice]:
    """Return the index of the centre crops (C, m, m) in a sample (C, N, N)."""
    start = crop_start_px(layout.patch_px, layout.crop_px)
    inside = slice(start, start + layout.crop_px)
    return slice(None), inside, inside
