"""The figures of one epoch: every picture as an array with its colour range, before anything is drawn.

    EpochFigures ── objects: Figure   "stitched", "stitched_object_01", ...   amplitude, phase: pred, gt, error
                 └─ patches: Figure   "patch_272", ...                        also diffraction: obs, pred, error

Summary, image cards and gallery are drawn from the same `EpochFigures` and therefore always agree.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from recon_worker.pictures.colour_ranges import PHASE_RANGE_RAD, Range
from recon_worker.pictures.labels import Kind
from recon_worker.pictures.png import Panel
from recon_worker.snapshot.array_types import Bool, Complex64

PHASE_PERIOD = 2 * math.pi


@dataclass(frozen=True, kw_only=True, eq=False)
class Figure:
    """The panels and metrics of one object or sample patch."""

    name: str
    """Folder within the epoch's folder: "stitched", "stitched_object_01", "patch_272", ..."""
    panels: Mapping[Kind, Panel]
    """In display order. "amp_pred" and "phase_pred" always exist, of a patch "diff_obs_logI" too."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """By name; NaN where not defined. Names outside `labels.METRICS` are shown as they are."""
    index: int | None = None
    """Index of the patch in the dataset; None for an object."""


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


def amplitude_panel(object_: Complex64, scanned: Bool, value_range: Range, note: str = "") -> Panel:
    """Show the amplitude of a (H, W) complex object in gray; `note` is appended to the quantity."""
    quantity = f"object amplitude{note}"
    return Panel(
        values=np.abs(object_), value_range=value_range, colormap="gray", quantity=quantity, unit="1", scanned=scanned
    )


def phase_panel(object_: Complex64, scanned: Bool, value_range: Range = PHASE_RANGE_RAD, note: str = "") -> Panel:
    """Show the phase of a (H, W) complex object: cyclic in a full turn, else wrapped about the centre of the range."""
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
