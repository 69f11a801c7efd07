"""Map-style dataset of a scan: items for the model, geometry and ground truth for logging."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ptycho_torch.data.normalisation import Normalisation, mean_power
from ptycho_torch.data.overview import Overview, probe_diameter_px
from ptycho_torch.data.truth import Truth
from ptycho_torch.files.plausibility import step_px
from recon_worker.reconstruction.stitching import crop_to_footprint
from recon_worker.snapshot.array_types import Complex64, Float32, Float64
from recon_worker.snapshot.geometry import Geometry, GridGeometry

Item = tuple[dict[str, Tensor], Tensor, Tensor]


class PtychoDataset(Dataset[Item]):
    """Samples of C patterns. An item is `(fields, probe, scale)`:

    images, observed_images: (C, N, N) float32, diffraction amplitude in the file's units.
    coords_relative: (C, 1, 2) float32, (x, y), -(x - mean), pixels. coords_global: same shape, absolute centres; only
        if the scan has them.
    rms_scaling_constant, physics_scaling_constant: (1, 1, 1) float32.
    experiment_id: () int64, 0.
    label_amp, label_phase: (C, N, N) float32; zero where the ground truth is unknown. label_amp is in the network's
        units: the object's amplitude is `amplitude_scale` times it.
    probe: (C, P, N, N) complex64, scaled; scale: () float32, its scale factor.
    """

    def __init__(
        self,
        *,
        diffraction: Float32,
        members: NDArray[np.int64],
        coords_relative_px: Float64,
        positions_px: Float64 | None,
        constants: Normalisation,
        truth: Truth | None,
        amplitude_scale: float,
        geometry: Geometry | None,
        geometry_skip_reason: str | None,
        true_objects: tuple[Complex64 | None, ...],
        stitched_truth: Complex64 | None = None,
    ) -> None:
        """Store references without copying.

        Args:
            diffraction: (M, N, N).
            members: (n, C) pattern indices of each sample.
            coords_relative_px: (n, C, 2).
            positions_px: (n, C, 2), absolute, or None.
            constants: Constants of the training set.
            truth: Returns the true object patch of a pattern; None: no ground truth.
            amplitude_scale: Factor from the network's amplitude to the object's.
            geometry: Placement of the samples, with the same `amplitude_scale`.
            geometry_skip_reason: Reason if `geometry` is None.
            true_objects: One (H, W) array or None per object of the geometry.
            stitched_truth: First object on the stitched footprint, for files without whole objects.
        """
        self.scan_geometry = geometry
        self.geometry_skip_reason = geometry_skip_reason
        self.amplitude_scale = amplitude_scale
        self._diffraction, self._members = diffraction, members
        self._coords_relative_px, self._positions_px = coords_relative_px, positions_px
        self._constants, self._truth = constants, truth
        self._true_objects, self._stitched_truth = true_objects, stitched_truth
        self._probe = torch.from_numpy(constants.probe).expand(members.shape[1], -1, -1, -1)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Item:
        members = self._members[index]
        images = torch.from_numpy(self._diffraction[members])
        label_amp, label_phase = self._labels(members)
        fields = {
            "images": images,
            "observed_images": images,
            "coords_relative": _coords(self._coords_relative_px[index]),
            "rms_scaling_constant": torch.full((1, 1, 1), self._constants.rms),
            "physics_scaling_constant": torch.full((1, 1, 1), self._constants.physics),
            "experiment_id": torch.tensor(0),
            "label_amp": label_amp,
            "label_phase": label_phase,
        }
        if self._positions_px is not None:
            fields["coords_global"] = _coords(self._positions_px[index])
        return fields, self._probe, torch.tensor(self._constants.probe_factor)

    @cached_property
    def ground_truth(self) -> tuple[Complex64 | None, ...]:
        """Per object: (H, W) complex64 on the stitched footprint, NaN where unknown; None without ground truth."""
        if self.scan_geometry is None:
            return ()
        if self._stitched_truth is not None:
            return (self._stitched_truth, *self._true_objects[1:])
        geometry = self.scan_geometry
        return tuple(
            None if true_object is None else crop_to_footprint(geometry, true_object, number)
            for number, true_object in enumerate(self._true_objects)
        )

    def first_patterns(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the first pattern of each sample, (k, N, N) float32 in the file's units."""
        return torch.from_numpy(self._diffraction[self._members[indices, 0]])

    @property
    def sample_positions_px(self) -> Float64:
        """Absolute position of each sample's first pattern, (n, 2), (x, y), pixels. Requires a scan with positions."""
        assert self._positions_px is not None
        return self._positions_px[:, 0]

    @property
    def n_patterns(self) -> int:
        """Number M of diffraction patterns."""
        return len(self._diffraction)

    def count_unlabelled(self) -> int:
        """Count the patterns without a true patch. Computes every patch once."""
        truth: Callable[[int], object] = self._truth or (lambda _: None)
        return sum(truth(i) is None for i in range(self.n_patterns))

    def overview(self) -> Overview:
        """Summarise the scan. Computes every true patch once."""
        field_px, step = self._field()
        return Overview(
            samples=len(self),
            patterns=self.n_patterns,
            n_px=self._diffraction.shape[-1],
            field_px=field_px,
            step_px=step,
            probe_px=probe_diameter_px(self._constants.probe),
            photons=mean_power(self._diffraction) * self._constants.physics**2,
            photons_stated=self._constants.physics != 1,
            patterns_with_truth=self.n_patterns - self.count_unlabelled(),
        )

    def _field(self) -> tuple[tuple[float, float] | None, float | None]:
        """Return (width, height) of the field of positions and the median step, pixels; None if unknown."""
        if self._positions_px is not None:
            width, height = np.ptp(self._positions_px.reshape(-1, 2), axis=0)
            return (float(width), float(height)), step_px(self._positions_px[:, 0])
        if not isinstance(self.scan_geometry, GridGeometry):
            return None, None
        grid = self.scan_geometry
        extent = float((grid.samples_per_axis - 1) * grid.tile_px + grid.group_extent_px)
        return (extent, extent), float(grid.tile_px)

    def _labels(self, members: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return amplitude in the network's units and phase in radians, each (C, N, N)."""
        labels = np.zeros((2, len(members), *self._diffraction.shape[1:]), np.float32)
        for channel, member in enumerate(members):
            patch = self._truth(int(member)) if self._truth is not None else None
            if patch is not None:
                labels[:, channel] = patch
        labels[0] /= self.amplitude_scale
        return torch.from_numpy(labels[0]), torch.from_numpy(labels[1])


def _coords(coords_px: Float64) -> Tensor:
    """Convert (C, 2) to (C, 1, 2) float32."""
    return torch.from_numpy(coords_px[:, None].astype(np.float32))
