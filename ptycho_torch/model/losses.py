"""Losses between predicted and measured diffraction amplitude, or between object and label; Poisson deviance.

Each loss reduces a sample to one number by a sum (Poisson, supervised) or a mean (MAE) over its patches and pixels.
"""

import math

import torch
from torch import Tensor

_RATE_FLOOR = 1e-12
"""Photons; keeps the logarithm finite where the prediction is 0."""
_MEAN_EPSILON = 1e-8


def poisson_nll(pred_amp: Tensor, obs_amp: Tensor) -> Tensor:
    """Compute the negative log-likelihood of Poisson counts, per sample.

    sum [lambda - k log(lambda) + lgamma(k + 1)], lambda = pred^2, k = obs^2, photons.

    Args:
        pred_amp: (B, C, N, N), square root of the expected photons.
        obs_amp: (B, C, N, N), square root of the counted photons.

    Returns:
        (B,)
    """
    rate, counts = pred_amp.square(), obs_amp.square()
    return (rate - counts * torch.log(rate + _RATE_FLOOR) + torch.lgamma(counts + 1)).sum((1, 2, 3))


def mean_absolute_error(pred_amp: Tensor, obs_amp: Tensor) -> Tensor:
    """Compute the mean |pred - obs| per sample, (B,), of two (B, C, N, N) amplitudes."""
    return (pred_amp - obs_amp).abs().mean((1, 2, 3))


def normalised(per_sample: Tensor, obs_amp: Tensor) -> Tensor:
    """Average loss / mean amplitude over the batch, so that scans of different brightness have equal weight."""
    return (per_sample / (obs_amp.mean((1, 2, 3)) + _MEAN_EPSILON)).mean()


def supervised(amp: Tensor, phase: Tensor, label_amp: Tensor, label_phase: Tensor) -> Tensor:
    """Compute 2 sum |amp - label| + 4 sum |wrap(phase - label)|, averaged over the batch; all (B, C, N, N), radians."""
    per_sample = 2 * (amp - label_amp).abs() + 4 * _wrapped(phase - label_phase).abs()
    return per_sample.sum((1, 2, 3)).mean()


def _wrapped(phase: Tensor) -> Tensor:
    """Wrap to [-pi, pi]; values inside that range are unchanged, bit for bit."""
    return phase - 2 * math.pi * torch.round(phase / (2 * math.pi))


def poisson_deviance(pred_amp: Tensor, obs_amp: Tensor) -> Tensor:
    """Compute the mean Poisson deviance per detector pixel: about 1 for a perfect model and many photons per pixel.

    2 mean [k log(k / lambda) - (k - lambda)], lambda = pred^2, k = obs^2, photons; 2 lambda where k = 0.
    McCullagh & Nelder, Generalized Linear Models, 2nd ed. (1989), section 2.3. Uses float64: terms of up to 1e8 cancel
    to about 1. A metric only: it has no gradient.

    Args:
        pred_amp: (B, C, N, N), square root of the expected photons.
        obs_amp: (B, C, N, N), square root of the counted photons.

    Returns:
        (), of the prediction's dtype and device. Infinite where photons were counted and none are expected.
    """
    device = "cpu" if pred_amp.device.type == "mps" else pred_amp.device  # MPS has no float64
    rate, counts = (a.detach().to(device, torch.float64).square() for a in (pred_amp, obs_amp))
    ratio = torch.where(counts > 0, counts / rate, 1.0)
    return (2 * (counts * torch.log(ratio) - counts + rate)).mean().to(pred_amp)
