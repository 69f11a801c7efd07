"""Metrics of predicted and measured patterns, on simulated counts."""

import math

import numpy as np
import pytest

from recon_worker.reconstruction.diffraction_metrics import mean_pattern, poisson_deviance, r_factor


def _counts(photons, n=64, seed=0):
    """Expected and counted photons of a peaked pattern."""
    y, x = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
    rate = photons * (0.2 + np.exp(-8 * (x**2 + y**2)))
    return rate, np.random.default_rng(seed).poisson(rate)


def test_the_r_factor_is_the_share_of_the_amplitude_that_is_wrong():
    observed = np.array([[3, 1], [0, 4]], np.float32)

    assert r_factor(observed, observed) == 0
    assert r_factor(np.array([[2, 1], [1, 4]], np.float32), observed) == pytest.approx(2 / 8)
    assert r_factor(0 * observed, observed) == 1


@pytest.mark.parametrize("photons", [30, 1e4, 1e8])
def test_a_perfect_model_has_a_deviance_of_one_per_pixel(photons):
    rate, counts = _counts(photons)
    amplitudes = (np.sqrt(values).astype(np.float32) for values in (rate, counts))

    # The deviance of a pixel has the variance 2, so the mean of 4096 has a spread of 0.02.
    assert poisson_deviance(*amplitudes, 1.0) == pytest.approx(1, abs=0.07)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_deviance_is_that_of_the_photons_whatever_the_units(scale):
    rate, counts = _counts(100)
    expected = 2 * np.mean(
        [k * math.log(k / r) - (k - r) if k else r for k, r in zip(counts.flat, rate.flat, strict=True)]
    )
    pred, observed = ((np.sqrt(values) / scale).astype(np.float32) for values in (rate, counts))

    assert poisson_deviance(pred, observed, scale) == pytest.approx(expected, rel=1e-4)


def test_photons_where_none_are_predicted_cost_much_and_darkness_costs_nothing():
    observed = np.array([[0, 10]], np.float32)

    assert poisson_deviance(np.array([[0, 10]], np.float32), observed, 1.0) == pytest.approx(0, abs=1e-9)
    assert 1e3 < poisson_deviance(np.zeros((1, 2), np.float32), observed, 1.0) < math.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_prediction_that_is_not_finite_everywhere_has_no_metric(bad):
    observed = np.ones((2, 2), np.float32)
    pred = np.array([[1, 1], [1, bad]], np.float32)

    assert math.isnan(r_factor(pred, observed))
    assert math.isnan(poisson_deviance(pred, observed, 1.0))
    assert math.isnan(r_factor(observed, 0 * observed))


def test_the_mean_pattern_has_the_mean_intensity_and_a_single_pattern_has_none():
    patterns = np.array([[[1, 2]], [[7, 2]]], np.float32)

    np.testing.assert_allclose(mean_pattern(patterns), [[5, 2]])
    assert mean_pattern(patterns[:1]) is None


def test_patterns_that_all_look_alike_are_told_from_those_that_are_predicted():
    """The correlation of logarithms is almost perfect in both cases, and cannot distinguish them."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    common, rng = 1e6 * np.exp(-12 * (x**2 + y**2)) + 100, np.random.default_rng(1)
    rates = common * rng.uniform(0.5, 1.5, (8, *common.shape))
    observed = np.sqrt(rng.poisson(rates)).astype(np.float32)
    mean = mean_pattern(observed)
    of_mean = np.mean([r_factor(mean, one) for one in observed])
    predicted = np.mean([r_factor(np.sqrt(rate), one) for rate, one in zip(rates, observed, strict=True)])
    logs = [np.corrcoef(np.log1p(mean.ravel() ** 2), np.log1p(one.ravel() ** 2))[0, 1] for one in observed]

    assert min(logs) > 0.95
    assert predicted < of_mean / 10
