"""Format of numbers in pictures."""

import math

import pytest

from recon_worker.pictures.labels import length_text, metric_label, metric_value, nice_length, number, range_label


@pytest.mark.parametrize(
    ("value", "value_range", "unit", "text"),
    [
        (0.0, (0.0, 1.2), "1", "0"),
        (0.6, (0.0, 1.2), "1", "0.6"),
        (-math.pi, (-math.pi, math.pi), "rad", "−π"),
        (0.0, (-math.pi, math.pi), "rad", "0"),
        (3 * math.pi / 4, (0.0, math.pi), "rad", "3π/4"),
        (math.pi / 8, (0.0, math.pi / 4), "rad", "π/8"),
        (0.3, (0.0, 0.3), "rad", "0.3"),
        (math.pi, (0.0, math.pi), "1", "3.14"),
        (12345.0, (0.0, 12345.0), "1", "12345"),
        (-0.0001, (-0.5, 0.5), "1", "0"),
        (2.5e-7, (0.0, 2.5e-7), "1", "2.5e−07"),
        (1e30, (0.0, 1e30), "1", "1e+30"),
    ],
)
def test_the_values_of_a_colour_bar_have_as_many_digits_as_the_range_needs(value, value_range, unit, text):
    assert range_label(value, value_range, unit) == text


def test_the_ends_of_a_narrow_range_on_a_large_offset_differ():
    low, high = 1e6, 1e6 + 0.001

    assert range_label(low, (low, high), "1") != range_label(high, (low, high), "1")


@pytest.mark.parametrize(("metres", "text"), [(28e-9, "28 nm"), (2.5e-6, "2.5 µm"), (1e-3, "1 mm"), (5e-12, "5 pm")])
def test_lengths_have_the_usual_prefix(metres, text):
    assert length_text(metres) == text


@pytest.mark.parametrize(("longest", "nice"), [(9.9e-7, 5e-7), (1e-6, 1e-6), (2.1e-6, 2e-6), (4.99e-6, 2e-6)])
def test_scale_bars_are_one_two_or_five_times_a_power_of_ten(longest, nice):
    assert nice_length(longest) == pytest.approx(nice)


def test_metrics_have_their_unit_and_say_so_where_they_are_not_defined():
    assert metric_value("phase_mae_rad", 0.12345) == "0.123 rad"
    assert metric_value("amp_ssim", math.nan) == "not defined"
    assert metric_label("my_own_number").label == "my own number"
    assert number(-1.5) == "−1.5"
