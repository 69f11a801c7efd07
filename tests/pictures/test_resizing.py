"""Whole factors only: means of squares, or repeated pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_worker.pictures.resizing import block_to_fit, enlarged, factor_to_fill, shrunk
from recon_worker.pictures.views import PHASE_PERIOD, Panel


def _panel(values, scanned=None, period=None):
    return Panel(
        values=np.asarray(values, np.float32),
        value_range=(0.0, 1.0),
        colormap="gray",
        quantity="amplitude",
        unit="1",
        scanned=scanned,
        period=period,
    )


def test_each_square_becomes_its_mean_also_where_the_edge_cuts_it():
    values = np.random.default_rng(0).normal(size=(7, 5))
    expected = [[values[r : r + 3, c : c + 3].mean() for c in (0, 3)] for r in (0, 3, 6)]

    np.testing.assert_allclose(shrunk(_panel(values), 3).values, expected, rtol=1e-5)


def test_only_scanned_pixels_count_and_empty_squares_are_not_scanned():
    scanned = np.array([[1, 0, 0, 0], [0, 0, 0, 0]], bool)
    small = shrunk(_panel([[3, 9, 9, 9], [9, 9, 9, 9]], scanned), 2)

    assert small.values[0, 0] == 3
    assert small.scanned.tolist() == [[True, False]]


def test_phases_on_both_sides_of_the_cut_meet_at_the_cut():
    small = shrunk(_panel([[np.pi - 0.2, -np.pi + 0.1]] * 2, period=PHASE_PERIOD), 2)

    assert small.values[0, 0] == pytest.approx(np.pi - 0.05, abs=1e-6)


@pytest.mark.parametrize("period", [None, PHASE_PERIOD])
def test_a_fault_of_one_scanned_pixel_is_not_lost(period):
    scanned = np.array([[1, 1, 1, 0]] * 2, bool)
    values = [[np.nan, 1, 1, np.nan], [1, 1, 1, 1]]
    small = shrunk(_panel(values, scanned, period), 2)

    assert np.isnan(small.values[0, 0])
    assert small.values[0, 1] == pytest.approx(1)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_the_block_is_the_smallest_that_fits(height, width, side):
    block = block_to_fit((height, width), side)

    assert max(height, width) <= block * side
    assert block == 1 or max(height, width) > (block - 1) * side


@pytest.mark.parametrize(("side", "factor"), [(330, 1), (64, 6), (128, 3), (1000, 1), (270, 1), (210, 2)])
def test_the_factor_brings_a_picture_closest_to_400_px(side, factor):
    assert factor_to_fill((side, side // 2), 400) == factor


def test_enlarging_repeats_pixels_and_keeps_colours():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = enlarged(image, 3)

    assert large.shape == (6, 6, 3)
    np.testing.assert_array_equal(large[::3, ::3], image)
    np.testing.assert_array_equal(large[2::3, 2::3], image)
