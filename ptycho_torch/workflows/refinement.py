"""Refines a predicted object against the measured diffraction, by maximum likelihood.

A network predicts each patch from one pattern, and averaging neighbours blurs the result. Refinement fits the pixels of
the object to all patterns at once: gradient descent on the Poisson likelihood (Thibault & Guizar-Sicairos, New J. Phys.
14, 063004 (2012)) through the physics of the training, by automatic differentiation as in Kandel et al., Opt. Express
27, 18653 (2019). Runs after training.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt  # type: ignore[attr-defined]
from torch import Tensor
from tqdm import tqdm

from ptycho_torch.data.dataset import PtychoDataset
from ptycho_torch.model.losses import normalised, poisson_deviance, poisson_nll
from ptycho_torch.model.physics import PROBE_SCALE, diffraction_amplitude
from recon_worker.reconstruction.patches import NODES, lagrange_weights
from recon_worker.reconstruction.stitching import Stitched, canvas_positions
from recon_worker.snapshot.array_types import Bool, Complex64, Float64
from recon_worker.snapshot.geometry import PositionGeometry
from recon_worker.system.standard_streams import shows_progress

_LARGEST_BATCH, _LEAST_BATCHES = 64, 8
"""Maximum number of patterns per step; minimum number of steps per pass, for small scans."""
_LEARNING_RATE = 1e-2


class UnrefinableError(ValueError):
    """The object cannot be refined. The message states the reason."""


@dataclass(frozen=True, kw_only=True)
class Refined:
    """A refined object and its agreement with the patterns."""

    image: Stitched
    deviance_before: float
    """Poisson deviance per detector pixel of the initial object."""
    deviance: float
    """Poisson deviance per detector pixel of the refined object."""

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics by their names in `METRICS`."""
        return {"deviance": self.deviance, "deviance_before": self.deviance_before}


def refine(
    dataset: PtychoDataset, stitched: Stitched, geometry: PositionGeometry, passes: int, device: torch.device
) -> Refined:
    """Refine a stitched object.

    Args:
        dataset: Scan, of which the first pattern of each sample is used, at its position.
        stitched: Initial object; unscanned pixels stay unscanned.
        geometry: Geometry of the stitched object.
        passes: Number of passes over all patterns.
        device: Device to compute on.

    Raises:
        UnrefinableError: A scanned pixel is not finite, or the descent did not reduce the deviance.
    """
    if not np.isfinite(stitched.object[stitched.scanned]).all():
        raise UnrefinableError("the network's prediction is not finite everywhere: there is no initial object.")
    scan = _Scan(dataset, geometry, device)
    start = _extended(stitched.object / geometry.amplitude_scale, stitched.scanned, scan.margin_px)
    pixels = torch.view_as_real(torch.from_numpy(start).to(device)).clone().requires_grad_(True)
    before = scan.deviance(pixels)
    with torch.no_grad():
        pixels *= scan.amplitude_factor(pixels)
    _descend(scan, pixels, passes)
    after = scan.deviance(pixels)
    if not after < before:  # also true for NaN
        raise UnrefinableError(
            "the refinement did not improve the agreement with the measured patterns: the deviance per detector pixel "
            f"was {before:.3g} before and is {after:.3g} after."
        )
    found = _within(pixels, scan.margin_px, geometry.amplitude_scale, stitched.scanned)
    return Refined(
        image=Stitched(object=found, coverage=stitched.coverage),
        deviance_before=before,
        deviance=after,
    )


def _descend(scan: "_Scan", pixels: Tensor, passes: int) -> None:
    """Run Adam with a cosine decay of the learning rate to 0."""
    adam, steps = torch.optim.Adam([pixels], lr=_LEARNING_RATE), passes * scan.batches
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, steps))
    order = np.random.default_rng(0)
    with tqdm(desc="Refining", total=steps, unit="batch", leave=False, disable=not shows_progress()) as bar:
        for _ in range(passes):
            for batch in scan.split(order.permutation(scan.patterns)):
                adam.zero_grad()
                (pixels.grad,) = torch.autograd.grad(_loss(scan, pixels, batch), pixels)
                adam.step()
                cosine.step()
                bar.update()


def _loss(scan: "_Scan", pixels: Tensor, batch: NDArray[np.int64]) -> Tensor:
    """Compute the Poisson loss, as in training."""
    predicted, observed = scan.compare(pixels, batch)
    return normalised(poisson_nll(predicted * scan.photon_scale, observed * scan.photon_scale), observed)


