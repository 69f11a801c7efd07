"""The object itself, improved against the measured diffraction, from what a network has predicted.

A network predicts each patch from one pattern; neighbours are averaged, and the result is blurred. Here the object's
pixels are the unknowns, and all patterns speak at once: gradient descent on the project's own likelihood, through its
own physics: the likelihood of Thibault, Guizar-Sicairos, New J. Phys. 14, 063004 (2012), the descent as in Kandel et
al., Opt. Express 27, 18653 (2019). It runs after a training, never in it.
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
from ptycho_torch.data.patches import NODES, lagrange_weights
from ptycho_torch.model.losses import normalised, poisson_deviance, poisson_nll
from ptycho_torch.model.physics import PROBE_SCALE, diffraction_amplitude
from recon_worker.reconstruction.stitching import Stitched, canvas_positions
from recon_worker.snapshot.array_types import Bool, Complex64, Float64
from recon_worker.snapshot.geometry import PositionGeometry
from recon_worker.system.standard_streams import shows_progress

_LARGEST_BATCH, _LEAST_BATCHES = 64, 8
"""Patterns of a step at most; steps of a pass at least, for scans that are small."""
_LEARNING_RATE = 1e-2


class UnrefinableError(ValueError):
    """There is nothing to refine, or nothing to refine it with. The message says why."""


@dataclass(frozen=True, kw_only=True)
class Refined:
    """A refined object."""

    image: Stitched
    deviance_before: float
    """Poisson deviance per detector pixel of the object that was started from."""
    deviance: float
    """Of the refined one."""

    @property
    def metrics(self) -> dict[str, float]:
        """By a name of `views.METRICS`."""
        return {"deviance": self.deviance, "deviance_before": self.deviance_before}


def refine(
    dataset: PtychoDataset, stitched: Stitched, geometry: PositionGeometry, passes: int, device: torch.device
) -> Refined:
    """Refine a stitched object.

    Args:
        dataset: The scan; each sample's first pattern is used, at its own position.
        stitched: Where to start; what it has not scanned stays so.
        geometry: That of the stitched object.
        passes: Over all patterns.
        device: Where to compute.

    Raises:
        UnrefinableError: The object is not finite where it was scanned, or descending did not bring it nearer to the
            measured patterns.
    """
    if not np.isfinite(stitched.object[stitched.scanned]).all():
        raise UnrefinableError("the network's prediction is not finite everywhere: there is nothing to start from.")
    scan = _Scan(dataset, geometry, device)
    start = _extended(stitched.object / geometry.amplitude_scale, stitched.scanned, scan.margin_px)
    pixels = torch.view_as_real(torch.from_numpy(start).to(device)).clone().requires_grad_(True)
    before = scan.deviance(pixels)
    with torch.no_grad():
        pixels *= scan.amplitude_factor(pixels)
    _descend(scan, pixels, passes)
    after = scan.deviance(pixels)
    if not after < before:  # nor if it is NaN
        raise UnrefinableError(
            "it came no nearer to the measured patterns than the network's prediction: the deviance per detector pixel "
            f"was {before:.3g} before and is {after:.3g} after."
        )
    found = _within(pixels, scan.margin_px, geometry.amplitude_scale, stitched.scanned)
    return Refined(
        image=Stitched(object=found, coverage=stitched.coverage),
        deviance_before=before,
        deviance=after,
    )


def _descend(scan: "_Scan", pixels: Tensor, passes: int) -> None:
    """Adam with a step size that falls to 0 along a cosine."""
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
    """That of the training."""
    predicted, observed = scan.compare(pixels, batch)
    return normalised(poisson_nll(predicted * scan.photon_scale, observed * scan.photon_scale), observed)


def _extended(object_: Complex64, scanned: Bool, margin_px: int) -> Complex64:
    """With a margin, for patches that reach beyond the canvas; what was not scanned is as the nearest that was."""
    inside = np.pad(scanned, margin_px)
    nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    extended: Complex64 = np.pad(object_, margin_px)[tuple(nearest)].astype(np.complex64)
    return extended


def _within(pixels: Tensor, margin_px: int, scale: float, scanned: Bool) -> Complex64:
    inside = slice(margin_px, -margin_px)
    refined = torch.view_as_complex(pixels.detach()).cpu().numpy()[inside, inside] * np.float32(scale)
    return np.where(scanned, refined, 0).astype(np.complex64)


class _Scan:
    """Measured patterns and what an object predicts for them."""

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
        """Of a pass."""
        return math.ceil(self.patterns / self._in_batch)

    def split(self, order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Batches of pattern numbers."""
        return (order[start : start + self._in_batch] for start in range(0, len(order), self._in_batch))

    def compare(self, pixels: Tensor, batch: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Predicted and measured amplitude of some patterns, (B, 1, N, N) in the data's units."""
        patches = self._cut(torch.view_as_complex(pixels), batch)
        predicted = diffraction_amplitude(patches[:, None, None] * self._probe) / self._rms
        return predicted, self._dataset.first_patterns(batch).to(self._device)[:, None]

    def amplitude_factor(self, pixels: Tensor) -> float:
        """What the object is to be multiplied by, so that as many photons are expected as were counted.

        sqrt(sum k / sum lambda): of all factors the most likely one under Poisson noise.
        """
        with torch.no_grad():
            pairs = (self.compare(pixels, batch) for batch in self.split(np.arange(self.patterns)))
            powers = [[float(one.square().sum()) for one in pair] for pair in pairs]
        expected, counted = np.sum(powers, axis=0)
        return math.sqrt(counted / expected)

    def deviance(self, pixels: Tensor) -> float:
        """Poisson deviance per detector pixel, over all patterns."""
        total = 0.0
        with torch.no_grad():
            for batch in self.split(np.arange(self.patterns)):
                amplitudes = (one * self.photon_scale for one in self.compare(pixels, batch))
                total += float(poisson_deviance(*amplitudes)) * len(batch)
        return total / self.patterns

    def _cut(self, object_: Tensor, batch: NDArray[np.int64]) -> Tensor:
        """(B, N, N) object patches: as `data.patches.cut_patch`, with a gradient."""
        whole = torch.from_numpy(self._whole[batch]).to(self._device) + NODES[0]
        rows, columns = (whole[:, axis, None] + self._side for axis in (0, 1))
        window = object_[rows[:, :, None], columns[:, None, :]]
        y, x = torch.from_numpy(self._weights[batch]).to(self._device).unbind(1)
        n_px = window.shape[-1] - len(NODES) + 1
        window = sum(y[:, k, None, None] * window[:, k : k + n_px] for k in range(len(NODES)))  # type: ignore[assignment]
        return sum(x[:, k, None, None] * window[:, :, k : k + n_px] for k in range(len(NODES)))  # type: ignore[return-value]


def _interpolation(fractions: Float64) -> NDArray[np.float32]:
    """(n, 2, 6) weights of the pixels around a position, (y, x)."""
    return np.array([[lagrange_weights(float(f)) for f in pair] for pair in fractions], np.float32)
