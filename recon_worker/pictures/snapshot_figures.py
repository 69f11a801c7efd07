"""Computes the figures and metrics of a snapshot: stitching, comparison with the ground truth, panels.

`reference_figures` makes those of the reference: the data known before training.

Each object and patch has two figures. The raw figure, for the picture files, shows the unaligned prediction. The
aligned figure, for summary, image cards and gallery, shows the prediction aligned with the ground truth, in the truth's
colour range. Errors are computed after alignment in both. Colour ranges are fixed per run (`colour_ranges`).
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recon_worker.pictures.colour_ranges import (
    LEAST_ERROR,
    ColourRanges,
    Range,
    log_intensity,
    misfit_range,
    object_ranges,
    shared_range,
    true_ranges,
)
from recon_worker.pictures.figures import (
    EpochFigures,
    Figure,
    Panels,
    central_half,
    misfit_panel,
    object_panels,
    true_amplitude_panel,
    true_phase_panel,
)
from recon_worker.pictures.labels import HALF_PERIODS, Kind, object_folder
from recon_worker.pictures.png import ConstantPanels, Panel
from recon_worker.reconstruction.comparison import agreement_of_halves, compare, quality
from recon_worker.reconstruction.diffraction_metrics import mean_pattern, poisson_deviance, r_factor
from recon_worker.reconstruction.metrics import finite_share
from recon_worker.reconstruction.misfit import SampleMisfit, misfit_of
from recon_worker.reconstruction.stitching import Stitched, stitch
from recon_worker.snapshot.array_types import Bool, Complex64, Float32
from recon_worker.snapshot.records import Scan, Snapshot

_DIFFRACTION_ERROR_SHARE = 0.25
"""Upper end of the range of diffraction errors, as a fraction of the span of the measured patterns."""
_PATTERN, _LOG_UNIT = "diffraction log(1 + intensity)", "log(1 + data amplitude squared)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """Figures of an object or patch, and the arrays they show."""

    raw: Figure
    """Unaligned prediction."""
    aligned: Figure
    """Prediction aligned with the truth; without a truth the same panels as `raw`."""
    image: Stitched
    """Unaligned prediction; a single patch covers all its pixels."""
    number: int | None = None
    """Index of the object in the scan; None for a single patch."""
    truth: Complex64 | None = None
    """(H, W) ground truth, NaN where unknown; None: no ground truth."""


@dataclass(frozen=True)
class RefinedObject:
    """A stitched object refined after the prediction, with metrics of the refinement."""

    image: Stitched
    metrics: Mapping[str, float]
    """Values by name, see `labels.METRICS`."""


@dataclass(frozen=True, eq=False)
class SnapshotFigures:
    """Makes the figures of one snapshot, one picture group at a time."""

    scan: Scan
    """Scan of the run."""
    snapshot: Snapshot
    """Epoch to show."""
    colour_ranges: ColourRanges
    """The run's ranges; new ones are added."""
    refined: Sequence[RefinedObject] = ()
    """Refined objects, shown beside the predicted ones in the same colour ranges."""
    constant: ConstantPanels = field(default_factory=ConstantPanels)
    """Panels of this scan that earlier epochs made."""

    def picture_groups(self) -> Iterator[tuple[str, Callable[[], Sequence[Reconstruction]]]]:
        """Yield the picture groups of the snapshot in order, as (folder name, factory)."""
        if self.scan.geometry is not None:
            yield "stitched", self._stitched_objects
        if self.refined:
            images, metrics = [one.image for one in self.refined], [one.metrics for one in self.refined]
            yield "refined", functools.partial(self._objects, "refined", images, metrics)
        for row, (index, name) in enumerate(_patch_names(self.scan)):
            if self.snapshot.arrays.fixed_filled[row]:
                yield name, functools.partial(self._patch, row, index, name)

    def _stitched_objects(self) -> list[Reconstruction]:
        scan = self.scan
        assert scan.geometry is not None
        patches, filled = self.snapshot.arrays.stitch_object(), self.snapshot.arrays.stitch_filled
        images = stitch(scan.geometry, patches, filled)
        halves: Sequence[Mapping[str, float]] = [{} for _ in images]
        if sum(truth is not None for truth in scan.ground_truth) < len(images):
            halves = agreement_of_halves(scan.geometry, patches, filled, scan.pixel_size_m) or halves
        return self._objects("stitched", images, halves)

    def _objects(
        self, kind: str, images: Sequence[Stitched], metrics: Sequence[Mapping[str, float]]
    ) -> list[Reconstruction]:
        """Compare and draw all objects of one kind; predicted and refined objects share their colour ranges."""
        known = self.scan.ground_truth
        truths = [*known, *[None] * (len(images) - len(known))]
        ranges = object_ranges(
            "stitched",
            truths,
            lambda: [np.abs(image.object[image.scanned]) for image in images],
            self.colour_ranges,
            trained=self.snapshot.epoch > 0,
        )
        made = []
        for number, (image, truth, known_metrics) in enumerate(zip(images, truths, metrics, strict=True)):
            numbers, result = dict(known_metrics), None
            if truth is not None:
                result = compare(image.object, truth, image.coverage, ramp=self.scan.remove_ramp)
                numbers |= result.errors | quality(result, truth, self.scan.pixel_size_m)
            if self.snapshot.epoch == 0 and kind == "stitched":
                numbers = {name: value for name, value in numbers.items() if name not in HALF_PERIODS}
            numbers["finite_share"] = finite_share(image.object, image.scanned)
            numbers["coverage"] = float(image.scanned.mean())
            name = object_folder(kind, number)
            panels = object_panels(name, image, truth, result, ranges, self.constant)
            misfit, map_ = self._misfit(number, image) if kind == "stitched" else (None, {})
            numbers |= {} if misfit is None else misfit.metrics()
            raw, aligned = (Figure(name=name, metrics=numbers, panels={**one, **map_}, misfit=misfit) for one in panels)
            made.append(Reconstruction(raw=raw, aligned=aligned, image=image, number=number, truth=truth))
        return made

    def _misfit(self, number: int, image: Stitched) -> tuple[SampleMisfit | None, Panels]:
        """Return the misfit of an object's samples, and its map; None and no panel if it is unknown."""
        arrays = self.snapshot.arrays
        found = misfit_of(self.scan.geometry, number, arrays.misfit, arrays.stitch_filled)
        if found is None:
            return None, {}
        value_range = misfit_range(self.scan, arrays.misfit, self.colour_ranges, trained=self.snapshot.epoch > 0)
        return found, {"misfit": misfit_panel(found, image.scanned, value_range)}

    def _patch(self, row: int, index: int, name: str) -> list[Reconstruction]:
        arrays = self.snapshot.arrays
        predicted = (arrays.fixed_amp[row] * np.exp(1j * arrays.fixed_phase[row])).astype(np.complex64)
        image = Stitched(object=predicted, coverage=np.ones(predicted.shape, np.float32))
        truth, result, centre = _true_patch(self.scan, row), None, _centre(predicted.shape)
        if truth is not None:
            result = compare(predicted, truth, centre, ramp=False)
        metrics = {} if result is None else result.errors
        metrics |= self._diffraction_metrics(row)
        metrics["finite_share"] = finite_share(predicted, centre > 0)
        diffraction = self._diffraction_panels(row)
        raw, aligned = (
            Figure(name=name, index=index, metrics=metrics, panels={**panels, **diffraction})
            for panels in object_panels(name, image, truth, result, self._patch_ranges, self.constant)
        )
        return [Reconstruction(raw=raw, aligned=aligned, image=image, truth=truth)]

    @functools.cached_property
    def _patch_ranges(self) -> dict[str, Range]:
        """Ranges measured on the central half: the rim, barely illuminated but bright, would darken the rest."""
        arrays = self.snapshot.arrays
        labels = [_true_patch(self.scan, row) for row in range(len(self.scan.fixed_indices))]
        inside = _centre(arrays.fixed_amp.shape[1:]) > 0
        amplitudes = arrays.fixed_amp[arrays.fixed_filled][:, inside]
        return object_ranges(
            "patch",
            [None if label is None else label[inside] for label in labels],
            lambda: [np.abs(amplitudes).ravel()],
            self.colour_ranges,
            trained=self.snapshot.epoch > 0,
        )

    def _diffraction_panels(self, row: int) -> Panels:
        every, predicted, panels = self.scan.observed_diffraction, None, dict[Kind, Panel]()
        if every is not None:
            value_range, observed = self._pattern_range, every[row]
            panels["diff_obs_logI"] = self.constant.panel(
                ("diff_obs", row, value_range), lambda: _pattern_panel(log_intensity(observed), value_range)
            )
        if self.snapshot.has_diffraction:
            predicted = log_intensity(self.snapshot.arrays.fixed_diffraction[row])
            panels["diff_pred_logI"] = _pattern_panel(predicted, self._pattern_range)
        if every is not None and predicted is not None:
            low, high = self._pattern_range
            largest_error = max(_DIFFRACTION_ERROR_SHARE * (high - low), LEAST_ERROR)
            panels["diff_error_logI"] = Panel(
                values=np.abs(predicted - panels["diff_obs_logI"].values),
                value_range=self.colour_ranges.range_of("patch/diff_error", lambda: (0.0, largest_error)),
                colormap="inferno",
                quantity="diffraction error |pred - obs|",
                unit=_LOG_UNIT,
            )
        return panels

    @functools.cached_property
    def _pattern_range(self) -> Range:
        """Range of the measured patterns; without them, of those that the trained network first predicts."""
        observed, arrays = self.scan.observed_diffraction, self.snapshot.arrays
        if observed is not None:
            return self.colour_ranges.range_of("patch/diff", lambda: shared_range(log_intensity(observed)))
        ranges = self.colour_ranges if self.snapshot.epoch > 0 else ColourRanges(dict(self.colour_ranges.ranges))
        predicted = arrays.fixed_diffraction[arrays.fixed_filled]
        return ranges.range_of("patch/diff", lambda: shared_range(log_intensity(predicted)))

    def _diffraction_metrics(self, row: int) -> dict[str, float]:
        """Compare predicted and, as a baseline, mean diffraction with the measured pattern; empty if one is missing."""
        scan = self.scan
        if scan.observed_diffraction is None or not self.snapshot.has_diffraction:
            return {}
        observed, mean = scan.observed_diffraction[row], self._mean_pattern
        patterns = {"": self.snapshot.arrays.fixed_diffraction[row]} | ({} if mean is None else {"mean_pattern_": mean})
        metrics = {}
        for prefix, pattern in patterns.items():
            metrics[f"{prefix}r_factor"] = r_factor(pattern, observed)
            if scan.photon_scale is not None:
                metrics[f"{prefix}deviance"] = poisson_deviance(pattern, observed, float(scan.photon_scale[row]))
        return metrics

    @functools.cached_property
    def _mean_pattern(self) -> Float32 | None:
        observed = self.scan.observed_diffraction
        return None if observed is None else mean_pattern(observed)


