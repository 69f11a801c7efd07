"""Data of the benchmarks that train: one simulated object, validation patterns on a raster, training patterns."""

import math
from pathlib import Path

import numpy as np

from ptycho_torch.simulation.grid_lines import GridPlan, simulate_grid_lines
from ptycho_torch.simulation.raw_scan import Arrays, simulate_raw_scan
from ptycho_torch.simulation.specimens import default_pictures, disc_probe, make_object
from recon_worker.snapshot.array_types import Complex64, Float64

SCAN_KINDS = ("raw", "grid_lines")
PATTERNS = 1089
_STEP_PX = 10
_MARGIN_PX = 8
_NPHOTONS = 1e6


def write_data(folder: Path, scan_kind: str, train_samples: int, *, n_px: int = 64, patterns: int = PATTERNS) -> None:
    """Write `train.npz` and `test.npz`.

    Args:
        folder: New folder.
        scan_kind: One of `SCAN_KINDS`.
        train_samples: Number of training samples; grids round it up to a square.
        n_px: Side of a pattern.
        patterns: Number of validation patterns, a square number; grids ignore it.
    """
    folder.mkdir()
    per_axis = math.isqrt(patterns)
    object_px = n_px + _STEP_PX * (per_axis - 1) + _MARGIN_PX
    object_, probe = make_object(*default_pictures(), object_px), disc_probe(n_px, n_px / 4)
    make = _raw if scan_kind == "raw" else _grid_lines
    for name, arrays in zip(("train", "test"), make(object_, probe, train_samples, per_axis), strict=True):
        np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]  # its stub allows one keyword only


def _raw(object_: Complex64, probe: Complex64, train_samples: int, per_axis: int) -> tuple[Arrays, Arrays]:
    corner = probe.shape[-1] // 2
    anywhere = np.random.default_rng(0).integers(corner, len(object_) - corner, (train_samples, 2)).astype(np.float64)
    train = simulate_raw_scan(object_, probe, anywhere, nphotons=_NPHOTONS, seed=1)
    return train, simulate_raw_scan(object_, probe, _raster(corner, per_axis), nphotons=_NPHOTONS, seed=2)


def _raster(corner_px: int, per_axis: int) -> Float64:
    axis = corner_px + _STEP_PX * np.arange(per_axis, dtype=np.float64)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def _grid_lines(object_: Complex64, probe: Complex64, train_samples: int, _: int) -> tuple[Arrays, Arrays]:
    stride_px = (len(object_) - probe.shape[-1]) // max(1, math.ceil(train_samples**0.5) - 1)
    plan = GridPlan(outer_offset_train=2 * stride_px, outer_offset_test=2 * _STEP_PX)
    return simulate_grid_lines(object_[None], object_[None], probe[0], plan=plan, nphotons=_NPHOTONS, seed=1)
