"""Figures of one epoch: every picture as an array with its colour range, independent of drawing.

    EpochFigures ── objects: Figure   "stitched", "stitched_object_01", ...   amplitude, phase: pred, gt, error
                 └─ patches: Figure   "patch_272", ...                        also diffraction: obs, pred, error

Summary, image cards and gallery are drawn from the same `EpochFigures`, so they always agree. Panels are resized by
whole factors, by averaging squares of pixels or repeating pixels, without interpolation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np

from recon_worker.pictures.colour_ranges import PHASE_RANGE_RAD, Range
from recon_worker.pictures.labels import Kind
from recon_worker.pictures.png import ConstantPanels, Panel
from recon_worker.reconstruction.comparison import Comparison
from recon_worker.reconstruction.misfit import SampleMisfit
from recon_worker.reconstruction.slices import row_blocks
from recon_worker.reconstruction.stitching import Stitched
from recon_worker.snapshot.array_types import Bool, Complex64, Float32, Float64

PHASE_PERIOD = 2 * math.pi
MISFIT = "R-factor of the diffraction of the nearest sample"
_DIMMED: frozenset[Kind] = frozenset({"amp_pred", "amp_gt", "phase_pred", "phase_gt"})
Panels: TypeAlias = Mapping[Kind, Panel]


@dataclass(frozen=True, kw_only=True, eq=False)
class Figure:
    """Panels and metrics of one object or sample patch."""

    name: str
    """Folder within the epoch's folder: "stitched", "stitched_object_01", "patch_272", ..."""
    panels: Panels
    """Panels in display order: always "amp_pred" and "phase_pred", except in the reference, which predicts nothing."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Values by name, NaN where undefined. A name outside `labels.METRICS` is also the label."""
    index: int | None = None
    """Index of the patch in the dataset; None for an object."""
    misfit: SampleMisfit | None = None
    """Misfit of each sample of an object; None: unknown."""

    def compared(self, kind: Kind) -> tuple[slice, slice] | None:
        """Return the part of an object panel of a patch that is compared with the truth; None: all of it.

        Sheets and gallery dim the rest. Error panels show it as not compared.
        """
        if self.index is None or "amp_error" not in self.panels or kind not in _DIMMED:
            return None
        return central_half(self.panels[kind].values.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochFigures:
    """All figures of one epoch."""

    epoch: int
    """Counted from 1; 0 is the untrained network."""
    step: int
    """Optimiser steps so far; the step of the metrics and image cards in MLflow."""
    folder: str
    """Folder of the picture files, such as "epoch_05"; a file is `<folder>/<name of the figure>/<kind>.png`."""
    objects: tuple[Figure, ...] = ()
    patches: tuple[Figure, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the epoch as a whole, by name."""
    pixel_size_m: float | None = None
    """Side of an object pixel in metres, for the scale bar; None: unknown."""

    def figures(self) -> tuple[Figure, ...]:
        """Return the figures of the objects, then those of the patches."""
        return (*self.objects, *self.patches)


def central_half(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return (rows, columns) of the central half of a patch: the rim is barely illuminated and not stitched."""
    rows, columns = (slice(n // 4, n // 4 + n // 2) for n in shape)
    return rows, columns


def amplitude_panel(object_: Complex64, scanned: Bool, value_range: Range, note: str = "") -> Panel:
    """Return a grey panel of the amplitude of an (H, W) complex object; `note` is appended to the quantity."""
    quantity = f"object amplitude{note}"
    return Panel(
        values=np.abs(object_), value_range=value_range, colormap="gray", quantity=quantity, unit="1", scanned=scanned
    )


def phase_panel(object_: Complex64, scanned: Bool, value_range: Range = PHASE_RANGE_RAD, note: str = "") -> Panel:
    """Return a panel of the phase of an (H, W) complex object: cyclic, or wrapped about the centre of the range."""
    full_turn, centre = value_range == PHASE_RANGE_RAD, sum(value_range) / 2
    phase = np.angle(object_) if full_turn else centre + np.angle(object_ * np.exp(-1j * centre))
    return Panel(
        values=phase.astype(np.float32),
        value_range=value_range,
        colormap="twilight" if full_turn else "viridis",
        quantity=f"object phase{note}",
        unit="rad",
        scanned=scanned,
        period=PHASE_PERIOD if full_turn else None,
    )


def true_amplitude_panel(truth: Complex64, value_range: Range) -> Panel:
    """Return the panel of the amplitude of a ground truth, NaN where unknown."""
    return amplitude_panel(truth, ~np.isnan(truth), value_range)


def true_phase_panel(truth: Complex64, value_range: Range) -> Panel:
    """Return the panel of the phase of a ground truth, NaN where unknown."""
    return phase_panel(truth, ~np.isnan(truth), value_range)


def object_panels(
    name: str,
    image: Stitched,
    truth: Complex64 | None,
    result: Comparison | None,
    ranges: Mapping[str, Range],
    constant: ConstantPanels,
) -> tuple[Panels, Panels]:
    """Return the panels of an object's raw and aligned figures; identical without a truth.

    `constant` caches the panels of the truth; `name` is the name of the object or patch.
    """
    scanned = image.scanned
    amp, phase = amplitude_panel(image.object, scanned, ranges["amp"]), phase_panel(image.object, scanned)
    if truth is None or result is None:
        raw: Panels = {"amp_pred": amp, "phase_pred": phase}
        return raw, raw
    amp_range, phase_range = ranges["amp_aligned"], ranges["phase_aligned"]
    (true_amp, true_phase), (aligned_true_amp, aligned_true_phase) = (
        (
            constant.panel((name, "amp", amp), partial(true_amplitude_panel, truth, amp)),
            constant.panel((name, "phase", phase), partial(true_phase_panel, truth, phase)),
        )
        for amp, phase in ((ranges["amp"], PHASE_RANGE_RAD), (amp_range, phase_range))
    )
    raw = {
        "amp_pred": amp,
        "amp_gt": true_amp,
        "amp_error": _error_panel("amplitude", result, ranges["amp_error"]),
        "phase_pred": phase,
        "phase_gt": true_phase,
        "phase_error": _error_panel("phase", result, ranges["phase_error"]),
    }
    aligned: Panels = {
        "amp_pred": amplitude_panel(result.aligned, scanned, amp_range, ", aligned"),
        "amp_gt": aligned_true_amp,
        "phase_pred": phase_panel(result.aligned, scanned, phase_range, ", aligned"),
        "phase_gt": aligned_true_phase,
    }
    return raw, {**raw, **aligned}  # in the order of `raw`


def misfit_panel(misfit: SampleMisfit, scanned: Bool, value_range: Range) -> Panel:
    """Return the map of the R-factors of an object's samples."""
    values, shown = misfit.image(scanned)
    return Panel(values=values, value_range=value_range, colormap="inferno", quantity=MISFIT, unit="1", scanned=shown)


def _error_panel(part: Literal["amplitude", "phase"], result: Comparison, value_range: Range) -> Panel:
    values, unit = (result.amp_error, "1") if part == "amplitude" else (result.phase_error_rad, "rad")
    quantity = f"object {part} error |pred - gt|, aligned"
    return Panel(
        values=values,
        value_range=value_range,
        colormap="inferno",
        quantity=quantity,
        unit=unit,
        scanned=result.compared,
    )


def downsampled(panel: Panel, block_px: int) -> Panel:
    """Average a panel over squares of block_px x block_px pixels; (ceil(H / block), ceil(W / block)).

    Averages scanned pixels only; a square without scanned pixels is not scanned. A square with NaN or infinity is
    not finite, so that a single faulty pixel stays visible. Cyclic values are averaged as directions:
    period / 2 pi times the angle of sum exp(2 pi i value / period).
    """
    return panel if block_px == 1 else panel.derived(f"downsampled {block_px}", lambda: _block_means(panel, block_px))


def levels_of(panel: Panel, side_px: int) -> list[Panel]:
    """Return a panel, then `downsampled` by 2, 4, 8, ... until its longer side is at most `side_px`.

    Each level is summed from the one before, which takes a third of the time of averaging the whole panel each time.
    """
    levels, sums = [panel], list[Float64]()
    while max((sums[0] if sums else panel.values).shape) > side_px:
        sums = [_block_sums(one, 2) for one in sums] if sums else _half_size_sums(panel)
        mask = None if panel.scanned is None else sums[0] > 0
        levels.append(replace(panel, values=_mean(sums, panel.period), scanned=mask))
    return levels


def _half_size_sums(panel: Panel) -> list[Float64]:
    """Return the `_sums` of a whole panel over squares of 2 x 2 px, computed in blocks of rows."""
    height, width = (-(-side // 2) for side in panel.values.shape)
    sums = [np.empty((height, width)) for _ in range(2 if panel.period is None else 3)]
    for rows in row_blocks(panel.values.shape, multiple=2):
        for whole, part in zip(sums, _sums(panel, rows, 2), strict=True):
            whole[rows.start // 2 : rows.start // 2 + len(part)] = part
    return sums


def _block_means(panel: Panel, block_px: int) -> Panel:
    means, covered = [], []
    for rows in row_blocks(panel.values.shape, multiple=block_px):
        sums = _sums(panel, rows, block_px)
        means.append(_mean(sums, panel.period))
        covered.append(sums[0] > 0)
    mask = None if panel.scanned is None else np.concatenate(covered)
    return replace(panel, values=np.concatenate(means), scanned=mask)


def _sums(panel: Panel, rows: slice, block_px: int) -> list[Float64]:
    """Sum rows over squares: the number of scanned pixels, then the values, or x and y of cyclic ones as directions."""
    values = np.asarray(panel.values[rows], np.float64)
    scanned = np.ones(values.shape, bool) if panel.scanned is None else panel.scanned[rows]
    sums = [_block_sums(scanned.astype(np.float64), block_px)]
    with np.errstate(invalid="ignore", over="ignore"):
        if panel.period is None:
            return [*sums, _block_sums(np.where(scanned, values, 0), block_px)]
        turns = values * (2 * np.pi / panel.period)
        return [*sums, *(_block_sums(np.where(scanned, wave(turns), 0), block_px) for wave in (np.cos, np.sin))]


def _mean(sums: Sequence[Float64], period: float | None) -> Float32:
    """Return the mean over the scanned pixels of squares from their `_sums`."""
    with np.errstate(invalid="ignore", over="ignore"):
        if period is None:
            mean = sums[1] / np.maximum(sums[0], 1)
        else:
            mean = np.arctan2(sums[2], sums[1]) / (2 * np.pi / period)
        return mean.astype(np.float32)


def enlarged(panel: Panel, factor: int) -> Panel:
    """Repeat each pixel of a panel `factor` times along both axes."""
    if factor == 1:
        return panel
    values, scanned = panel.values.repeat(factor, axis=0).repeat(factor, axis=1), panel.scanned
    mask = None if scanned is None else scanned.repeat(factor, axis=0).repeat(factor, axis=1)
    return replace(panel, values=values, scanned=mask)


def _block_sums(values: Float64, block_px: int) -> Float64:
    """Sum over squares; those at the lower and right edge may be incomplete."""
    if block_px == 2:  # the same sums, fifteen times as fast: the levels of tiles need many
        pairs = values[::2].copy()
        pairs[: len(values) // 2] += values[1::2]
        sums = pairs[:, ::2].copy()
        sums[:, : pairs.shape[1] // 2] += pairs[:, 1::2]
        return sums
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], block_px), axis=0)
    return np.asarray(np.add.reduceat(rows, np.arange(0, values.shape[1], block_px), axis=1))