def reference_figures(scan: Scan) -> EpochFigures:
    """Return figures of the data known before training, if any, in the colour ranges of the later aligned figures.

    Objects and patches have "amp_gt" and "phase_gt" if they have a ground truth, patches also "diff_obs_logI".
    """
    truths = [] if scan.geometry is None else list(scan.ground_truth)
    objects = _truth_panels(truths, slice(None))
    rows = range(len(scan.fixed_indices))
    labels = [_true_patch(scan, row) for row in rows]
    inside = next((_centre(label.shape) > 0 for label in labels if label is not None), slice(None))
    patches = _truth_panels(labels, inside)
    if scan.observed_diffraction is not None:
        every = log_intensity(scan.observed_diffraction)
        for row in rows:
            patches[row]["diff_obs_logI"] = _pattern_panel(every[row], shared_range(every))
    names = _patch_names(scan)
    return EpochFigures(
        epoch=0,
        step=0,
        folder="",
        objects=tuple(Figure(name=object_folder("stitched", n), panels=one) for n, one in enumerate(objects) if one),
        patches=tuple(
            Figure(name=names[row][1], index=names[row][0], panels=patches[row]) for row in rows if patches[row]
        ),
        pixel_size_m=scan.pixel_size_m,
    )


def _truth_panels(truths: Sequence[Complex64 | None], measured: Bool | slice) -> list[dict[Kind, Panel]]:
    """Return the panels of each ground truth, none for None; `measured` selects the pixels that define the ranges."""
    known = [truth[measured] for truth in truths if truth is not None]
    ranges = true_ranges(known) if known else {}
    return [
        {}
        if truth is None
        else {
            "amp_gt": true_amplitude_panel(truth, ranges["amp_aligned"]),
            "phase_gt": true_phase_panel(truth, ranges["phase_aligned"]),
        }
        for truth in truths
    ]


def _pattern_panel(log_intensities: Float32, value_range: Range) -> Panel:
    return Panel(values=log_intensities, value_range=value_range, colormap="magma", quantity=_PATTERN, unit=_LOG_UNIT)


def _patch_names(scan: Scan) -> list[tuple[int, str]]:
    """Return (dataset index, name) of each fixed patch."""
    digits = max(2, len(str(max(scan.fixed_indices, default=0))))
    return [(index, f"patch_{index:0{digits}d}") for index in scan.fixed_indices]


def _true_patch(scan: Scan, row: int) -> Complex64 | None:
    if scan.label_amp is None or scan.label_phase is None or not scan.label_amp[row].any():
        return None
    label: Complex64 = (scan.label_amp[row] * np.exp(1j * scan.label_phase[row])).astype(np.complex64)
    return label


def _centre(shape: tuple[int, ...]) -> Float32:
    """Return a mask, 1 on the central half of each axis, 0 on the rim."""
    inside = np.zeros(shape, np.float32)
    inside[central_half(shape)] = 1
    return inside
