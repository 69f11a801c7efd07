"""The numbers against scikit-image, closed forms and theory."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from recon_worker.metrics import (
    HALF,
    ONE_SEVENTH,
    RingCorrelation,
    comparable_phases,
    half_scans,
    largest_square,
    log_intensity_correlation,
    mean_error,
    psnr_db,
    ring_correlation,
    ssim,
)
from recon_worker.snapshot import PositionGeometry
from recon_worker.stitching import stitch

SHAPE = (40, 52)
EVERYWHERE = np.ones(SHAPE, bool)


def _pair(seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    truth = rng.random(shape).astype(np.float32)
    return (truth + rng.normal(0, 0.1, shape)).astype(np.float32), truth


def _window(rows=slice(6, 31), columns=slice(9, 40)):
    valid = ~EVERYWHERE
    valid[rows, columns] = True
    return valid, (rows, columns)


def test_mean_error_counts_valid_pixels_only():
    error = np.array([[1, -3, 100]], np.float32)

    assert mean_error(error, np.array([[True, True, False]])) == 2
    assert math.isnan(mean_error(error, np.zeros((1, 3), bool)))


def test_psnr_is_that_of_scikit_image_with_the_range_of_the_truth():
    pred, truth = _pair()
    assert psnr_db(pred, truth, EVERYWHERE) == pytest.approx(
        peak_signal_noise_ratio(truth, pred, data_range=np.ptp(truth)), rel=1e-5
    )

    valid, crop = _window()
    pred[~valid], truth[~valid] = np.nan, np.nan
    expected = peak_signal_noise_ratio(truth[crop], pred[crop], data_range=np.ptp(truth[crop]))
    assert psnr_db(pred, truth, valid) == pytest.approx(expected, rel=1e-5)


def test_ssim_is_that_of_scikit_image_with_the_settings_of_its_definition():
    pred, truth = _pair()
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(pred, truth, data_range=np.ptp(truth), **settings)
    assert ssim(pred, truth, EVERYWHERE) == pytest.approx(expected, abs=1e-5)

    valid, crop = _window()
    pred[~valid], truth[~valid] = np.nan, 1e3
    expected = structural_similarity(pred[crop], truth[crop], data_range=np.ptp(truth[crop]), **settings)
    assert ssim(pred, truth, valid) == pytest.approx(expected, abs=1e-5)


def test_identical_pictures_have_ssim_one_and_no_finite_psnr():
    _, truth = _pair()

    assert ssim(truth, truth, EVERYWHERE) == pytest.approx(1)
    assert math.isnan(psnr_db(truth, truth, EVERYWHERE))


@pytest.mark.parametrize("case", ["nothing valid", "constant truth", "smaller than the window"])
def test_a_number_that_cannot_be_had_is_nan(case):
    pred, truth = _pair()
    truth = np.ones_like(truth) if case == "constant truth" else truth
    valid = {"nothing valid": ~EVERYWHERE, "smaller than the window": _window(slice(0, 10))[0]}.get(case, EVERYWHERE)

    assert math.isnan(ssim(pred, truth, valid))
    assert math.isnan(psnr_db(pred, truth, valid)) == (case != "smaller than the window")


def test_phases_differ_by_the_wrapped_error_and_the_truth_has_mean_phase_zero():
    rng = np.random.default_rng(0)
    true_phase = 3.1 + rng.normal(0, 0.3, SHAPE)
    truth = np.exp(1j * true_phase).astype(np.complex64)
    error = rng.uniform(-3, 3, SHAPE)
    truth[0, 0] = np.nan

    pred_phase, shown = comparable_phases((truth * np.exp(1j * error)).astype(np.complex64), truth)
    known = np.isfinite(truth)
    np.testing.assert_allclose((pred_phase - shown)[known], error[known], atol=1e-5)
    assert abs(np.angle(np.exp(1j * shown[known]).sum())) < 1e-6
    assert np.abs(shown[known]).max() < 2


def _white(seed, n=256):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (n, n)) + 1j * rng.normal(0, 1, (n, n))


def _radius(n=256):
    f = np.fft.fftfreq(n)
    return np.hypot(f[:, None], f)


def test_ring_correlation_of_identical_images_is_one_up_to_nyquist():
    image = _white(0, 63).astype(np.complex64)
    found = ring_correlation(image, image, np.ones((63, 63), bool))

    np.testing.assert_allclose(found.correlation, 1, atol=1e-12)
    np.testing.assert_allclose(found.frequency, np.arange(1, 32) / 63)
    assert found.cutoff(ONE_SEVENTH) == found.cutoff(HALF) == 0.5


def test_ring_correlation_of_independent_noise_is_within_its_spread_around_zero():
    found = ring_correlation(_white(0), _white(1), np.ones((256, 256), bool))
    # The real part of N independent terms has the variance 1 / (2 N); the window leaves at least N / 9 of them.
    spread = np.sqrt(9 / (2 * 2 * np.pi * found.frequency * 256))

    assert (np.abs(found.correlation) < 4 * spread).all()
    assert found.cutoff(ONE_SEVENTH) < 0.05


@pytest.mark.parametrize(("threshold", "snr"), [(ONE_SEVENTH, 1 / 6), (HALF, 1)])
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
    rings = RingCorrelation(frequency=np.array([0.1, 0.2, 0.3]), correlation=np.array([0.9, 0.4, 0.8]))

    assert rings.cutoff(0.5) == pytest.approx(0.1 + 0.1 * 0.4 / 0.5)
    assert rings.cutoff(0.95) == 0
    assert rings.cutoff(0.3) == 0.5


def test_lowest_rings_that_are_below_do_not_end_the_resolution():
    rings = RingCorrelation(frequency=np.arange(1, 6) / 10, correlation=np.array([-0.4, 0.1, 0.9, 0.7, 0.3]))

    assert rings.cutoff(0.5) == pytest.approx(0.45)
    assert rings.cutoff(0.2) == 0.5


def test_the_border_of_the_scan_and_a_common_offset_do_not_correlate():
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    disc = x**2 + y**2 < 0.9
    a, b = (np.where(disc, 50 + _white(seed), 0).astype(np.complex64) for seed in (1, 2))

    assert ring_correlation(a, b, disc).cutoff(HALF) < 0.05


def test_a_dip_inside_the_peak_does_not_end_the_resolution():
    """As of an early network: contrast over a few probe widths comes last."""
    correlation = np.array([-0.5, 0.8, 0.1, 0.7, 0.95, 0.6, 0.4, 0.1])
    rings = RingCorrelation(frequency=np.arange(1, 9) / 16, correlation=correlation)

    assert rings.cutoff(0.5) == pytest.approx(6.5 / 16)


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


def test_two_half_scans_together_are_the_whole_scan():
    rng = np.random.default_rng(0)
    geometry = PositionGeometry(patch_px=16, crop_px=8, positions_px=rng.uniform(12, 30, (41, 1, 2)))
    patches = (rng.random((41, 1, 8, 8)) * np.exp(1j * rng.random((41, 1, 8, 8)))).astype(np.complex64)
    filled = rng.random(41) > 0.2

    ((even, odd),) = half_scans(geometry, patches, filled)
    (whole,) = stitch(geometry, patches, filled)
    np.testing.assert_allclose(even.coverage + odd.coverage, whole.coverage, rtol=1e-5)
    together = even.object * even.coverage + odd.object * odd.coverage
    np.testing.assert_allclose(together, whole.object * whole.coverage, atol=1e-4)
    (alone,) = stitch(geometry, patches, filled & (np.arange(41) % 2 == 1))
    np.testing.assert_array_equal(odd.object, alone.object)


def test_log_intensity_correlation_is_pearsons_and_ignores_what_is_not_finite():
    rng = np.random.default_rng(0)
    observed = rng.random((2, 8, 8)).astype(np.float32)
    pred = (2 * observed + rng.random((2, 8, 8))).astype(np.float32)
    expected = float(((pred - pred.mean()) * (observed - observed.mean())).mean() / pred.std() / observed.std())

    assert log_intensity_correlation(pred, observed) == pytest.approx(expected, rel=1e-5)
    with_nan = np.append(pred, np.float32(np.nan)), np.append(observed, np.float32(1))
    assert log_intensity_correlation(*with_nan) == pytest.approx(expected, rel=1e-5)


@given(st.floats(0.1, 10), st.floats(-3, 3))
def test_log_intensity_correlation_does_not_depend_on_a_scale_or_offset(scale, offset):
    values = np.linspace(0, 1, 20, dtype=np.float32)

    assert log_intensity_correlation(values * np.float32(scale) + np.float32(offset), values) == pytest.approx(
        1, abs=1e-6
    )
    assert math.isnan(log_intensity_correlation(np.ones(20, np.float32), values))
