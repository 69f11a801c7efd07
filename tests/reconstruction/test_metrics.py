"""Metrics compared with scikit-image, closed forms and theory."""

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from recon_worker.reconstruction.metrics import comparable_phases, correlation, finite_share, mean_error, psnr_db, ssim

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


def _span(truth):
    return float(np.subtract(*np.percentile(truth.astype(float), [99.5, 0.5])))


def test_psnr_is_that_of_scikit_image_with_the_robust_range_of_the_truth():
    pred, truth = _pair()
    truth = np.clip(truth, *np.percentile(truth, [0.5, 99.5]))
    pred = np.clip(pred, -0.05, 1.05)
    assert psnr_db(pred, truth, EVERYWHERE) == pytest.approx(
        peak_signal_noise_ratio(truth, pred, data_range=_span(truth)), rel=1e-5
    )

    valid, crop = _window()
    pred[~valid], truth[~valid] = np.nan, np.nan
    expected = peak_signal_noise_ratio(truth[crop], pred[crop], data_range=_span(truth[crop]))
    assert psnr_db(pred, truth, valid) == pytest.approx(expected, rel=1e-3)


def test_ssim_is_that_of_scikit_image_with_the_settings_of_its_definition():
    pred, truth = _pair()
    pred, truth = np.clip(pred, -0.05, 1.05), np.clip(truth, *np.percentile(truth, [0.5, 99.5]))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(pred, truth, data_range=_span(truth), **settings)
    assert ssim(pred, truth, EVERYWHERE) == pytest.approx(expected, abs=1e-5)

    valid, crop = _window()
    pred[~valid], truth[~valid] = np.nan, 1e3
    expected = structural_similarity(pred[crop], truth[crop], data_range=_span(truth[crop]), **settings)
    assert ssim(pred, truth, valid) == pytest.approx(expected, abs=1e-4)


def test_stray_pixels_of_the_truth_do_not_make_an_unrelated_picture_good():
    """As on the rim of a scan. With max - min for a range, PSNR is above 35 dB and SSIM above 0.9."""
    _, truth = _pair(shape=(60, 60))
    unrelated = np.full_like(truth, truth.mean())
    stray = truth.copy()
    stray[0, :2] = [30, -30]
    everywhere = np.ones(truth.shape, bool)

    assert peak_signal_noise_ratio(stray, unrelated, data_range=np.ptp(stray)) > 30
    assert structural_similarity(stray, unrelated, data_range=np.ptp(stray)) > 0.9
    assert psnr_db(unrelated, stray, everywhere) == pytest.approx(psnr_db(unrelated, truth, everywhere), abs=0.2)
    assert psnr_db(unrelated, stray, everywhere) < 12
    assert ssim(unrelated, stray, everywhere) < 0.2


def test_a_prediction_that_overshoots_is_not_forgiven():
    rng = np.random.default_rng(0)
    binary = (rng.random(SHAPE) > 0.5).astype(np.float32)

    assert psnr_db(3 * binary - 1, binary, EVERYWHERE) == pytest.approx(20, abs=0.01)


def test_identical_pictures_have_ssim_one_and_no_finite_psnr():
    _, truth = _pair()

    assert ssim(truth, truth, EVERYWHERE) == pytest.approx(1)
    assert math.isnan(psnr_db(truth, truth, EVERYWHERE))


@pytest.mark.parametrize("case", ["nothing valid", "constant truth", "smaller than the window"])
def test_an_undefined_metric_is_nan(case):
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


def test_correlation_is_pearsons_over_the_valid_pixels():
    pred, truth = _pair()
    valid, crop = _window()
    expected = np.corrcoef(pred[crop].ravel(), truth[crop].ravel())[0, 1]
    pred[~valid] = np.nan

    assert correlation(pred, truth, valid) == pytest.approx(expected, rel=1e-6)
    assert correlation(-3 * truth + 2, truth, valid) == pytest.approx(-1)


@pytest.mark.parametrize("case", ["nothing valid", "uniform", "not finite"])
def test_an_undefined_correlation_is_nan(case):
    pred, truth = _pair()
    if case == "not finite":
        pred[3, 3] = np.nan
    if case == "uniform":
        pred = np.ones_like(pred)

    assert math.isnan(correlation(pred, truth, EVERYWHERE if case != "nothing valid" else ~EVERYWHERE))


def test_the_finite_share_counts_the_pixels_in_question_only():
    values = np.array([[1, np.nan, np.inf, 2, np.nan]], np.float32)

    assert finite_share(values, np.array([[True, True, True, True, False]])) == 0.5
    assert math.isnan(finite_share(values, np.zeros((1, 5), bool)))
