"""Agreement of predicted and measured diffraction patterns: metrics that require no ground truth.

The patterns of a scan are similar, so absolute values mean little. The values of the mean pattern are the baseline: a
network that does not improve on it has learned nothing about the object.
"""

import math

import numpy as np

from recon_worker.snapshot.array_types import Float32

_LEAST_RATE = 1e-12
"""Minimum expected photons per pixel, as in the loss."""


def r_factor(pred: Float32, observed: Float32) -> float:
    """Return sum |A_obs - A_pred| / sum A_obs, the unscaled R-factor of crystallography; 0 is perfect agreement.

    Args:
        pred: Predicted diffraction amplitude, any shape.
        observed: Measured diffraction amplitude, same shape and units.

    Returns:
        The R-factor; NaN if the measured amplitudes are all zero or a value is not finite.
    """
    total = float(np.sum(observed, dtype=np.float64))
    difference = float(np.sum(np.abs(observed.astype(np.float64) - pred)))
    return difference / total if total > 0 and math.isfinite(difference) else math.nan


def poisson_deviance(pred: Float32, observed: Float32, photon_scale: float) -> float:
    """Return the deviance per detector pixel, 2 mean [k log(k / lambda) - (k - lambda)]; about 1 for a perfect model.

    McCullagh & Nelder, Generalized Linear Models, 2nd ed. (1989), section 2.3. Below a few photons per pixel a perfect
    model has less than 1.

    Args:
        pred: Predicted diffraction amplitude, any shape; lambda = (pred * photon_scale)^2, at least 1e-12 photons.
        observed: Measured diffraction amplitude, same shape; k = (observed * photon_scale)^2 photons.
        photon_scale: Factor from amplitude to sqrt(photons).

    Returns:
        The deviance; NaN if a value is not finite.
    """
    from scipy.special import kl_div

    counts, rate = ((values.astype(np.float64) * photon_scale) ** 2 for values in (observed, pred))
    deviance = 2 * float(np.mean(kl_div(counts, np.maximum(rate, _LEAST_RATE))))
    return deviance if math.isfinite(deviance) else math.nan


def mean_pattern(observed: Float32) -> Float32 | None:
    """Return the (N, N) amplitude of the mean intensity; None for a single pattern, which it would equal.

    Args:
        observed: (k, N, N) diffraction amplitude.
    """
    if len(observed) < 2:
        return None
    mean: Float32 = np.sqrt(np.mean(np.square(observed, dtype=np.float64), axis=0)).astype(np.float32)
    return mean
