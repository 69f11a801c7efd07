"""Patches at sub-pixel positions preserve amplitude and slopes."""

import numpy as np
import pytest

from recon_worker.reconstruction.patches import cut_patch

N = 16


def test_patches_are_exact_at_whole_positions_and_keep_slopes_between_up_to_the_edge():
    rows, columns = np.mgrid[:20, :20]
    object_ = ((20 * rows + columns) * (1 + 1j)).astype(np.complex64)

    whole, between = cut_patch(object_, np.array([12.0, 10.0]), N), cut_patch(object_, np.array([9.5, 8.25]), N)

    np.testing.assert_array_equal(whole, object_[2:18, 4:20])
    np.testing.assert_allclose(between, object_[:N, :N] + (20 * 0.25 + 1.5) * (1 + 1j), rtol=1e-6)
    assert cut_patch(object_, np.array([12.5, 10.0]), N) is None


@pytest.mark.parametrize("slope_rad", [0.5, 1.0])
def test_patches_between_pixels_keep_the_amplitude_of_a_steep_phase(slope_rad):
    rows, columns = np.mgrid[:60, :60].astype(float)
    phase = slope_rad * (columns - rows) / np.sqrt(2)
    x, y = 30.5, 29.5

    patch = cut_patch(np.exp(1j * phase).astype(np.complex64), np.array([x, y]), N)

    expected = np.exp(1j * (phase[:N, :N] + slope_rad * (x - y) / np.sqrt(2)))
    assert np.cos(slope_rad / np.sqrt(8)) ** 2 < 0.97  # the amplitude of a bilinear average
    assert np.abs(patch) == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(patch, expected, atol=0.01)


def test_patches_between_pixels_agree_with_a_fourier_shift():
    rng = np.random.default_rng(0)
    spectrum = np.zeros((60, 60), complex)
    spectrum[:9, :9] = rng.normal(size=(9, 9)) + 1j * rng.normal(size=(9, 9))  # periods of 7 px and more
    dx, dy = 0.3, 0.8
    frequency = np.arange(60) / 60
    moved = spectrum * np.exp(2j * np.pi * (dy * frequency[:, None] + dx * frequency))

    patch = cut_patch(np.fft.ifft2(spectrum).astype(np.complex64), np.array([30 + dx, 30 + dy]), N)

    expected = np.fft.ifft2(moved)[30 - N // 2 : 30 + N // 2, 30 - N // 2 : 30 + N // 2]
    np.testing.assert_allclose(patch, expected, atol=2e-3 * np.abs(expected).max())


def test_a_hole_in_an_object_is_unknown_only_to_patches_that_reach_it():
    object_ = np.ones((60, 60), np.complex64)
    object_[:, 50] = np.nan
    beside = 50 - N // 2  # the last column of a patch there is next to the hole

    near, far = (cut_patch(object_, np.array([beside - distance, 30.5]), N) for distance in (0.5, 3.5))

    assert np.isnan(near[:, -3:]).any()
    np.testing.assert_allclose(far, 1, rtol=1e-6)
