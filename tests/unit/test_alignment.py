"""What the global factor takes out, and what it leaves."""

import cmath
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_worker.alignment import align, global_factor, phase_error_rad

EVERYWHERE = np.ones((24, 20), bool)


def _object(seed=0):
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.3, 1, (24, 20)) * np.exp(1j * rng.uniform(-3, 3, (24, 20)))).astype(np.complex64)


@given(st.floats(0.05, 20), st.floats(-math.pi, math.pi))
def test_a_scaled_and_rotated_truth_is_given_back(scale, phase_rad):
    truth = _object()
    pred = (truth / np.complex64(cmath.rect(scale, phase_rad))).astype(np.complex64)

    assert global_factor(pred, truth, EVERYWHERE) == pytest.approx(cmath.rect(scale, phase_rad), rel=1e-5)
    np.testing.assert_allclose(align(pred, truth, EVERYWHERE), truth, atol=1e-5)


def test_no_other_factor_gives_a_smaller_squared_error():
    pred, truth = _object(1), _object(2)
    best = global_factor(pred, truth, EVERYWHERE)

    def error(factor):
        return (np.abs(factor * pred - truth) ** 2).sum()

    nearby = [best + 0.02 * cmath.rect(1, angle) for angle in np.linspace(0, 6, 7)]
    assert all(error(best) < error(factor) for factor in nearby)


def test_pixels_outside_the_mask_and_pixels_that_are_not_finite_have_no_say():
    truth = _object()
    pred = truth / 2
    valid = EVERYWHERE.copy()
    valid[0], pred[0] = False, 100
    pred[1, 1], truth[2, 2], pred[3, 3] = np.nan, np.nan, np.inf

    assert global_factor(pred, truth, valid) == pytest.approx(2)


@pytest.mark.parametrize("case", ["nothing valid", "prediction zero", "all nan"])
def test_without_anything_to_fit_the_factor_is_one(case):
    truth = _object()
    pred = {"nothing valid": truth, "prediction zero": 0 * truth, "all nan": truth * np.nan}[case]
    valid = EVERYWHERE if case != "nothing valid" else ~EVERYWHERE

    assert global_factor(pred, truth, valid) == 1


def test_aligning_keeps_nan_and_inf_without_a_warning():
    pred, truth = _object(), _object()
    pred[0, 0], pred[1, 1] = np.nan, np.inf

    aligned = align(pred, truth, EVERYWHERE)
    assert (~np.isfinite(aligned)).sum() == 2


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_phase_error_is_the_angle_between_the_two_phasors(pred_rad, true_rad):
    error = float(phase_error_rad(np.float64(pred_rad), np.float64(true_rad)))

    assert -np.float32(np.pi) <= error <= np.float32(np.pi)
    assert cmath.rect(1, error) == pytest.approx(cmath.rect(1, pred_rad - true_rad), abs=1e-5)


def test_phase_error_across_the_branch_cut_is_small_and_half_a_turn_is_minus_pi():
    np.testing.assert_allclose(
        phase_error_rad(np.array([3.1, np.pi, 0]), np.array([-3.1, 0, np.pi])), [6.2 - 2 * np.pi, -np.pi, -np.pi]
    )
    assert np.isnan(phase_error_rad(np.array([np.inf, np.nan]), np.zeros(2))).all()
