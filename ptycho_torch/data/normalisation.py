"""Scale factors between the units of a data file and of the network: diffraction, probe, object amplitude.

The network's amplitude head is a sigmoid. In its units, a transparent object has an amplitude near 0.8: patterns have a
mean total power of (N/2)^2, and the probe has 1.25^2 times that power.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ptycho_torch.data.truth import Truth
from ptycho_torch.model.physics import PROBE_SCALE
from recon_worker.snapshot.array_types import Complex64, Float32

_PROBE_POWER_MARGIN = 1.25
_SCALE_PATTERNS = 1024
"""Number of evenly spaced patterns that `physical_amplitude_scale` uses."""


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Constants of a training set, also applied to its validation set."""

    rms: float
    """`rms_scaling_constant`: diffraction multiplied by it has a mean total power of (N/2)^2."""
    physics: float
    """`physics_scaling_constant`: diffraction multiplied by it is sqrt(photons)."""
    probe: Complex64
    """(P, N, N), scaled: sum |P / 4|^2 = (1.25 N/2)^2 over all modes."""
    probe_factor: float
    """Scale factor applied to the probe."""

    def to_state(self) -> dict[str, Any]:
        """Return plain numbers and a tensor, for checkpoints that load with `weights_only=True`."""
        numbers = {name: float(getattr(self, name)) for name in ("rms", "physics", "probe_factor")}
        return {**numbers, "probe": torch.from_numpy(self.probe)}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "Normalisation":
        """Restore from `to_state`. Invalid states raise KeyError, TypeError, ValueError or AttributeError."""
        numbers = {name: float(state[name]) for name in ("rms", "physics", "probe_factor")}
        return cls(**numbers, probe=state["probe"].numpy().astype(np.complex64))


def normalisation(diffraction: Float32, probe: Complex64, nphotons: float | None) -> Normalisation:
    """Compute the constants of a training set.

    Args:
        diffraction: (M, N, N) amplitude, in the file's units.
        probe: (P, N, N), in any units.
        nphotons: Mean photons per pattern. None: the file's units are sqrt(counts).
    """
    power, half_px = mean_power(diffraction), diffraction.shape[-1] / 2
    energy = float(np.sum(np.abs(probe).astype(np.float64) ** 2))
    factor = PROBE_SCALE * _PROBE_POWER_MARGIN * half_px / math.sqrt(energy)
    return Normalisation(
        rms=half_px / math.sqrt(power),
        physics=1.0 if nphotons is None else math.sqrt(nphotons / power),
        probe=(probe * np.float32(factor)).astype(np.complex64),
        probe_factor=factor,
    )


def mean_power(diffraction: Float32) -> float:
    """Return the mean over patterns, (M, N, N), of the sum of squared amplitudes."""
    return math.fsum(float(np.vdot(pattern, pattern)) for pattern in diffraction) / len(diffraction)


def physical_amplitude_scale(truth: Truth, diffraction: Float32, constants: Normalisation) -> float | None:
    """Return the factor a from the network's amplitude to the true object's, by conservation of power.

    a^2 = mean sum |O P/4|^2 / mean sum (diffraction rms)^2: the scaled probe times the object O / a has the power
    of the normalised patterns. None if no pattern has a true patch.
    """
    light = np.abs(constants.probe.sum(axis=0) / PROBE_SCALE) ** 2
    true_power, measured_power = 0.0, 0.0
    for i in np.unique(np.linspace(0, len(diffraction) - 1, _SCALE_PATTERNS).astype(int)):
        patch = truth(int(i))
        if patch is not None:
            true_power += float(np.sum(patch[0] ** 2 * light))
            measured_power += float(np.vdot(diffraction[i], diffraction[i])) * constants.rms**2
    return math.sqrt(true_power / measured_power) if true_power > 0 and measured_power > 0 else None
