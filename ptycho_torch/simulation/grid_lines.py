"""Simulates grid-lines data files from known objects; the physics is in `raw_scan`.

Samples lie on a square grid, object after object, row by row. The training file shuffles the samples but not their
absolute positions, as existing files of this format do.
"""

from dataclasses import dataclass

import numpy as np

from ptycho_torch.data.grouping import grid_corners
from ptycho_torch.files.metadata import dump_metadata
from ptycho_torch.simulation.raw_scan import Arrays, cut_all, detector_amplitude, record
from recon_worker.snapshot.array_types import Complex64, Float32


@dataclass(frozen=True, kw_only=True)
class GridPlan:
    """Layout of a grid-lines simulation, with the defaults of the format."""

    gridsize: int = 1
    """Patterns per side of a sample, 1 or 2."""
    offset: int = 4
    """Distance between the patterns of a sample, pixels."""
    outer_offset_train: int = 8
    """Twice the grid stride of the training scan, pixels."""
    outer_offset_test: int = 20
    """Twice the grid stride of the test scan, pixels."""

    def __post_init__(self) -> None:
        if self.gridsize not in (1, 2):
            raise ValueError(f"gridsize is {self.gridsize}; allowed: 1, 2.")
        if self.offset < 1:
            raise ValueError(f"offset is {self.offset} px; it must be at least 1.")
        for name in ("outer_offset_train", "outer_offset_test"):
            if getattr(self, name) < 2 or getattr(self, name) % 2:
                raise ValueError(f"{name} is {getattr(self, name)} px; it must be even and at least 2.")

    @property
    def extent_px(self) -> int:
        """Extent of a sample beyond one patch, pixels."""
        return (self.gridsize - 1) * self.offset


def simulate_grid_lines(
    train_objects: Complex64,
    test_objects: Complex64,
    probe: Complex64,
    *,
    plan: GridPlan,
    nphotons: float = 1e9,
    seed: int,
    noise: bool = True,
) -> tuple[Arrays, Arrays]:
    """Simulate the training and test files of a grid-lines study.

    Args:
        train_objects: (nimgs, size, size) complex64.
        test_objects: (nimgs, size, size) complex64, same size.
        probe: (N, N) complex64.
        plan: Grid and grouping.
        nphotons: Mean photons per pattern, in each file.
        seed: Seed of noise and shuffling.
        noise: As in `simulate_raw_scan`.

    Raises:
        ValueError: The objects are smaller than a sample, or differ in size.
    """
    if train_objects.shape[1:] != test_objects.shape[1:]:
        raise ValueError(f"objects have {train_objects.shape[1:]} and {test_objects.shape[1:]} px; sizes must agree.")
    rng = np.random.default_rng(seed)
    train = _grid_split(train_objects, probe, plan, plan.outer_offset_train // 2, nphotons, rng, noise)
    test = _grid_split(test_objects, probe, plan, plan.outer_offset_test // 2, nphotons, rng, noise)
    metadata = dump_metadata(
        nphotons=nphotons,
        gridsize=plan.gridsize,
        n_px=probe.shape[-1],
        additional={
            "size": train_objects.shape[1],
            "offset": plan.offset,
            "outer_offset_train": plan.outer_offset_train,
            "outer_offset_test": plan.outer_offset_test,
            "nimgs_train": len(train_objects),
            "nimgs_test": len(test_objects),
            "set_phi": True,
            "coords_type": "nominal",
        },
    )
    _shuffle(train, rng)
    del train["norm_Y_I"]
    test["YY_ground_truth"] = _stitched_part(test_objects[0], probe.shape[-1], plan)[..., None]
    return {**train, "_metadata": metadata}, {**test, "_metadata": metadata}


def _grid_split(
    objects: Complex64,
    probe: Complex64,
    plan: GridPlan,
    stride_px: int,
    nphotons: float,
    rng: np.random.Generator,
    noise: bool,
) -> Arrays:
    n_px, size = probe.shape[-1], objects.shape[1]
    if size < n_px + plan.extent_px:
        raise ValueError(f"objects have {size} px; a sample needs {n_px + plan.extent_px}. Make them larger.")
    corners = grid_corners(size, n_px + plan.extent_px, stride_px)
    members = plan.offset * np.array([(r, c) for r in range(plan.gridsize) for c in range(plan.gridsize)])
    centres = corners[:, None] + members + n_px // 2  # (n, C, 2), (row, column)
    patches = np.stack([p for o in objects for p in cut_all(o, centres.reshape(-1, 2)[:, ::-1], n_px)])
    relative = -(members - members.mean(axis=0))[:, ::-1]
    norm = float(np.abs(patches).max(axis=(1, 2)).mean())
    channels = plan.gridsize**2
    coords = np.broadcast_to(relative.T, (len(corners) * len(objects), 1, 2, channels)).astype(np.float32)
    return {
        "diffraction": _last(record(detector_amplitude(patches, probe[None]), nphotons, rng, noise), channels),
        "Y_I": _last(np.abs(patches / norm * probe).astype(np.float32), channels),
        "Y_phi": _last(np.angle(patches).astype(np.float32), channels),
        "coords_nominal": coords,
        "coords_true": coords,
        "coords_offsets": np.tile(centres.swapaxes(1, 2)[:, None].astype(np.float64), (len(objects), 1, 1, 1)),
        "YY_full": objects[..., None],
        "norm_Y_I": np.array(norm),
        "probeGuess": probe,
    }


def _last(stack: Float32, channels: int) -> Float32:
    """Rearrange (n C, N, N) to (n, N, N, C)."""
    grouped = stack.reshape(-1, channels, *stack.shape[1:])
    return np.ascontiguousarray(np.moveaxis(grouped, 1, -1))


def _shuffle(train: Arrays, rng: np.random.Generator) -> None:
    """Shuffle the samples but not `coords_offsets`, as in existing files of this format."""
    order = rng.permutation(len(train["diffraction"]))
    for key in ("diffraction", "Y_I", "Y_phi", "coords_nominal", "coords_true"):
        train[key] = train[key][order]


def _stitched_part(object_: Complex64, n_px: int, plan: GridPlan) -> Complex64:
    """Crop an object to the grid's footprint: without the last incomplete stride and a rim of (patch - tile) / 2."""
    tile = plan.outer_offset_test // 2
    used = len(object_) - (len(object_) - n_px - plan.extent_px) % tile
    low = -(-(n_px - tile) // 2) + plan.extent_px // 2
    high = used - (n_px - tile) // 2 - plan.extent_px // 2
    return object_[low:high, low:high]
