"""Where a prediction lies, compared with the truth: measured and logged, never corrected, for it is an error."""

import math

import numpy as np

from recon_worker.reconstruction.blocks import central
from recon_worker.reconstruction.ring_correlation import largest_square, tapered
from recon_worker.snapshot.records import Bool, Complex64

_SMALLEST_PX, _LARGEST_PX = 16, 1024
_STEPS_PER_PX = 50
LEAST_CORRELATION = 0.3
"""At the best shift, of 1. Below it the two have too little in common for a shift to mean anything."""


def shift_px(pred: Complex64, truth: Complex64, valid: Bool) -> tuple[float, float]:
    """How much further right and down the prediction lies than the truth, (x, y), pixels; NaN where that is not known.

    The peak of the cross-correlation in the largest valid square, of which at most the central 1024 px, found to 1/50
    px: Guizar-Sicairos, Thurman & Fienup, Opt. Lett. 33, 156 (2008), as in scikit-image.

    Args:
        pred: (H, W) complex64, aligned.
        truth: (H, W) complex64.
        valid: (H, W) pixels at which both are known, and finite.
    """
    from skimage.registration import phase_cross_correlation

    square = largest_square(valid)
    side = square[0].stop - square[0].start
    if side < _SMALLEST_PX:
        return math.nan, math.nan
    middle = central(side, _LARGEST_PX)
    images = [tapered(image[square][middle, middle].astype(np.complex128)) for image in (truth, pred)]
    if not all(image.any() for image in images):
        return math.nan, math.nan
    found, error, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        *images, upsample_factor=_STEPS_PER_PX, normalization=None
    )
    if not error**2 <= 1 - LEAST_CORRELATION**2:
        return math.nan, math.nan
    return 0.0 - float(found[1]), 0.0 - float(found[0])
