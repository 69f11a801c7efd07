"""Where a prediction lies, against known shifts."""

import math

import numpy as np
import pytest
from scipy.ndimage import fourier_shift, gaussian_filter

from recon_worker.reconstruction.registration import shift_px

SHAPE = (96, 120)
EVERYWHERE = np.ones(SHAPE, bool)


def _object(seed=0):
    rng = np.random.default_rng(seed)
    amp, phase = (gaussian_filter(rng.normal(size=SHAPE), 2, mode="wrap") for _ in range(2))
    return ((1 + amp) * np.exp(3j * phase)).astype(np.complex64)


def _moved(image, x, y):
    return np.fft.ifft2(fourier_shift(np.fft.fft2(image), (y, x))).astype(np.complex64)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1.5, 0), (-0.4, 2.3), (4, -3)])
def test_a_known_shift_is_measured_to_a_twentieth_of_a_pixel(x, y):
    truth = _object()

    assert shift_px(_moved(truth, x, y), truth, EVERYWHERE) == pytest.approx((x, y), abs=0.05)


def test_it_is_measured_where_both_are_known():
    truth, valid = _object(), EVERYWHERE.copy()
    pred = _moved(truth, 2, 1)
    valid[:, :30], pred[:, :30] = False, np.nan

    assert shift_px(pred, truth, valid) == pytest.approx((2, 1), abs=0.1)


@pytest.mark.parametrize("case", ["unrelated", "uniform", "too small"])
def test_there_is_no_shift_where_the_two_have_nothing_in_common(case):
    pred = {"unrelated": _object(1), "uniform": np.ones(SHAPE, np.complex64)}.get(case, _object())
    valid = EVERYWHERE.copy()
    if case == "too small":
        valid[15:] = False

    assert all(map(math.isnan, shift_px(pred, _object(), valid)))


def test_large_fields_are_measured_in_their_middle():
    rng = np.random.default_rng(0)
    truth = (rng.normal(size=(1100, 1100)) + 1j).astype(np.complex64)

    assert shift_px(np.roll(truth, 3, axis=1), truth, np.ones(truth.shape, bool)) == pytest.approx((3, 0), abs=0.05)
