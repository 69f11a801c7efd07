"""Fourier ring correlation against closed forms, theory and noise; shifts against known shifts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import fourier_shift, gaussian_filter

from recon_worker.reconstruction.fourier import HALF, RingCorrelation, largest_square, ring_correlation, shift_and_rings

SHAPE = (96, 120)
EVERYWHERE = np.ones(SHAPE, bool)


def _white(seed, n=256):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (n, n)) + 1j * rng.normal(0, 1, (n, n))


def _rings(correlation):
    """Rings 0.1 cycles/px apart."""
    frequency = np.arange(1, len(correlation) + 1) / 10
    return RingCorrelation(frequency=frequency, correlation=np.array(correlation), pixels=np.full(len(frequency), 1e9))


def _radius(n=256):
    f = np.fft.fftfreq(n)
    return np.hypot(f[:, None], f)


def test_ring_correlation_of_identical_images_is_one_up_to_nyquist():
    image = _white(0, 63).astype(np.complex64)
    found = ring_correlation(image, image, np.ones((63, 63), bool))

    np.testing.assert_allclose(found.correlation, 1, atol=1e-12)
    np.testing.assert_allclose(found.frequency, np.arange(1, 32) / 63)
    assert found.cutoff(HALF) == found.cutoff(found.half_bit()) == 0.5


def test_ring_correlation_of_independent_noise_is_within_its_spread_around_zero():
    found = ring_correlation(_white(0), _white(1), np.ones((256, 256), bool))
    # The real part of N independent terms has the variance 1 / (2 N); the window leaves at least N / 9 of them.
    spread = np.sqrt(9 / (2 * 2 * np.pi * found.frequency * 256))

    assert (np.abs(found.correlation) < 4 * spread).all()
    assert found.cutoff(found.half_bit()) == 0


@pytest.mark.parametrize(("threshold", "snr"), [(1 / 7, 1 / 6), (HALF, 1)])
def test_with_known_signal_to_noise_the_cutoff_is_where_theory_says(threshold, snr):
    """Two images, signal + independent noise: FRC = SNR / (SNR + 1). Here SNR = 20 exp(-(f / 0.12)^2)."""
    profile = np.sqrt(20 * np.exp(-((_radius() / 0.12) ** 2)))
    signal = np.fft.ifft2(np.fft.fft2(_white(0)) * profile)
    a, b = ((signal + _white(seed)).astype(np.complex64) for seed in (1, 2))
    found = ring_correlation(a, b, np.ones((256, 256), bool))

    expected = 20 * np.exp(-((found.frequency / 0.12) ** 2))
    inner = found.frequency > 0.03
    np.testing.assert_allclose(found.correlation[inner], (expected / (expected + 1))[inner], atol=0.12)
    assert found.cutoff(threshold) == pytest.approx(0.12 * math.sqrt(math.log(20 / snr)), abs=0.012)


def test_the_cutoff_is_linear_between_rings_and_zero_if_none_is_above():
    rings = _rings([0.9, 0.9, 0.4, 0.8])

    assert rings.cutoff(0.5) == pytest.approx(0.2 + 0.1 * 0.4 / 0.5)
    assert rings.cutoff(0.95) == 0
    assert rings.cutoff(0.3) == 0.5


def test_lowest_rings_below_the_threshold_do_not_set_the_resolution():
    rings = _rings([-0.4, 0.1, 0.9, 0.7, 0.3])

    assert rings.cutoff(0.5) == pytest.approx(0.45)
    assert rings.cutoff(0.2) == 0.5


def test_one_ring_alone_above_the_threshold_is_chance():
    assert _rings([0.1, 0.9, 0.2, 0.1, 0.9]).cutoff(0.5) == 0
    assert _rings([0.1, 0.9, 0.2, 0.8, 0.6, 0.4]).cutoff(0.5) == pytest.approx(0.55)


@given(st.integers(1, 10**6))
def test_the_half_bit_threshold_falls_from_one_to_that_of_half_a_bit_as_rings_grow(pixels):
    """van Heel & Schatz: log2(1 + SNR) = 1/2 of the whole data is SNR = 0.2071 of each half; FRC = SNR / (SNR + 1)."""
    (threshold,) = RingCorrelation(
        frequency=np.array([0.1]), correlation=np.array([0.5]), pixels=np.array([4.5 * pixels])
    ).half_bit()
    snr = (math.sqrt(2) - 1) / 2

    assert snr / (snr + 1) < threshold <= 1.0001
    assert threshold == pytest.approx(snr / (snr + 1), abs=1.6 / math.sqrt(pixels))


@pytest.mark.parametrize("size", [32, 64, 200])
def test_noise_has_no_resolution_in_nineteen_of_twenty_trials(size):
    """The fixed threshold 1/7 gives pure noise a resolution in most trials."""
    everywhere, passed, above_a_seventh = np.ones((size, size), bool), 0, 0
    for trial in range(60):
        rings = ring_correlation(_white(2 * trial, size), _white(2 * trial + 1, size), everywhere)
        passed += rings.cutoff(rings.half_bit()) > 0
        above_a_seventh += rings.correlation.max() > 1 / 7

    assert above_a_seventh > 40
    assert passed <= 3


def test_the_border_of_the_scan_and_a_common_offset_do_not_correlate():
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    disc = x**2 + y**2 < 0.9
    a, b = (np.where(disc, 50 + _white(seed), 0).astype(np.complex64) for seed in (1, 2))

    assert ring_correlation(a, b, disc).cutoff(HALF) < 0.05


def test_a_dip_inside_the_peak_does_not_set_the_resolution():
    """As early in training: contrast over a few probe widths is learned last."""
    rings = _rings([-0.5, 0.8, 0.1, 0.7, 0.95, 0.6, 0.4, 0.1])

    assert rings.cutoff(0.5) == pytest.approx(0.65)


def test_a_square_below_16_px_has_no_ring_correlation():
    image = _white(0, 15).astype(np.complex64)

    assert ring_correlation(image, image, np.ones((15, 15), bool)) is None
    assert ring_correlation(image, image, np.zeros((15, 15), bool)) is None


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=7)))
def test_the_largest_square_is_valid_and_no_larger_odd_one_is(valid):
    square = largest_square(valid)
    side = square[0].stop - square[0].start
    windows = {
        s: any(
            valid[r : r + s, c : c + s].all() for r in range(len(valid) - s + 1) for c in range(valid.shape[1] - s + 1)
        )
        for s in range(1, min(valid.shape) + 1, 2)
    }

    assert side == square[1].stop - square[1].start == max((s for s, fits in windows.items() if fits), default=0)
    assert valid[square].all()


def _blurred_noise(seed=0):
    rng = np.random.default_rng(seed)
    amp, phase = (gaussian_filter(rng.normal(size=SHAPE), 2, mode="wrap") for _ in range(2))
    return ((1 + amp) * np.exp(3j * phase)).astype(np.complex64)


def _moved(image, x, y):
    return np.fft.ifft2(fourier_shift(np.fft.fft2(image), (y, x))).astype(np.complex64)


def _shift(pred, truth, valid=EVERYWHERE):
    return shift_and_rings(pred, truth, valid)[0]


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1.5, 0), (-0.4, 2.3), (4, -3)])
def test_a_known_shift_is_measured_to_a_twentieth_of_a_pixel(x, y):
    truth = _blurred_noise()

    assert _shift(_moved(truth, x, y), truth) == pytest.approx((x, y), abs=0.05)


def test_a_shift_is_measured_where_both_are_known():
    truth, valid = _blurred_noise(), EVERYWHERE.copy()
    pred = _moved(truth, 2, 1)
    valid[:, :30], pred[:, :30] = False, np.nan

    assert _shift(pred, truth, valid) == pytest.approx((2, 1), abs=0.1)


@pytest.mark.parametrize("case", ["unrelated", "uniform", "too small"])
def test_the_shift_of_unrelated_images_is_undefined(case):
    pred = {"unrelated": _blurred_noise(1), "uniform": np.ones(SHAPE, np.complex64)}.get(case, _blurred_noise())
    valid = EVERYWHERE.copy()
    if case == "too small":
        valid[15:] = False

    assert all(map(math.isnan, _shift(pred, _blurred_noise(), valid)))


def test_the_shift_of_a_large_field_is_measured_in_its_middle():
    rng = np.random.default_rng(0)
    truth = (rng.normal(size=(1100, 1100)) + 1j).astype(np.complex64)

    assert _shift(np.roll(truth, 3, axis=1), truth, np.ones(truth.shape, bool)) == pytest.approx((3, 0), abs=0.05)
