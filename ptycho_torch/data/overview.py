"""Summary of a data file in key figures that its owner can verify."""

import math
from dataclasses import dataclass

import numpy as np

from recon_worker.snapshot.array_types import Complex64


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Key figures of a scan as used in training."""

    samples: int
    patterns: int
    n_px: int
    """Side of a pattern."""
    field_px: tuple[float, float] | None
    """Width and height of the field of positions; None if unknown."""
    step_px: float | None
    """Median distance of a position to its nearest neighbour."""
    probe_px: float | None
    """`probe_diameter_px` of the probe in use; None without a probe."""
    photons: float
    """Mean photons per pattern, as used by the loss."""
    photons_stated: bool
    """Whether the photon number was stated; otherwise the file's units are taken as sqrt(counts)."""
    patterns_with_truth: int

    @property
    def overlap(self) -> float | None:
        """Linear overlap of neighbouring probes: 1 - step / diameter, at least 0 (Bunk et al. 2008)."""
        if not self.step_px or self.probe_px is None:
            return None
        return max(0.0, 1 - self.step_px / self.probe_px)

    def describe(self, name: str, source: object) -> list[str]:
        """Return lines for the terminal; `name` is the role of the file in training."""
        n_px, stated = self.n_px, "stated" if self.photons_stated else "if the file holds sqrt(counts)"
        truth = f"for {self.patterns_with_truth} of {self.patterns} patterns" if self.patterns_with_truth else "none"
        probe = "none" if self.probe_px is None else f"{self.probe_px:.3g} px in diameter"
        return [
            f"{name}: {self.samples} samples from {source}",
            f"  patterns: {self.patterns} of {n_px} x {n_px} px, {self.photons:.3g} photons each on average ({stated})",
            f"  field of view: {self._field()}",
            f"  probe: {probe}",
            f"  truth: {truth}",
        ]

    def _field(self) -> str:
        if self.field_px is None or self.step_px is None:
            return "unknown, because the samples are shuffled"
        width, height = self.field_px
        overlap = "" if self.overlap is None else f", overlap {100 * self.overlap:.0f} %"
        overlap += " (are the positions in pixels?)" if self.overlap == 0 else ""
        extent = f"{width:.4g} x {height:.4g} px (width x height)"
        return f"positions over {extent}, median step {self.step_px:.3g} px{overlap}"


def probe_diameter_px(probe: Complex64) -> float | None:
    """Return the effective diameter of a probe, (P, N, N): that of the uniform disc with the same effective area.

    Area A = (sum I)^2 / sum I^2 with I = sum_p |P_p|^2, diameter sqrt(4 A / pi): exact for a disc, four standard
    deviations for a Gaussian, as in ISO 11146. None for a uniform array, the placeholder for a missing probe.
    """
    intensity = np.sum(np.abs(probe.astype(np.complex128)) ** 2, axis=0)
    if not np.ptp(intensity):
        return None
    area = float(intensity.sum() ** 2 / np.sum(intensity**2))
    return math.sqrt(4 * area / math.pi)
