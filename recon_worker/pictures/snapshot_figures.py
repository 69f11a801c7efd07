"""From a snapshot to its figures and metrics: stitching, comparison with the ground truth, panels.

Each object and patch has two figures. The raw one shows the prediction as it is, for the picture files. The aligned
one, for summary, image cards and gallery, shows the prediction aligned with the ground truth, in the truth's colour
range, beside the errors, which are taken after alignment. Colour ranges stay fixed during a run (`colour_ranges`).
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recon_worker.pictures.colour_ranges import (
    LEAST_ERROR,
    ColourRanges,
    Range,
    error_range,
    log_intensity,
    object_ranges,
    shared_range,
)
from recon_worker.pictures.figures import (
    DIFFRACTION_UNIT,
    Figure,
    amplitude_panel,
    diffraction_panel,
    error_panel,
    phase_panel,
)
from recon_worker.pictures.labels import Kind
from recon_worker.pictures.png import Panel
from recon_worker.reconstruction.comparison import Comparison, agreement_of_halves, compare, quality
from recon_worker.reconstruction.diffraction_metrics import mean_pattern, poisson_deviance, r_factor
from recon_worker.reconstruction.metrics import finite_share
from recon_worker.reconstruction.stitching import Stitched, stitch
from recon_worker.snapshot.array_types import Bool, Complex64, Float32
from recon_worker.snapshot.records import Scan, Snapshot

_DIFFRACTION_ERROR_SHARE = 0.25
"""Upper end of the range of diffraction errors, as a fraction of the span of the measured patterns."""
_Panels = Mapping[Kind, Panel]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """The figures of an object or patch, and the arrays they show."""

    raw: Figure
    """The prediction as it is."""
    aligned: Figure
    """The prediction aligned with the truth; without a truth the same panels as `raw`."""
    predicted: Complex64
    """(H, W) the prediction as it is."""
    scanned: Bool
    """(H, W) where there is a prediction."""
    coverage: Float32 | None = None
    """(H, W) summed weight of the patches; None for a single patch."""
    number: int | None = None
    """Index of the object in the scan; None for a single patch."""
    truth: Complex64 | None = None
    """(H, W) ground truth, NaN where unknown; None: there is none."""


@dataclass(frozen=True)
class RefinedObject:
    """A stitched object that was refined after the prediction, with metrics of the refinement."""

    image: Stitched
    metrics: Mapping[str, float]
    """By name, see `labels.METRICS`."""


class SnapshotFigures:
    """Makes the figures of one snapshot, one picture group at a time.

    Args:
        scan: The run's scan.
        snapshot: The epoch to show.
        colour_ranges: The run's ranges; new ones are added.
        refined: Refined objects, shown beside the predicted ones in the same colour ranges.
    """

    def __init__(
        self, scan: Scan, snapshot: Snapshot, colour_ranges: ColourRanges, refined: Sequence[RefinedObject] = ()
    ) -> None:
        self._scan, self._snapshot, self._colour_ranges, self._refined = scan, snapshot, colour_ranges, refined
        self._arrays = snapshot.arrays

    def picture_groups(self) -> Iterator[tuple[str, Callable[[], Sequence[Reconstruction]]]]:
        """Yield the picture groups of the snapshot in order, as (folder name, factory)."""
        if self._scan.geometry is not None:
            yield "stitched", self._stitched_objects
        if self._refined:
            images, metrics = [one.image for one in self._refined], [one.metrics for one in self._refined]
            yield "refined", functools.partial(self._objects, "refined", images, metrics)
        digits = max(2, len(str(max(self._scan.fixed_indices, default=0))))
        for row, index in enumerate(self._scan.fixed_indices):
            if self._arrays.fixed_filled[row]:
                name = f"patch_{index:0{digits}d}"
                yield name, functools.partial(self._patch, row, index, name)

    # --- the whole object ------------------------------------------------------------------------------------------

    def _stitched_objects(self) -> list[Reconstruction]:
        scan = self._scan
        assert scan.geometry is not None
        patches, filled = self._arrays.stitch_object(), self._arrays.stitch_filled
        images = stitch(scan.geometry, patches, filled)
        halves: Sequence[Mapping[str, float]] = [{} for _ in images]
        if any(truth is None for truth in self._truths(len(images))):
            halves = agreement_of_halves(scan.geometry, patches, filled, scan.pixel_size_m) or halves
        return self._objects("stitched", images, halves)

    def _truths(self, count: int) -> list[Complex64 | None]:
        known = self._scan.ground_truth
        return [*known, *[None] * (count - len(known))]

    def _objects(
        self, kind: str, images: Sequence[Stitched], metrics: Sequence[Mapping[str, float]]
    ) -> list[Reconstruction]:
        """Compare and show all objects of one kind; predicted and refined objects share their colour ranges."""
        truths = self._truths(len(images))
        ranges = object_ranges(
            "stitched",
            truths,
            lambda: [np.abs(image.object[image.scanned]) for image in images],
            self._colour_ranges,
            trained=self._snapshot.epoch > 0,
        )
        names = [kind if number == 0 else f"{kind}_object_{number:02d}" for number in range(len(images))]
        each = zip(names, range(len(images)), images, truths, metrics, strict=True)
        return [self._object(ranges, *one) for one in each]

    def _object(
        self,
        ranges: Mapping[str, Range],
        name: str,
        number: int,
        image: Stitched,
        truth: Complex64 | None,
        known_metrics: Mapping[str, float],
    ) -> Reconstruction:
        scan = self._scan
        metrics, result = dict(known_metrics), None
        if truth is not None:
            result = compare(image.object, truth, image.coverage, ramp=scan.remove_ramp)
            metrics |= result.errors | quality(result, truth, scan.pixel_size_m)
        metrics["finite_share"] = finite_share(image.object, image.scanned)
        metrics["coverage"] = float(image.scanned.mean())
        raw, aligned = _object_panels(image.object, image.scanned, truth, result, ranges)
        return Reconstruction(
            raw=Figure(name=name, metrics=metrics, panels=raw),
            aligned=Figure(name=name, metrics=metrics, panels=aligned),
            predicted=image.object,
            scanned=image.scanned,
            coverage=image.coverage,
            number=number,
            truth=truth,
        )

    # --- sample patches --------------------------------------------------------------------------------------------

    def _patch(self, row: int, index: int, name: str) -> list[Reconstruction]:
        arrays = self._arrays
        predicted = _complex(arrays.fixed_amp[row], arrays.fixed_phase[row])
        scanned, truth, result = np.ones(predicted.shape, bool), self._label(row), None
        if truth is not None:
            result = compare(predicted, truth, _centre(predicted.shape), ramp=False)
        metrics = {} if result is None else dict(result.errors)
        metrics |= self._diffraction_metrics(row) if self._snapshot.has_diffraction else {}
        metrics["finite_share"] = finite_share(predicted, _centre(predicted.shape) > 0)
        diffraction = self._diffraction_panels(row)
        raw, aligned = (
            Figure(name=name, index=index, metrics=metrics, panels={**panels, **diffraction})
            for panels in _object_panels(predicted, scanned, truth, result, self._patch_ranges)
        )
        return [Reconstruction(raw=raw, aligned=aligned, predicted=predicted, scanned=scanned, truth=truth)]

    @functools.cached_property
    def _patch_ranges(self) -> dict[str, Range]:
        """Measured on the central half only: the bright rim is barely illuminated and would leave the rest dark."""
        labels = [self._label(row) for row in range(len(self._scan.fixed_indices))]
        inside = _centre(self._arrays.fixed_amp.shape[1:]) > 0
        amplitudes = self._arrays.fixed_amp[self._arrays.fixed_filled][:, inside]
        return object_ranges(
            "patch",
            [None if label is None else label[inside] for label in labels],
            lambda: [np.abs(amplitudes).ravel()],
            self._colour_ranges,
            trained=self._snapshot.epoch > 0,
        )

    def _label(self, row: int) -> Complex64 | None:
        scan = self._scan
        if scan.label_amp is None or scan.label_phase is None or not scan.label_amp[row].any():
            return None
        return _complex(scan.label_amp[row], scan.label_phase[row])

    def _diffraction_panels(self, row: int) -> _Panels:
        every, ranges = self._scan.observed_diffraction, self._colour_ranges
        low, high = ranges.range_of("patch/diff", lambda: shared_range(log_intensity(every)), fix=True)
        observed = log_intensity(every[row])
        panels: dict[Kind, Panel] = {"diff_obs_logI": diffraction_panel(observed, (low, high))}
        if self._snapshot.has_diffraction:
            predicted = log_intensity(self._arrays.fixed_diffraction[row])
            measure = functools.partial(error_range, high - low, _DIFFRACTION_ERROR_SHARE, LEAST_ERROR)
            errors = ranges.range_of("patch/diff_error", measure, fix=True)
            panels["diff_pred_logI"] = diffraction_panel(predicted, (low, high))
            panels["diff_error_logI"] = error_panel(
                np.abs(predicted - observed), errors, "diffraction error |pred - obs|", DIFFRACTION_UNIT
            )
        return panels

    def _diffraction_metrics(self, row: int) -> dict[str, float]:
        """Compare predicted with measured diffraction, and as the baseline to beat the mean of the logged patterns."""
        scan = self._scan
        observed, mean = scan.observed_diffraction[row], self._mean_pattern
        patterns = {"": self._arrays.fixed_diffraction[row]} | ({} if mean is None else {"mean_pattern_": mean})
        metrics = {}
        for prefix, pattern in patterns.items():
            metrics[f"{prefix}r_factor"] = r_factor(pattern, observed)
            if scan.photon_scale is not None:
                metrics[f"{prefix}deviance"] = poisson_deviance(pattern, observed, float(scan.photon_scale[row]))
        return metrics

    @functools.cached_property
    def _mean_pattern(self) -> Float32 | None:
        return mean_pattern(self._scan.observed_diffraction)


def _object_panels(
    predicted: Complex64,
    scanned: Bool,
    truth: Complex64 | None,
    result: Comparison | None,
    ranges: Mapping[str, Range],
) -> tuple[_Panels, _Panels]:
    """Return the panels of the raw and of the aligned figure of an object; without a truth they are the same."""
    amp, phase = amplitude_panel(predicted, scanned, ranges["amp"]), phase_panel(predicted, scanned)
    if truth is None or result is None:
        raw: _Panels = {"amp_pred": amp, "phase_pred": phase}
        return raw, raw
    known, compared = ~np.isnan(truth), result.compared
    amp_range, phase_range = ranges["amp_aligned"], ranges["phase_aligned"]
    errors = "object {} error |pred - gt|, aligned"
    raw = {
        "amp_pred": amp,
        "amp_gt": amplitude_panel(truth, known, ranges["amp"]),
        "amp_error": error_panel(result.amp_error, ranges["amp_error"], errors.format("amplitude"), "1", compared),
        "phase_pred": phase,
        "phase_gt": phase_panel(truth, known),
        "phase_error": error_panel(
            result.phase_error_rad, ranges["phase_error"], errors.format("phase"), "rad", compared
        ),
    }
    aligned: _Panels = {
        "amp_pred": amplitude_panel(result.aligned, scanned, amp_range, ", aligned"),
        "amp_gt": amplitude_panel(truth, known, amp_range),
        "phase_pred": phase_panel(result.aligned, scanned, phase_range, ", aligned"),
        "phase_gt": phase_panel(truth, known, phase_range),
    }
    return raw, {**raw, **aligned}  # in the order of `raw`


def _complex(amp: Float32, phase: Float32) -> Complex64:
    values: Complex64 = (amp * np.exp(1j * phase)).astype(np.complex64)
    return values


def _centre(shape: tuple[int, ...]) -> Float32:
    """Return 1 on the central half of each axis, else 0: the rest of a patch is barely illuminated and not stitched."""
    inside = np.zeros(shape, np.float32)
    inside[tuple(slice(n // 4, n // 4 + n // 2) for n in shape)] = 1
    return inside
