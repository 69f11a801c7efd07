"""Image quality metrics: phase error, MAE, PSNR, SSIM, correlation, share of finite pixels, robust value range.

Undefined values (no pixels to compare, image smaller than the window) are NaN. Align predictions first
(`alignment.fit`). Formulas: `docs/reference/formulas.md`.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from recon_worker.reconstruction.slices import row_blocks
from recon_worker.snapshot.array_types import Bool, Complex64, Float32

TRUTH_MARGIN = 0.1
"""Margin of colour ranges and of clipping beyond the truth's percentiles, as a fraction of their distance."""
_PERCENTILES = (0.5, 99.5)
_SSIM_SIGMA_PX, _SSIM_WINDOW_PX = 1.5, 11
"""Gaussian window in the definition of SSIM."""


def robust_limits(values: ArrayLike) -> tuple[float, float]:
    """Return percentiles 0.5 and 99.5 of the finite values, which are robust to outliers; NaN without finite values."""
    array = np.asarray(values)
    finite = array[np.isfinite(array)].astype(np.float64)
    if not finite.size:
        return math.nan, math.nan
    low, high = map(float, np.percentile(finite, _PERCENTILES, overwrite_input=True))
    return low, high


def phase_error_rad(pred_rad: Float32, truth_rad: Float32) -> Float32:
    """Return pred - truth, wrapped to [-pi, pi) before rounding to float32; NaN where either is not finite."""
    with np.errstate(invalid="ignore"):
        difference = np.asarray(pred_rad, np.float64) - truth_rad
        return ((difference + np.pi) % (2 * np.pi) - np.pi).astype(np.float32)


def mean_error(error: Float32, valid: Bool) -> float:
    """Return the mean absolute error over the valid pixels, in the unit of `error`."""
    return float(np.abs(error[valid]).mean(dtype=np.float64)) if valid.any() else math.nan


def comparable_phases(aligned: Complex64, truth: Complex64) -> tuple[Float32, Float32]:
    """Return the phases of prediction and truth, radians, whose difference is the wrapped error.

    The mean phase of the truth is rotated to 0, so that a weak phase object does not cross the branch cut.
    """
    turn = np.exp(-1j * np.angle(truth[np.isfinite(truth)].sum()))
    phase, true_phase = (np.empty(truth.shape, np.float32) for _ in range(2))
    for rows in row_blocks(truth.shape):
        true_phase[rows] = np.angle(truth[rows] * turn)
        phase[rows] = true_phase[rows] + phase_error_rad(np.angle(aligned[rows]), np.angle(truth[rows]))
    return phase, true_phase


def finite_share(values: Float32 | Complex64, where: Bool) -> float:
    """Return the fraction of the pixels in `where` that are finite."""
    return float(np.isfinite(values[where]).mean()) if where.any() else math.nan


def correlation(pred: Float32, truth: Float32, valid: Bool) -> float:
    """Return Pearson's correlation over the valid pixels; NaN if either image is uniform or not finite."""
    if not valid.any():
        return math.nan
    means = [float(image[valid].mean(dtype=np.float64)) for image in (pred, truth)]
    moments = np.zeros((2, 2))
    for rows in row_blocks(valid.shape):
        both = np.stack([i[rows][valid[rows]] - mean for i, mean in zip((pred, truth), means, strict=True)])
        moments += both @ both.T
    power = math.sqrt(moments[0, 0] * moments[1, 1])
    return float(moments[0, 1]) / power if power > 0 else math.nan


def psnr_db(pred: Float32, truth: Float32, valid: Bool) -> float:
    """Return the peak signal-to-noise ratio over the valid pixels: 10 log10(R^2 / MSE), dB.

    R is the distance between the truth's percentiles 0.5 and 99.5. Values are clipped to the colour range of the
    pictures, which extends R / 10 beyond the percentiles. NaN if MSE or R is 0.
    """
    span, low, high = _limits(truth, valid)
    if not span > 0:
        return math.nan
    blocks = ((pred[rows][valid[rows]], truth[rows][valid[rows]]) for rows in row_blocks(valid.shape))
    clipped = ((np.clip(p.astype(np.float64), low, high), np.clip(t, low, high)) for p, t in blocks)
    mse = sum(float(np.sum((p - t) ** 2)) for p, t in clipped) / int(np.count_nonzero(valid))
    ratio = span**2 / mse if mse > 0 else 0.0
    return 10 * math.log10(ratio) if 0 < ratio < math.inf else math.nan


def _limits(truth: Float32, valid: Bool) -> tuple[float, float, float]:
    """Return R, the robust range of the truth's valid pixels, and the clipping limits."""
    low, high = robust_limits(truth[valid])
    span = high - low
    return span, low - TRUTH_MARGIN * span, high + TRUTH_MARGIN * span


def ssim(pred: Float32, truth: Float32, valid: Bool) -> float:
    """Return the mean structural similarity over the pixels whose whole window is valid (scikit-image).

    Wang et al., IEEE Trans. Image Process. 13, 600 (2004): Gaussian window of 11 x 11 px, sigma 1.5 px; range and
    clipping as in `psnr_db`.
    """
    from scipy.ndimage import minimum_filter  # type: ignore[attr-defined]
    from skimage.metrics import structural_similarity

    whole = minimum_filter(valid, _SSIM_WINDOW_PX, mode="constant", cval=0)
    span, low, high = _limits(truth, valid)
    if not whole.any() or not span > 0:
        return math.nan
    total = 0.0
    for rows in row_blocks(valid.shape):
        above = min(rows.start, _SSIM_WINDOW_PX)  # margin that covers the windows of these rows
        seen = slice(rows.start - above, rows.stop + _SSIM_WINDOW_PX)
        _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
            *(np.where(valid[seen], np.clip(one[seen], low, high), 0).astype(np.float64) for one in (pred, truth)),
            data_range=span,
            gaussian_weights=True,
            sigma=_SSIM_SIGMA_PX,
            use_sample_covariance=False,
            full=True,
        )
        total += float(similarity[above : above + rows.stop - rows.start][whole[rows]].sum())
    return total / int(np.count_nonzero(whole))
