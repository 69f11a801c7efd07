"""From a snapshot to what is shown of it: every picture as an array with its colour range (`views`), and the numbers.

Each object and patch has two views. The picture files are of the raw prediction. Summary, image cards and gallery
compare: where there is a truth they show the prediction aligned with it, in the truth's range, beside the errors that
are taken after alignment. Ranges stay the same during a run (`scales`).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recon_worker.pictures.colour_ranges import Range, Scales, error_range
from recon_worker.pictures.looks import LEAST_ERROR, Look, make_look
from recon_worker.pictures.png import log_intensity, shared_range
from recon_worker.pictures.views import ObjectView, Panel, PatchView
from recon_worker.reconstruction.comparison import agreement_of_halves, compare, quality
from recon_worker.reconstruction.diffraction_metrics import mean_pattern, poisson_deviance, r_factor
from recon_worker.reconstruction.metrics import finite_share
from recon_worker.reconstruction.stitching import Stitched, stitch
from recon_worker.snapshot.array_types import Bool, Complex64, Float32
from recon_worker.snapshot.records import Scan, Snapshot

_DIFFRACTION_ERROR_SHARE = 0.25
"""The largest error with a colour of its own, in parts of what the measured patterns span."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """The views of an object or patch, and the arrays that they were made from."""

    view: ObjectView
    """The raw prediction, for the picture files."""
    compared: ObjectView
    """The aligned prediction; without a truth the same as `view`."""
    predicted: Complex64
    """(H, W) as predicted."""
    scanned: Bool
    """(H, W) where there is a prediction."""
    coverage: Float32 | None = None
    """(H, W) summed weight of the patches; None for a single patch."""
    number: int | None = None
    """Which object of the scan; None for a single patch."""
    truth: Complex64 | None = None
    """(H, W) NaN where unknown; None: there is none."""


@dataclass(frozen=True)
class RefinedObject:
    """A stitched object that was improved after the prediction, with numbers of its own."""

    image: Stitched
    metrics: Mapping[str, float]
    """By a name of `views.METRICS`."""


class Panels:
    """Makes the views of one snapshot.

    Args:
        scan: The run's scan.
        snapshot: What is shown.
        scales: Colour ranges; those that are fixed now are added to it.
        refined: Objects that are shown beside the predicted ones, in the same colours.
    """

    def __init__(self, scan: Scan, snapshot: Snapshot, scales: Scales, refined: Sequence[RefinedObject] = ()) -> None:
        self._refined = refined
        self._scan, self._arrays, self._scales = scan, snapshot.arrays, scales
        self._has_diffraction = snapshot.has_diffraction
        self._trained = snapshot.epoch > 0

    def planned(self) -> Iterator[tuple[str, Callable[[], Sequence[Shown]]]]:
        """What there is to make, one group after the other: (name of its folder, how to make it)."""
        if self._scan.geometry is not None:
            yield "stitched", self._stitched
        if self._refined:
            yield "refined", self._refined_objects
        digits = max(2, len(str(max(self._scan.fixed_indices, default=0))))
        for row, index in enumerate(self._scan.fixed_indices):
            if self._arrays.fixed_filled[row]:
                name = f"patch_{index:0{digits}d}"
                yield name, functools.partial(self._patch, row, index, name)

    # --- the whole object ------------------------------------------------------------------------------------------

    def _stitched(self) -> list[Shown]:
        scan = self._scan
        assert scan.geometry is not None
        patches, filled = self._arrays.stitch_object(), self._arrays.stitch_filled
        images = stitch(scan.geometry, patches, filled)
        halves: Sequence[Mapping[str, float]] = [{} for _ in images]
        if any(truth is None for truth in self._truths(len(images))):
            halves = agreement_of_halves(scan.geometry, patches, filled, scan.pixel_size_m) or halves
        return self._objects("stitched", images, halves)

    def _refined_objects(self) -> list[Shown]:
        images, numbers = ([getattr(one, name) for one in self._refined] for name in ("image", "metrics"))
        return self._objects("refined", images, numbers)

    def _truths(self, count: int) -> list[Complex64 | None]:
        known = self._scan.ground_truth
        return [*known, *[None] * (count - len(known))]

    def _objects(self, kind: str, images: Sequence[Stitched], numbers: Sequence[Mapping[str, float]]) -> list[Shown]:
        """Of one kind; all kinds share their colours."""
        truths = self._truths(len(images))
        look = make_look(
            "stitched",
            truths,
            lambda: [np.abs(image.object[image.scanned]) for image in images],
            self._scales,
            trained=self._trained,
        )
        names = [kind if number == 0 else f"{kind}_object_{number:02d}" for number in range(len(images))]
        every = zip(names, range(len(images)), images, truths, numbers, strict=True)
        return [self._object(look, *each) for each in every]

    def _object(
        self, look: Look, name: str, number: int, image: Stitched, truth: Complex64 | None, known: Mapping[str, float]
    ) -> Shown:
        scan = self._scan
        numbers, result = dict(known), None
        if truth is not None:
            result = compare(image.object, truth, image.coverage, ramp=scan.remove_ramp)
            numbers |= result.errors | quality(result, truth, scan.pixel_size_m)
        numbers["finite_share"] = finite_share(image.object, image.scanned)
        numbers["coverage"] = float(image.scanned.mean())
        view = ObjectView(name=name, metrics=numbers, **look.panels(image.object, image.scanned, truth, result))
        return Shown(
            view=view,
            compared=dataclasses.replace(view, **look.aligned_panels(image.scanned, truth, result)),
            predicted=image.object,
            scanned=image.scanned,
            coverage=image.coverage,
            number=number,
            truth=truth,
        )

    # --- sample patches --------------------------------------------------------------------------------------------

    def _patch(self, row: int, index: int, name: str) -> list[Shown]:
        arrays = self._arrays
        predicted = _complex(arrays.fixed_amp[row], arrays.fixed_phase[row])
        seen, truth, result = np.ones(predicted.shape, bool), self._label(row), None
        if truth is not None:
            result = compare(predicted, truth, _centre(predicted.shape), ramp=False)
        diffraction, numbers = self._diffraction(row)
        numbers["finite_share"] = finite_share(predicted, _centre(predicted.shape) > 0)
        view = PatchView(
            name=name,
            index=index,
            metrics=(result.errors if result is not None else {}) | numbers,
            **self._patch_look.panels(predicted, seen, truth, result),
            **diffraction,
        )
        compared = dataclasses.replace(view, **self._patch_look.aligned_panels(seen, truth, result))
        return [Shown(view=view, compared=compared, predicted=predicted, scanned=seen, truth=truth)]

    @functools.cached_property
    def _patch_look(self) -> Look:
        """Ranges come from the central half: the bright rim beyond is hardly lit, and would leave the rest dark."""
        labels = [self._label(row) for row in range(len(self._scan.fixed_indices))]
        inside = _centre(self._arrays.fixed_amp.shape[1:]) > 0
        amplitudes = self._arrays.fixed_amp[self._arrays.fixed_filled][:, inside]
        centres = [None if label is None else label[inside] for label in labels]
        return make_look("patch", centres, lambda: [np.abs(amplitudes).ravel()], self._scales, trained=self._trained)

    def _label(self, row: int) -> Complex64 | None:
        scan = self._scan
        if scan.label_amp is None or scan.label_phase is None or not scan.label_amp[row].any():
            return None
        return _complex(scan.label_amp[row], scan.label_phase[row])

    def _diffraction(self, row: int) -> tuple[dict[str, Panel], dict[str, float]]:
        observed = log_intensity(self._scan.observed_diffraction[row])
        all_observed = self._scan.observed_diffraction
        span = self._scales.range_of("patch/diff", lambda: shared_range(log_intensity(all_observed)), fix=True)
        panels = {"diff_obs": _diffraction_panel(observed, span)}
        if not self._has_diffraction:
            return panels, {}
        predicted = log_intensity(self._arrays.fixed_diffraction[row])
        errors = self._scales.range_of(
            "patch/diff_error",
            lambda: error_range(span[1] - span[0], _DIFFRACTION_ERROR_SHARE, LEAST_ERROR),
            fix=True,
        )
        panels["diff_pred"] = _diffraction_panel(predicted, span)
        panels["diff_error"] = Panel(
            values=np.abs(predicted - observed),
            value_range=errors,
            colormap="inferno",
            quantity="diffraction error |pred - obs|",
            unit=_DIFFRACTION_UNIT,
        )
        return panels, self._agreement(row)

    def _agreement(self, row: int) -> dict[str, float]:
        """Of predicted and measured diffraction, beside what the mean of the logged patterns has: the line to beat."""
        scan = self._scan
        observed, mean = scan.observed_diffraction[row], self._mean_pattern
        patterns = {"": self._arrays.fixed_diffraction[row]} | ({} if mean is None else {"mean_pattern_": mean})
        numbers = {}
        for kind, pattern in patterns.items():
            numbers[f"{kind}r_factor"] = r_factor(pattern, observed)
            if scan.photon_scale is not None:
                numbers[f"{kind}deviance"] = poisson_deviance(pattern, observed, float(scan.photon_scale[row]))
        return numbers

    @functools.cached_property
    def _mean_pattern(self) -> Float32 | None:
        return mean_pattern(self._scan.observed_diffraction)


_DIFFRACTION_UNIT = "log(1 + data amplitude squared)"


def _diffraction_panel(values: Float32, value_range: Range) -> Panel:
    return Panel(
        values=values,
        value_range=value_range,
        colormap="magma",
        quantity="diffraction log(1 + intensity)",
        unit=_DIFFRACTION_UNIT,
    )


def _complex(amp: Float32, phase: Float32) -> Complex64:
    values: Complex64 = (amp * np.exp(1j * phase)).astype(np.complex64)
    return values


def _centre(shape: tuple[int, ...]) -> Float32:
    """1 on the central half of each axis, else 0: beyond it a patch is hardly lit, and is not stitched."""
    inside = np.zeros(shape, np.float32)
    inside[tuple(slice(n // 4, n // 4 + n // 2) for n in shape)] = 1
    return inside
