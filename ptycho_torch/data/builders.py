"""Builds datasets from loaded data files: grouping, labels, amplitude scale and geometry per kind of scan."""

import warnings
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.config import ModelType
from ptycho_torch.data.dataset import PtychoDataset
from ptycho_torch.data.grouping import grid_corners, nearest_groups
from ptycho_torch.data.normalisation import Normalisation, physical_amplitude_scale
from ptycho_torch.data.truth import IlluminatedTruth, ObjectTruth, PatchTruth, Truth
from ptycho_torch.files.metadata import grid_metadata
from ptycho_torch.files.npz import DataError, GridLines, RawScan
from recon_worker.reconstruction.stitching import crop_start_px
from recon_worker.snapshot.array_types import Complex64, Float32, Float64
from recon_worker.snapshot.geometry import GridGeometry, PositionGeometry

Split = Literal["train", "test"]
_TRAIN_NOT_STITCHED = (
    "the training split of a grid-lines file is shuffled, and its positions do not match its patterns; "
    "give a test file to get stitched objects"
)


def raw_dataset(scan: RawScan, *, gridsize: int, constants: Normalisation, source: str) -> PtychoDataset:
    """Build the samples of a raw scan: one per pattern; at gridsize 2, grouped with its nearest neighbours.

    Raises:
        DataError: The scan has fewer patterns than a group.
    """
    try:
        members = nearest_groups(scan.positions_px, gridsize**2)
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error
    positions = scan.positions_px[members]
    truth = _raw_truth(scan)
    scale = physical_amplitude_scale(truth, scan.diffraction, constants) if truth is not None else None
    n_px = scan.diffraction.shape[-1]
    geometry = PositionGeometry(
        patch_px=n_px,
        crop_px=_stitched_px(n_px),
        positions_px=positions,
        probe_intensity=_central_intensity(constants.probe),
        amplitude_scale=scale or 1.0,
    )
    return PtychoDataset(
        diffraction=scan.diffraction,
        members=members,
        coords_relative_px=positions.mean(axis=1, keepdims=True) - positions,
        positions_px=positions,
        constants=constants,
        truth=truth if scale else None,
        amplitude_scale=scale or 1.0,
        geometry=geometry,
        geometry_skip_reason=None,
        true_objects=(scan.object if scale else None,),
    )


def grid_dataset(
    data: GridLines, *, split: Split, model_type: ModelType, constants: Normalisation, source: str
) -> PtychoDataset:
    """Build the samples of a grid-lines file, in file order. Only the test split can be stitched."""
    geometry, reason = (None, _TRAIN_NOT_STITCHED) if split == "train" else _grid_geometry(data, source)
    objects = None if geometry is None else _fitting_objects(data, geometry, source)
    truth = _grid_truth(data, geometry, objects)
    n, channels, n_px, _ = data.diffraction.shape
    diffraction = data.diffraction.reshape(n * channels, n_px, n_px)
    scale = _grid_amplitude_scale(data, split, model_type, truth, diffraction, constants, source)
    n_objects = 0 if geometry is None else geometry.n_objects
    return PtychoDataset(
        diffraction=diffraction,
        members=np.arange(n * channels).reshape(n, channels),
        coords_relative_px=data.coords_relative_px,
        positions_px=None,
        constants=constants,
        truth=truth,
        amplitude_scale=scale,
        geometry=None if geometry is None else replace(geometry, amplitude_scale=scale),
        geometry_skip_reason=reason,
        true_objects=(None,) * n_objects if objects is None else tuple(objects),
        stitched_truth=_stitched_truth(data, geometry, source) if objects is None else None,
    )


def _stitched_px(n_px: int) -> int:
    """Return the side of the stitched centre crop: half a patch, the support of the network's heads, made even."""
    return n_px // 4 * 2


def _central_intensity(probe: Complex64) -> Float32:
    """Return the sum of |P|^2 over the modes on the stitched crop, (m, m) float32."""
    n_px = probe.shape[-1]
    start, side = crop_start_px(n_px, _stitched_px(n_px)), _stitched_px(n_px)
    intensity: Float32 = np.sum(np.abs(probe) ** 2, axis=0, dtype=np.float32)
    return intensity[start : start + side, start : start + side]


def _raw_truth(scan: RawScan) -> Truth | None:
    if scan.object is not None:
        return ObjectTruth(
            objects=scan.object[None],
            object_index=np.zeros(len(scan.positions_px), np.int64),
            positions_px=scan.positions_px,
            n_px=scan.diffraction.shape[-1],
        )
    return None if scan.patches_true is None else PatchTruth(patches=scan.patches_true)


