"""Plausibility of positions: unit, patches per sample, order of axes and of samples, reach within the true object."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon_worker.capture.errors import WrongSettingError
from recon_worker.capture.placement.nesting import Part, to_array
from recon_worker.capture.placement.positions import Positions
from recon_worker.reconstruction.patches import cut_patch
from recon_worker.reconstruction.stitching import crop_to_footprint
from recon_worker.snapshot.array_types import Complex64, Float64
from recon_worker.system.handler_errors import raise_if_from_signal_handler
from recon_worker.system.messages import message_log

_log = message_log(__name__)

_MIN_FIELD_PX = 1.0
"""Minimum extent of distinct positions; a smaller one indicates another unit."""
_MAX_PX = 2.0**31
_RIM_PX = 2.0
"""Maximum reach of a patch beyond the true object that is not taken for swapped axes."""
_COMPARED, _SAME = 16, 0.5
"""Number of stored patches that are compared with the true object, and their minimum median correlation."""


def check_unit(found: Positions, channels: int | None) -> None:
    """Check that positions are plausible in pixels, and that samples have the network's number of patches.

    Raises:
        ValueError: They are not; a WrongSettingError if the user passed them.
    """
    error = WrongSettingError if found.explicit else ValueError
    per_sample = found.px.shape[1]
    if channels is not None and per_sample != channels:
        raise error(
            f"{found.source} has {per_sample} patches per sample, but the network predicts {channels}; allowed: "
            f"positions (n, {channels}, 2), or (n, 2) with coords_relative in the dataset's container."
        )
    places = found.px.reshape(-1, 2)
    if not len(places) or not np.isfinite(places).all():
        return
    if np.abs(places).max() > _MAX_PX:
        raise error(
            f"{found.source} reaches {np.abs(places).max():.3g}, beyond any object; allowed: patch centres in pixels "
            "of the object. Check their unit, and look for outliers."
        )
    for where, (width, height) in _extents(found.px).items():
        if 0 < max(width, height) < _MIN_FIELD_PX:
            raise error(
                f"{found.source} spans {width:.3g} x {height:.3g}{where} (width x height), less than one pixel; "
                "allowed: patch centres in pixels of the object. If they are in metres, divide them by the pixel size "
                "of the object."
            )


def _extents(px: Float64) -> dict[str, Float64]:
    """Return (width, height) of positions, (n, C, 2): of all, between samples and within a sample.

    Positions between and within samples may come from different sources, each of which may have a wrong unit.
    """
    extents = {"": np.ptp(px.reshape(-1, 2), axis=0)}
    if px.shape[1] > 1:
        rounding = np.spacing(np.abs(px).max()) * px.shape[1]
        means, within = np.ptp(px.mean(axis=1), axis=0), np.ptp(px, axis=1).max(axis=0)
        extents[" between samples"] = np.where(means > rounding, means, 0)
        extents[" within a sample"] = np.where(within > rounding, within, 0)
    return extents


def check_reach(found: Positions, objects: dict[int, Complex64], n_px: int, *, explicit_truth: bool) -> None:
    """Check that patches lie in their true objects; removes, with a warning, an object that belongs to other positions.

    Raises:
        ValueError: The axes are swapped, the object does not have the size of the grid, or an explicit truth belongs
            to other positions; a WrongSettingError if the user passed positions or truth.
    """
    if found.grid is not None:
        try:
            for true_object in objects.values():
                crop_to_footprint(found.grid, true_object)
        except ValueError as problem:
            if explicit_truth:
                raise WrongSettingError(f"ground_truth does not match the grid of the samples: {problem}") from problem
            raise
        return
    error = WrongSettingError if found.explicit or explicit_truth else ValueError
    for number, true_object in list(objects.items()):
        centres = found.px[found.object_id == number].reshape(-1, 2)
        if not len(centres) or not np.isfinite(centres).all():
            continue
        size = np.array(true_object.shape[::-1], np.float64)
        field = "{:.4g} ... {:.4g} and {:.4g} ... {:.4g}".format(*np.stack([centres.min(0), centres.max(0)], 1).flat)
        where = f"{found.source} has (x, y) = {field} px, the true object (width x height) {size[0]:g} x {size[1]:g} px"
        given, swapped = _reach(centres, size, n_px), _reach(centres[:, ::-1], size, n_px)
        if given > _RIM_PX >= swapped:
            raise error(
                f"{where}: patches of {n_px} px leave it by {given:.4g} px, but fit with x and y swapped; allowed: (x, "
                "y), x is the column and y the row. Swap them: positions[..., ::-1]."
            )
        outside = (np.maximum(-centres, centres - size) > n_px).any(axis=1)
        if not outside.any():
            continue
        x, y = centres[outside][0]
        text = (
            f"{where}: {outside.sum()} of {len(centres)} patches lie more than a patch outside, the first at ({x:g}, "
            f"{y:g}); allowed: pixels from the corner of the true object. Check unit and origin of the positions, or "
            "leave out a truth of another scan."
        )
        if explicit_truth:
            raise WrongSettingError(text)
        _log.warning("The true object is not used: %s", text)
        del objects[number]


def check_order(found: Positions, objects: dict[int, Complex64], parts: Sequence[Part], n_px: int) -> None:
    """Check that the `coords_offsets` of a container are in the order of its samples.

    A grid-lines training split is shuffled, unlike its `coords_offsets`, but otherwise looks like a test split. The
    phases that the container stores (`Y_phi`) are compared with the true object, if both are known.

    Raises:
        ValueError: They differ, or positions on a grid cannot be checked.
    """
    if found.source != "container.coords_offsets":
        return
    correlations = []
    for part in parts:
        try:
            stored = part.read_container("Y_phi")
            for k in np.linspace(0, len(part.rows) - 1, 0 if stored is None else _COMPARED).astype(int):
                row, phase = part.rows[k], to_array(stored[part.indices[k]]).reshape(n_px, n_px, -1)[..., 0]
                patch = cut_patch(objects[int(found.object_id[row])], found.px[row, 0], n_px)
                if patch is not None and np.isfinite(patch).all():
                    correlations.append(_correlation(np.exp(1j * np.angle(patch)), np.exp(1j * phase)))
        except Exception as error:  # user code; or no true object or phases to compare
            raise_if_from_signal_handler(error)
            continue
    if not correlations and any(_is_grid(found.px[part.rows, 0]) for part in parts):
        raise ValueError(
            "coords_offsets lie on a grid; in a grid-lines training split they are not in the order of the samples, "
            "and the dataset has neither metadata, nor phases (Y_phi) and a true object, to check this. If they are in "
            "order, pass them as `positions`, or give the dataset its `metadata`"
        )
    if correlations and np.median(correlations) < _SAME:
        raise ValueError(
            f"the phases in Y_phi are not those of the true object at coords_offsets (correlation "
            f"{np.median(correlations):.2f}): in a training split, which is shuffled, they belong to other samples"
        )


def _is_grid(centres: Float64) -> bool:
    """Return whether positions, (n, 2), fill at least half of a grid of at least 2 x 2 points."""
    columns, rows = (len(np.unique(one)) for one in centres.T)
    return min(columns, rows) > 1 and 2 * len(centres) >= columns * rows


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return |correlation| of two images; 1 if one is uniform."""
    a, b = a - a.mean(), b - b.mean()
    power = float(np.vdot(a, a).real * np.vdot(b, b).real)
    return float(np.abs(np.vdot(a, b)) / np.sqrt(power)) if power > 0 else 1.0


def _reach(centres: Float64, size: Float64, n_px: int) -> float:
    """Return how far patches extend beyond an object of the given size, (x, y); negative inside."""
    corners = centres - n_px // 2
    return float(np.maximum(-corners, corners + n_px - size).max())
