"""Ambiguities that the fit removes, and structure that it keeps."""

import cmath
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_worker.reconstruction.alignment import Alignment, comparable, fit, steep_ramp, well_covered
from recon_worker.reconstruction.metrics import phase_error_rad

SHAPE = (56, 72)
EVERYWHERE = np.ones(SHAPE, bool)


def _object(seed=0, shape=SHAPE):
    """A known object: smooth phase below one turn, amplitude above 0.3."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = sum(rng.uniform(-1, 1) * np.cos(0.2 * (i * x + j * y)) for i, j in ((1, 0), (0, 1), (2, 1), (1, 2)))
    return (rng.uniform(0.3, 1, shape) * np.exp(0.5j * waves)).astype(np.complex64)


def _distorted(truth, scale, phase_rad, ramp):
    """A prediction that needs exactly this scale, phase and ramp, the ramp about the image's centre."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in truth.shape)
    angle = phase_rad + ramp[0] * x + ramp[1] * y[:, None]
    return (truth / scale * np.exp(-1j * angle)).astype(np.complex64)


ramps = st.tuples(st.floats(-0.7, 0.7), st.floats(-0.7, 0.7))


@given(st.floats(0.05, 20), st.floats(-math.pi, math.pi), ramps)
def test_scale_phase_and_ramp_come_back_and_leave_no_error(scale, phase_rad, ramp):
    truth = _object()
    pred = _distorted(truth, scale, phase_rad, ramp)

    found = fit(pred, truth, EVERYWHERE, ramp=True)
    assert found.scale == pytest.approx(scale, rel=1e-5)
    assert cmath.rect(1, found.phase_rad) == pytest.approx(cmath.rect(1, phase_rad), abs=1e-5)
    assert found.ramp_rad_per_px == pytest.approx(ramp, abs=1e-6)
    np.testing.assert_allclose(found.apply(pred), truth, atol=2e-5)


@pytest.mark.parametrize("turns", [(0, 0), (0.5, -0.5), (3.5, 2.49), (-7, 5.5)])
def test_ramps_of_many_turns_are_found_in_a_disc_with_holes_and_noise(turns):
    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    valid = (x**2 + y**2 < 1) & (np.random.default_rng(0).random(SHAPE) > 0.2)
    ramp = (2 * np.pi * turns[0] / SHAPE[1], 2 * np.pi * turns[1] / SHAPE[0])
    noise = np.random.default_rng(1).normal(0, 0.3, (2, *SHAPE))
    pred = _distorted(_object(), 1, 1, ramp) + (noise[0] + 1j * noise[1]).astype(np.complex64)

    assert fit(pred, _object(), valid, ramp=True).ramp_rad_per_px == pytest.approx(ramp, abs=2e-3)


def test_no_neighbouring_ramp_or_phase_gives_a_smaller_squared_error():
    pred, truth = _object(1), _object(2)
    best = fit(pred, truth, EVERYWHERE, ramp=True)

    def error(phase=0.0, x=0.0, y=0.0):
        moved = (best.ramp_rad_per_px[0] + x, best.ramp_rad_per_px[1] + y)
        other = Alignment(scale=best.scale, phase_rad=best.phase_rad + phase, ramp_rad_per_px=moved)
        return (np.abs(other.apply(pred).astype(complex) - truth) ** 2).sum()

    steps = [d * s for d in (0.05, -0.05) for s in np.eye(3) * [1, 0.01, 0.01]]
    assert all(error() < error(*step) for step in steps)


def test_the_scale_minimises_the_squared_amplitude_error_however_wrong_the_phase_is():
    pred, truth = _object(1), _object(2) * np.exp(1j * np.random.default_rng(3).uniform(-3, 3, SHAPE))
    best = fit(pred, truth, EVERYWHERE, ramp=False).scale

    def error(scale):
        return ((scale * np.abs(pred) - np.abs(truth)) ** 2).sum()

    assert error(best) < min(error(best * 0.99), error(best * 1.01))


def test_without_ramp_the_slope_is_zero_and_the_phase_is_that_of_the_inner_product():
    truth = _object()
    pred = _distorted(truth, 2, 0.5, (0.1, 0))

    found = fit(pred, truth, EVERYWHERE, ramp=False)
    assert found.ramp_rad_per_px == (0, 0)
    assert found.phase_rad == pytest.approx(cmath.phase(np.vdot(pred, truth)), abs=1e-5)