def _grid_geometry(data: GridLines, source: str) -> tuple[GridGeometry | None, str | None]:
    """Return the grid of a test split, or None with the reason."""
    grid = grid_metadata(data.metadata, source)
    n, channels, n_px, _ = data.diffraction.shape
    needed = {"outer_offset_test": grid.outer_offset_test, "nimgs_test": grid.nimgs_test, "offset": grid.offset}
    unknown = [name for name, value in needed.items() if value is None]
    if grid.outer_offset_test is None or grid.nimgs_test is None or grid.offset is None:
        return None, f"{source}: the metadata has no whole number for {', '.join(unknown)}; correct it there"
    try:
        geometry = GridGeometry(
            patch_px=n_px,
            outer_offset_px=grid.outer_offset_test,
            n_objects=grid.nimgs_test,
            n_samples=n,
            group_extent_px=grid.offset if channels > 1 else 0,
            coords_relative_px=data.coords_relative_px if channels > 1 else None,
        )
    except ValueError as error:
        return None, f"{source}: {error}"
    return geometry, None


def _fitting_objects(data: GridLines, geometry: GridGeometry, source: str) -> Complex64 | None:
    """Return the whole objects if they match the grid."""
    if data.objects is None:
        return None
    count, *sides = data.objects.shape
    sample_px = geometry.patch_px + geometry.group_extent_px
    per_axis = [(side - sample_px) // geometry.tile_px + 1 for side in sides]
    if count == geometry.n_objects and per_axis == [geometry.samples_per_axis] * 2:
        return data.objects
    warnings.warn(
        f"{source}: YY_full holds {count} objects of {sides[0]} x {sides[1]} px, which give grids of {per_axis[0]} x "
        f"{per_axis[1]} samples, but the patterns form {geometry.n_objects} grids of {geometry.samples_per_axis}^2; "
        "YY_full is ignored. Correct `nimgs_test`, `outer_offset_test` and `offset` in the metadata.",
        UserWarning,
        stacklevel=2,
    )
    return None


def _grid_truth(data: GridLines, geometry: GridGeometry | None, objects: Complex64 | None) -> Truth | None:
    if geometry is not None and objects is not None:
        centres = _grid_centres(data, geometry, objects)
        patterns = len(centres)
        return ObjectTruth(
            objects=objects,
            object_index=np.arange(patterns) // (patterns // geometry.n_objects),
            positions_px=centres,
            n_px=geometry.patch_px,
        )
    probe = data.probe if data.probe_simulated is None else data.probe_simulated
    if data.amp_illuminated is None or data.phase is None or probe is None:
        return None
    shape = (-1, *data.diffraction.shape[2:])
    return IlluminatedTruth(
        amp_illuminated=data.amp_illuminated.reshape(shape),
        phase=data.phase.reshape(shape),
        probe=probe,
        norm=data.norm_Y_I or 1.0,
    )


def _grid_centres(data: GridLines, geometry: GridGeometry, objects: Complex64) -> Float64:
    """Compute the pattern centres in their objects, (n C, 2), (x, y), without `coords_offsets`."""
    sample_px = geometry.patch_px + geometry.group_extent_px
    corners: NDArray[np.int64] = grid_corners(objects.shape[1], sample_px, geometry.tile_px)
    middles = np.tile(corners[:, ::-1], (geometry.n_objects, 1)) + geometry.patch_px // 2 + geometry.group_extent_px / 2
    return (middles[:, None] - data.coords_relative_px).reshape(-1, 2)


def _grid_amplitude_scale(
    data: GridLines,
    split: Split,
    model_type: ModelType,
    truth: Truth | None,
    diffraction: Float32,
    constants: Normalisation,
    source: str,
) -> float:
    """Return the factor to the object's amplitude: by conservation of power (pinn), else norm_Y_I or 1."""
    physical = None
    if model_type == "pinn" and truth is not None:
        physical = physical_amplitude_scale(truth, diffraction, constants)
    if physical is not None:
        return physical
    if data.norm_Y_I is None and split == "test":
        warnings.warn(f"{source}: norm_Y_I is missing; object amplitudes are not rescaled.", UserWarning, stacklevel=2)
    return data.norm_Y_I or 1.0


def _stitched_truth(data: GridLines, geometry: GridGeometry | None, source: str) -> Complex64 | None:
    if geometry is None or data.ground_truth is None:
        return None
    side = geometry.samples_per_axis * geometry.tile_px
    if data.ground_truth.shape == (side, side):
        return data.ground_truth
    warnings.warn(
        f"{source}: YY_ground_truth has shape {data.ground_truth.shape}, but the stitched object ({side}, {side}); "
        "YY_ground_truth is ignored.",
        UserWarning,
        stacklevel=2,
    )
    return None
