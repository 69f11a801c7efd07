"""Colour ranges: robust, fixed once, the same after a restart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_worker.pictures.colour_ranges import ColourRanges, log_intensity, object_ranges, robust_range, shared_range


def test_a_range_is_that_of_the_percentiles_and_a_stray_pixel_does_not_set_it():
    values = np.append(np.linspace(0, 1, 1000), [1e6, np.nan, np.inf])

    low, high = robust_range(values)
    assert (low, high) == pytest.approx(np.percentile(values[np.isfinite(values)], (0.5, 99.5)))
    assert 0 < low < high < 1.001
    assert robust_range(values, 0.1) == pytest.approx((low - 0.1 * (high - low), high + 0.1 * (high - low)))


@given(st.lists(st.floats(width=32), max_size=30), st.sampled_from([0, 0.1, 0.25]), st.sampled_from([0, -np.inf]))
def test_whatever_the_values_a_range_increases_and_keeps_its_floor(values, margin, floor):
    low, high = robust_range(np.array(values, np.float32), margin, floor=floor)

    assert np.isfinite([low, high]).all()
    assert floor <= low < high


def test_flat_values_get_a_range_around_them_and_no_values_one_of_0_to_1():
    low, high = robust_range(np.full(9, 0.8))
    assert low < 0.8 < high
    assert high - low == pytest.approx(0.05 * 0.8)
    assert robust_range(np.array([np.nan])) == robust_range([]) == (0, 1)


@pytest.mark.parametrize(("phases", "largest_error"), [((0, 1), 0.5), ((1, 1), 0.1)])
def test_an_error_range_is_half_the_span_of_the_truth_and_never_empty(phases, largest_error):
    truth = np.exp(1j * np.repeat(phases, 500)).astype(np.complex64)
    ranges = object_ranges("a", [truth], lambda: [np.abs(truth)], ColourRanges(), trained=True)

    assert ranges["phase_error"] == (0, pytest.approx(largest_error, abs=0.01))
    assert ranges["amp_error"][1] > 0


def test_a_range_is_measured_once_and_then_stays():
    colour_ranges = ColourRanges()

    assert colour_ranges.range_of("a", lambda: (0, 2)) == (0, 2)
    assert colour_ranges.range_of("a", lambda: (0, 3)) == (0, 2)


@given(st.dictionaries(st.text(max_size=9), st.tuples(st.floats(-1e9, 0), st.floats(1e-9, 1e9))))
def test_ranges_survive_a_restart_to_the_last_bit(ranges):
    again = ColourRanges.from_json(ColourRanges(ranges).to_json())

    assert again.ranges == ranges
    assert again.to_json() == ColourRanges(ranges).to_json()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 2, "ranges": {}}', '{"version": 1, "ranges": {"a": {"min": 1, "max": 1}}}',
     '{"version": 1, "ranges": {"a": {"min": NaN, "max": 1}}}', '{"version": 1, "ranges": {"a": [0, 1]}}'],
)  # fmt: skip
def test_another_text_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - json's own message for some
        ColourRanges.from_json(text)


def test_shared_range_spans_the_finite_values_of_all_arrays():
    assert shared_range(np.array([3, np.nan, np.inf]), np.array([[-1.5, -np.inf]])) == (-1.5, 3)


def test_shared_range_of_nothing_and_of_a_constant_is_still_a_range():
    assert shared_range() == (0, 1)
    assert shared_range(np.full(3, np.nan), np.empty(0)) == (0, 1)
    assert shared_range(np.zeros(4)) == (0, 1)
    for constant in (0.25, -3e20):
        vmin, vmax = shared_range(np.full(4, constant))
        assert vmin == constant < vmax


def test_log_intensity_is_log_one_plus_counts_and_never_warns():
    counts = np.array([0, 1, 99, 1e6])
    np.testing.assert_allclose(log_intensity(np.sqrt(counts)), np.log(1 + counts), rtol=1e-6)

    assert log_intensity(np.array([np.inf, 1e30], np.float32)).tolist() == [np.inf, np.inf]
    assert np.isnan(log_intensity(np.array([np.nan], np.float32))).all()
