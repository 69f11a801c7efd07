"""Data of the benchmark `recon_logging.py`: one simulated object, 1089 validation patterns, fewer training patterns."""

from pathlib import Path

import numpy as np

from ptycho_torch.simulation.grid_lines import GridPlan, simulate_grid_lines
from ptycho_torch.simulation.raw_scan import Arrays, simulate_raw_scan
from ptycho_torch.simulation.specimens import default_pictures, disc_probe, make_object
from recon_worker.snapshot.array_types import Complex64, Float64

SCAN_KINDS = ("raw", "grid_lines")
_N_PX = 64
_OBJECT_PX = 392
_STEP_PX = 10
_PER_AXIS = 33
_NPHOTONS = 1e6


def write_data(folder: Path, scan_kind: str, train_samples: int) -> None:
    """Write `train.npz` and `test.npz`; grids round the number of training samples up to a square."""
    folder.mkdir()
    object_, probe = make_object(*default_pictures(), _OBJECT_PX), disc_probe(_N_PX, _N_PX / 4)
    make = _raw if scan_kind == "raw" else _grid_lines
    for name, arrays in zip(("train", "test"), make(object_, probe, train_samples), strict=True):
        np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]  # its stub allows one keyword only


def _raw(object_: Complex64, probe: Complex64, train_samples: int) -> tuple[Arrays, Arrays]:
    corner, far = _N_PX // 2, _OBJECT_PX - _N_PX // 2
    anywhere = np.random.default_rng(0).integers(corner, far, (train_samples, 2)).astype(np.float64)
    train = simulate_raw_scan(object_, probe, anywhere, nphotons=_NPHOTONS, seed=1)
    return train, simulate_raw_scan(object_, probe, _raster(corner), nphotons=_NPHOTONS, seed=2)


def _raster(corner_px: int) -> Float64:
    axis = corner_px + _STEP_PX * np.arange(_PER_AXIS, dtype=np.float64)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def _grid_lines(object_: Complex64, probe: Complex64, train_samples: int) -> tuple[Arrays, Arrays]:
    per_axis = int(np.ceil(train_samples**0.5))
    stride_px = (_OBJECT_PX - _N_PX) // max(1, per_axis - 1)
    plan = GridPlan(outer_offset_train=2 * stride_px, outer_offset_test=2 * _STEP_PX)
    return simulate_grid_lines(object_[None], object_[None], probe[0], plan=plan, nphotons=_NPHOTONS, seed=1)
