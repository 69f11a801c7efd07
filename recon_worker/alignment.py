"""What a reconstruction leaves open, taken out before it is compared with the truth.

The diffraction does not tell the global phase of the object, nor, while the probe's power is unknown, its amplitude
scale. Both are one complex factor c; the best one in the least-squares sense has a closed form:
c = sum conj(pred) truth / sum |pred|^2.
"""

import numpy as np

from recon_worker.snapshot import Bool, Complex64, Float32


def global_factor(pred: Complex64, truth: Complex64, valid: Bool) -> complex:
    """The factor c that minimises sum |c pred - truth|^2 over valid, finite pixels; 1 where there are none.

    Args:
        pred: (H, W) complex64.
        truth: (H, W) complex64.
        valid: (H, W) pixels to compare.
    """
    use = valid & np.isfinite(pred) & np.isfinite(truth)
    p, t = pred[use].astype(np.complex128), truth[use].astype(np.complex128)
    power = float(np.vdot(p, p).real)
    return complex(np.vdot(p, t)) / power if power > 0 else 1.0 + 0.0j


def align(pred: Complex64, truth: Complex64, valid: Bool) -> Complex64:
    """The prediction times its best global factor; (H, W) complex64."""
    with np.errstate(invalid="ignore", over="ignore"):
        return (pred * np.complex64(global_factor(pred, truth, valid))).astype(np.complex64)


def phase_error_rad(pred_rad: Float32, truth_rad: Float32) -> Float32:
    """pred - truth, wrapped to [-pi, pi], and to -pi rather than pi; NaN where either is not finite."""
    with np.errstate(invalid="ignore"):
        difference = np.asarray(pred_rad, np.float64) - truth_rad
        return ((difference + np.pi) % (2 * np.pi) - np.pi).astype(np.float32)
