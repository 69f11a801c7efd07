"""Misfit of predicted and measured diffraction at each scan position: statistics, map on the object's grid, table.

It requires no ground truth. A high misfit shows where the prediction, the position or the pattern is wrong.
"""

import csv
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon_worker.reconstruction.slices import row_blocks
from recon_worker.reconstruction.stitching import canvas_positions
from recon_worker.snapshot.array_types import Bool, Float32, Float64, Indices
from recon_worker.snapshot.geometry import Geometry, PositionGeometry

COLUMNS = ("sample", "x_px", "y_px", "r_factor", "deviance_per_photon")
"""Columns of the table."""
MAX_ROWS = 10_000
"""Maximum number of rows of the table."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SampleMisfit:
    """Misfit of each sample of an object whose diffraction is predicted and measured, in order of dataset indices."""

    samples: NDArray[np.int64]
    """(n,) dataset indices."""
    positions_px: Float64
    """(n, 2) scan positions, (x, y), pixels from the first pixel of the object; mean of the sample's patch centres."""
    r_factor: Float32
    """(n,) sum |A_obs - A_pred| / sum A_obs; NaN if a pattern is dark or not finite."""
    deviance_per_photon: Float32
    """(n,) Poisson deviance, 2 sum [k log(k / lambda) - k + lambda] / sum k; NaN likewise."""

    def __repr__(self) -> str:
        worst = self.worst_first()[:1]
        found = ", ".join(f"worst R-factor {self.r_factor[row]:.3g} at sample {self.samples[row]}" for row in worst)
        return f"<SampleMisfit: {len(self.samples)} samples, {found}>"

    def worst_first(self) -> Indices:
        """Return (n,) rows by descending R-factor; those that are not finite come first."""
        return np.argsort(-np.nan_to_num(self.r_factor, nan=np.inf), kind="stable")

    def metrics(self) -> dict[str, float]:
        """Return median and 95th percentile of the finite values, by name."""
        found: dict[str, float] = {}
        for name, values in (("r_factor", self.r_factor), ("deviance", self.deviance_per_photon)):
            finite = values[np.isfinite(values)]
            if finite.size:
                median, high = np.percentile(finite, (50, 95))
                found |= {f"misfit_{name}_median": float(median), f"misfit_{name}_p95": float(high)}
        return found

    def image(self, scanned: Bool) -> tuple[Float32, Bool]:
        """Return the R-factor of the nearest scan position on the object's grid.

        Of positions within one pixel, the worst is shown. Pixels farther from every position than the mean distance of
        neighbours, the root of the scanned area per position, show nothing.

        Args:
            scanned: (H, W) False where no patch contributes.

        Returns:
            (H, W) R-factors, and (H, W) False where nothing is shown.
        """
        from scipy.ndimage import distance_transform_edt  # type: ignore[attr-defined]

        height, width = scanned.shape
        columns, rows = np.clip(np.rint(self.positions_px), 0, (width - 1, height - 1)).astype(np.intp).T
        best_first = self.worst_first()[::-1]
        row_at = np.full(scanned.shape, -1, np.int32)
        row_at[rows[best_first], columns[best_first]] = best_first  # of equal pixels the last one counts
        nearest = distance_transform_edt(row_at < 0, return_distances=False, return_indices=True)
        reach_squared = scanned.sum() / np.count_nonzero(row_at >= 0)
        values, shown = np.empty(scanned.shape, np.float32), np.empty(scanned.shape, bool)
        for part in row_blocks(scanned.shape):
            down, right = nearest[0, part] - np.arange(height)[part, None], nearest[1, part] - np.arange(width)
            values[part] = self.r_factor[row_at[nearest[0, part], nearest[1, part]]]
            shown[part] = scanned[part] & (down * down + right * right <= reach_squared)
        return values, shown

    def to_csv(self) -> bytes:
        """Return the table of at most the `MAX_ROWS` worst samples, worst first, positions to 0.001 px."""
        rows = self.worst_first()[:MAX_ROWS]
        positions = np.char.mod("%.3f", self.positions_px[rows])
        numbers = (self.samples, self.r_factor, self.deviance_per_photon)
        samples, r_factors, deviances = (one[rows].astype(str) for one in numbers)  # shortest text of each float32
        lines = zip(samples, *positions.T, r_factors, deviances, strict=True)
        return "".join(f"{','.join(line)}\n" for line in (COLUMNS, *lines)).encode()

    def to_bytes(self) -> tuple[bytes, bytes]:
        """Return little-endian arrays: dataset indices (int32), x and y (float32); and R-factors and deviances."""
        places = self.samples.astype("<i4").tobytes() + self.positions_px.T.astype("<f4").tobytes()
        return places, np.stack([self.r_factor, self.deviance_per_photon]).astype("<f4").tobytes()

    @classmethod
    def from_csv(cls, text: str) -> "SampleMisfit":
        """Read a table written by `to_csv`. Raises ValueError if it is damaged."""
        table = csv.DictReader(io.StringIO(text))
        if table.fieldnames is None or not set(COLUMNS) <= set(table.fieldnames):
            raise ValueError(f"its columns are {table.fieldnames}, not {COLUMNS}")
        rows = [[float(row[name] or "") for name in COLUMNS] for row in table]
        values = np.array(sorted(rows), np.float64).reshape(-1, len(COLUMNS))
        return cls(
            samples=values[:, 0].astype(np.int64),
            positions_px=values[:, 1:3].copy(),
            r_factor=values[:, 3].astype(np.float32),
            deviance_per_photon=values[:, 4].astype(np.float32),
        )


def misfit_of(geometry: Geometry | None, number: int, misfit: Float32, filled: Bool) -> SampleMisfit | None:
    """Return the misfit of the samples of an object; None if it is unknown.

    Args:
        geometry: The scan; None: unknown, as is the misfit.
        number: Index of the object.
        misfit: (n, 2) R-factor and deviance per photon of the first samples; NaN: unknown, infinite: not defined.
        filled: (n,) Whether each of them has a prediction.
    """
    if geometry is None or not len(misfit):
        return None
    if isinstance(geometry, PositionGeometry):
        every = np.arange(len(geometry.positions_px))
        own = every if geometry.object_index is None else every[geometry.object_index == number]
    else:
        in_object = geometry.samples_per_axis**2
        own = np.arange(number * in_object, (number + 1) * in_object)
    positions = canvas_positions(geometry, number).reshape(len(own), -1, 2).mean(axis=1)
    is_known = filled & ~np.isnan(misfit).any(axis=1)
    kept = np.isin(own, np.flatnonzero(is_known))  # the snapshot may hold only the first samples of the scan
    if not kept.any():
        return None
    values = np.where(np.isfinite(misfit), misfit, np.float32(np.nan))[own[kept]]
    return SampleMisfit(
        samples=own[kept], positions_px=positions[kept], r_factor=values[:, 0], deviance_per_photon=values[:, 1]
    )