def _extended(object_: Complex64, scanned: Bool, margin_px: int) -> Complex64:
    """Pad with a margin for patches beyond the canvas, and fill unscanned pixels with the nearest scanned value."""
    inside = np.pad(scanned, margin_px)
    nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    extended: Complex64 = np.pad(object_, margin_px)[tuple(nearest)].astype(np.complex64)
    return extended


def _within(pixels: Tensor, margin_px: int, scale: float, scanned: Bool) -> Complex64:
    inside = slice(margin_px, -margin_px)
    refined = torch.view_as_complex(pixels.detach()).cpu().numpy()[inside, inside] * np.float32(scale)
    return np.where(scanned, refined, 0).astype(np.complex64)


class _Scan:
    """Measured patterns of a scan, and predictions of them from an object."""

    def __init__(self, dataset: PtychoDataset, geometry: PositionGeometry, device: torch.device) -> None:
        self._dataset, self._device, n_px = dataset, device, geometry.patch_px
        fields, probe, _ = dataset[0]
        self._probe = probe[0].to(device) / PROBE_SCALE
        self._rms = float(fields["rms_scaling_constant"])
        self.photon_scale = float(fields["physics_scaling_constant"])
        self.margin_px = n_px // 2 + NODES[-1]
        channels = geometry.positions_px.shape[1]
        corners = canvas_positions(geometry)[::channels, ::-1] - n_px // 2 + self.margin_px
        self._whole = np.floor(corners).astype(np.int64)
        self._weights = _interpolation(corners - self._whole)
        self._side = torch.arange(n_px + len(NODES) - 1, device=device)
        self.patterns = len(dataset)
        self._in_batch = max(1, min(_LARGEST_BATCH, self.patterns // _LEAST_BATCHES))

    @property
    def batches(self) -> int:
        """Number of batches per pass."""
        return math.ceil(self.patterns / self._in_batch)

    def split(self, order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Split pattern indices into batches."""
        return (order[start : start + self._in_batch] for start in range(0, len(order), self._in_batch))

    def compare(self, pixels: Tensor, batch: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return predicted and measured amplitude of a batch, (B, 1, N, N) each, in the data's units."""
        patches = self._cut(torch.view_as_complex(pixels), batch)
        predicted = diffraction_amplitude(patches[:, None, None] * self._probe) / self._rms
        return predicted, self._dataset.first_patterns(batch).to(self._device)[:, None]

    def amplitude_factor(self, pixels: Tensor) -> float:
        """Return the amplitude factor at which the expected photon number equals the counted one.

        sqrt(sum k / sum lambda), the maximum-likelihood factor under Poisson noise.
        """
        with torch.no_grad():
            pairs = (self.compare(pixels, batch) for batch in self.split(np.arange(self.patterns)))
            powers = [[float(one.square().sum()) for one in pair] for pair in pairs]
        expected, counted = np.sum(powers, axis=0)
        return math.sqrt(counted / expected)

    def deviance(self, pixels: Tensor) -> float:
        """Compute the Poisson deviance per detector pixel over all patterns."""
        total = 0.0
        with torch.no_grad():
            for batch in self.split(np.arange(self.patterns)):
                amplitudes = (one * self.photon_scale for one in self.compare(pixels, batch))
                total += float(poisson_deviance(*amplitudes)) * len(batch)
        return total / self.patterns

    def _cut(self, object_: Tensor, batch: NDArray[np.int64]) -> Tensor:
        """Cut object patches, (B, N, N): a differentiable `recon_worker.reconstruction.patches.cut_patch`."""
        whole = torch.from_numpy(self._whole[batch]).to(self._device) + NODES[0]
        rows, columns = (whole[:, axis, None] + self._side for axis in (0, 1))
        window = object_[rows[:, :, None], columns[:, None, :]]
        y, x = torch.from_numpy(self._weights[batch]).to(self._device).unbind(1)
        n_px = window.shape[-1] - len(NODES) + 1
        window = sum(y[:, k, None, None] * window[:, k : k + n_px] for k in range(len(NODES)))  # type: ignore[assignment]
        return sum(x[:, k, None, None] * window[:, :, k : k + n_px] for k in range(len(NODES)))  # type: ignore[return-value]


def _interpolation(fractions: Float64) -> NDArray[np.float32]:
    """Return the weights of the six pixels around each position, (n, 2, 6), (y, x)."""
    return np.array([[lagrange_weights(float(f)) for f in pair] for pair in fractions], np.float32)