def test_a_ramp_steeper_than_the_limit_is_structure_and_not_removed():
    truth = _object()
    pred = _distorted(truth, 1, 0, (2.0, 0))

    found = fit(pred, truth, EVERYWHERE, ramp=True)
    assert max(map(abs, found.ramp_rad_per_px)) < 1


@pytest.mark.parametrize("ramp", [(2.0, 0.0), (-0.5, 1.0), (0.0, -3.0)])
def test_a_ramp_beyond_the_search_is_named(ramp):
    truth = _object()
    pred = _distorted(truth, 1, 0, ramp)

    assert steep_ramp(pred, truth, EVERYWHERE) == pytest.approx(ramp, abs=2 * np.pi / 1024)
    assert steep_ramp(_distorted(truth, 1, 0, (0.7, -0.7)), truth, EVERYWHERE) is None


@pytest.mark.parametrize("seed", range(5))
def test_unrelated_images_have_no_ramp(seed):
    """Some ramp always improves their agreement a little."""
    noise = np.exp(1j * np.random.default_rng(seed).uniform(-np.pi, np.pi, SHAPE)).astype(np.complex64)

    assert fit(noise, _object(), EVERYWHERE, ramp=True).ramp_rad_per_px == (0, 0)
    assert steep_ramp(noise, _object(), EVERYWHERE) is None


def test_pixels_outside_the_mask_and_pixels_that_are_not_finite_do_not_count():
    truth = _object()
    pred = truth / 2
    valid = EVERYWHERE.copy()
    valid[0], pred[0] = False, 100
    pred[1, 1], truth[2, 2], pred[3, 3] = np.nan, np.nan, np.inf

    assert fit(pred, truth, valid, ramp=False).scale == pytest.approx(2)


@pytest.mark.parametrize("ramp", [True, False])
@pytest.mark.parametrize("case", ["nothing valid", "prediction zero", "all nan"])
def test_without_anything_to_fit_the_alignment_is_neutral(case, ramp):
    truth = _object()
    pred = {"nothing valid": truth, "prediction zero": 0 * truth, "all nan": truth * np.nan}[case]
    valid = EVERYWHERE if case != "nothing valid" else ~EVERYWHERE

    assert fit(pred, truth, valid, ramp=ramp) == Alignment()


@pytest.mark.parametrize("pixels", [np.s_[5:6, 7:8], np.s_[5:6, :], np.s_[:, 7:8], np.s_[5:7, 7:9]])
def test_a_ramp_over_one_pixel_or_one_row_still_gives_a_finite_fit(pixels):
    valid = ~EVERYWHERE
    valid[pixels] = True
    found = fit(_object(), _object() * np.complex64(2j), valid, ramp=True)

    assert found.scale == pytest.approx(2)
    np.testing.assert_allclose(found.apply(_object())[valid], (_object() * 2j)[valid], rtol=1e-4)


def test_aligning_keeps_nan_and_inf_without_a_warning():
    pred = _object()
    pred[0, 0], pred[1, 1] = np.nan, np.inf

    aligned = fit(pred, _object(), EVERYWHERE, ramp=True).apply(pred)
    assert (~np.isfinite(aligned)).sum() == 2


def test_no_error_is_claimed_where_the_truth_is_dark_or_unknown_or_nothing_is_predicted():
    truth, pred = np.ones((1, 200), np.complex64), np.ones((1, 200), np.complex64)
    truth[0, :4] = [0, 0.09, 0.11j, np.nan]
    pred[0, 4] = 0

    assert comparable(pred, truth)[0, :6].tolist() == [False, False, True, False, False, True]


def test_no_error_is_claimed_where_only_a_sliver_of_a_patch_covers():
    coverage = np.full((1, 9), 4, np.float32)
    coverage[0, :3] = [0, 0.3, 0.5]

    assert well_covered(coverage)[0, :4].tolist() == [False, False, True, True]
    ones = np.ones((1, 9), np.complex64)
    np.testing.assert_array_equal(comparable(ones, ones, coverage), well_covered(coverage))
    assert not well_covered(0 * coverage).any()


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
