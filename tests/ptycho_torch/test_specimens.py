"""Simulated objects and probes."""

from functools import partial

import numpy as np
import pytest
from skimage.restoration import unwrap_phase

from ptycho_torch.data.specimens import default_pictures, diffuser_probe, disc_probe, make_object, varied_object


def test_default_pictures_make_objects_in_the_stated_range():
    object_ = make_object(*default_pictures(), 48)
    varied = varied_object(*default_pictures(), 48, np.random.default_rng(0))

    for made in (object_, varied):
        assert (np.abs(made).min(), np.abs(made).max()) == pytest.approx((0.8, 1.0), abs=1e-5)
        assert (np.angle(made).min(), np.angle(made).max()) == pytest.approx((0.0, 1.5), abs=1e-5)
    assert np.abs(object_ - varied).mean() > 0.05


def test_objects_have_the_amplitudes_that_are_asked_for():
    object_ = make_object(*default_pictures(), 48, (0.5, 0.9))
    varied = varied_object(*default_pictures(), 48, np.random.default_rng(0), (0.5, 0.9))

    for made in (object_, varied):
        assert (np.abs(made).min(), np.abs(made).max()) == pytest.approx((0.5, 0.9), abs=1e-5)


@pytest.mark.parametrize("limits", [(0.5, 0.5), (-0.1, 1.0), (0.5, 1.1), (np.nan, 1.0)])
def test_amplitudes_that_cannot_be_are_refused(limits):
    with pytest.raises(ValueError, match="0 <= low < high <= 1"):
        make_object(*default_pictures(), 48, limits)


@pytest.mark.parametrize(("rms", "smoothing"), [(0.2, 3.0), (1.0, 2.0)])
def test_a_diffuser_is_a_disc_with_a_phase_of_the_stated_rms(rms, smoothing):
    disc, made = (f(64, 16) for f in (disc_probe, partial(diffuser_probe, rms_rad=rms, smoothing_px=smoothing, seed=0)))

    inside = np.hypot(*(np.mgrid[:64, :64] - 32)) <= 16
    phase = unwrap_phase(np.angle(made[0]))[inside]
    np.testing.assert_allclose(np.abs(made), np.abs(disc), rtol=1e-5)
    assert phase.std() == pytest.approx(rms, rel=1e-3)
    assert made.dtype == np.complex64


@pytest.mark.parametrize("smoothing", [2.0, 3.0])
def test_the_diffusers_phase_is_correlated_over_the_stated_distance(smoothing):
    """Smoothing white noise by a Gaussian gives the autocorrelation exp(-d^2 / (4 sigma^2))."""
    made = [diffuser_probe(256, 120, rms_rad=0.5, smoothing_px=smoothing, seed=s)[0, 64:192, 64:192] for s in range(4)]
    phases = np.stack([np.angle(m) for m in made])  # a few times 0.5 rad does not wrap

    for distance in (1, 3, 6):
        product = (phases[:, :, distance:] * phases[:, :, :-distance]).mean() / (phases**2).mean()
        assert product == pytest.approx(np.exp(-((distance / smoothing) ** 2) / 4), abs=0.08)


def test_diffusers_are_reproducible_and_seeds_differ():
    first, again, other = (diffuser_probe(64, 16, seed=s) for s in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.5


@pytest.mark.parametrize(
    "wrong", [{"rms_rad": 0.0}, {"rms_rad": np.nan}, {"smoothing_px": 0.0}, {"smoothing_px": 17.0}]
)
def test_a_diffuser_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="the diffuser has"):
        diffuser_probe(64, 16, **wrong, seed=0)


def test_a_uniform_picture_is_refused():
    with pytest.raises(ValueError, match="needs contrast"):
        make_object(np.ones((9, 9)), default_pictures()[1], 20)
