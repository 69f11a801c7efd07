"""The range of an image's values that stray pixels do not set."""

import math

import numpy as np
from numpy.typing import ArrayLike

TRUTH_MARGIN = 0.1
"""How far colours and clipped values go beyond the percentiles of the truth, as a fraction of their distance."""
_PERCENTILES = (0.5, 99.5)


def robust_limits(values: ArrayLike) -> tuple[float, float]:
    """Percentiles 0.5 and 99.5 of the finite values; NaN if there is none."""
    array = np.asarray(values)
    finite = array[np.isfinite(array)].astype(np.float64)
    if not finite.size:
        return math.nan, math.nan
    low, high = map(float, np.percentile(finite, _PERCENTILES, overwrite_input=True))
    return low, high
