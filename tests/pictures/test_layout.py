"""Colour bars and scale bars match the picture; pictures are resized by whole factors only."""

import dataclasses
import itertools

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

from recon_worker.pictures.figures import PHASE_PERIOD, downsampled
from recon_worker.pictures.layout import INK, Page, draw_panel, drawing_scale, text_width_px
from recon_worker.pictures.png import Panel, encode_png
from tests.pictures.sheets import ERROR, PHASE, panel, pixels


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

    np.testing.assert_allclose(downsampled(_panel(values), 3).values, expected, rtol=1e-5)


def test_only_scanned_pixels_count_and_empty_squares_are_not_scanned():
    scanned = np.array([[1, 0, 0, 0], [0, 0, 0, 0]], bool)
    small = downsampled(_panel([[3, 9, 9, 9], [9, 9, 9, 9]], scanned), 2)

    assert small.values[0, 0] == 3
    assert small.scanned.tolist() == [[True, False]]


def test_phases_on_both_sides_of_the_cut_meet_at_the_cut():
    small = downsampled(_panel([[np.pi - 0.2, -np.pi + 0.1]] * 2, period=PHASE_PERIOD), 2)

    assert small.values[0, 0] == pytest.approx(np.pi - 0.05, abs=1e-6)


@pytest.mark.parametrize("period", [None, PHASE_PERIOD])
def test_a_fault_of_one_scanned_pixel_is_not_lost(period):
    scanned = np.array([[1, 1, 1, 0]] * 2, bool)
    values = [[np.nan, 1, 1, np.nan], [1, 1, 1, 1]]
    small = downsampled(_panel(values, scanned, period), 2)

    assert np.isnan(small.values[0, 0])
    assert small.values[0, 1] == pytest.approx(1)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_the_block_is_the_smallest_that_fits_into_a_third_more_than_the_side(height, width, side):
    block, _ = drawing_scale((height, width), side)
    most = round(side * 4 / 3)

    assert max(height, width) <= block * most
    assert block == 1 or max(height, width) > (block - 1) * most


@pytest.mark.parametrize(("side", "factor"), [(330, 1), (64, 6), (128, 3), (1000, 1), (270, 1), (210, 2)])
def test_enlarging_brings_a_picture_closest_to_the_side(side, factor):
    assert drawing_scale((side, side // 2), 400)[1] == factor


def test_enlarging_repeats_pixels_and_keeps_colours():
    page, one = Page(), panel(0, (40, 40))
    width, height = draw_panel(page, one, 0, 0, 120, 2)
    large, small = pixels(page.png(width, height))[:120], pixels(encode_png(one))

    assert large.shape == (120, 120, 3)
    np.testing.assert_array_equal(large[::3, ::3], small)
    np.testing.assert_array_equal(large[2::3, 2::3], small)


def test_the_colour_bar_runs_through_the_whole_map_and_has_its_values(written):
    page = Page()
    width, height = draw_panel(page, panel(0, (30, 30), PHASE), 0, 0, 120, 3)
    bar = pixels(page.png(width, height))[120 + 6]
    reference = matplotlib.colormaps["twilight"](np.linspace(0, 1, width), bytes=True)[:, :3].astype(int)

    assert written == ["\u2212\u03c0", "0", "\u03c0 rad"]
    assert np.abs(bar - reference).max() <= 6


@pytest.mark.parametrize(("factor", "ends"), [(1.0, ["0", "0.5"]), (2.0, ["0", "\u2265 0.5"])])
def test_a_bar_says_where_values_lie_beyond_its_end(written, factor, ends):
    one = panel(0, (30, 30), ERROR)
    draw_panel(Page(), dataclasses.replace(one, values=one.values * factor), 0, 0, 120, 2)

    assert written == ends


def test_the_scale_bar_is_as_long_as_it_says(written):
    page = Page()
    one = panel(0, (100, 100))
    draw_panel(page, one, 0, 0, 400, 2, pixel_size_m=10e-9)  # four page pixels per pixel
    row = pixels(page.png(400, 400))[400 - 14]

    assert written[-1] == "200 nm"  # at most a quarter of 1 um
    assert (row[8:20] == 40).all()
    assert (row[20:100] == 255).all()  # 200 nm / 10 nm x 4
    assert (row[100:112] == 40).all()


@pytest.mark.parametrize("points", [8, 9, 11, 12, 17])
@pytest.mark.parametrize("x", [20, 20.25, 20.5])
def test_a_text_drawn_in_parts_looks_as_matplotlib_draws_it_whole(points, x):
    bold, text = points > 9, "deviance 12.9    0.5 (1.23e\u221207, 9) \u22123.1415926 rad"
    page, renderer = Page(), RendererAgg(900, 60, 100)
    page.write(x, 40, text, points=points, bold=bold)
    whole = np.asarray(renderer.buffer_rgba())
    whole[:] = 255
    style, font = renderer.new_gc(), FontProperties(family="DejaVu Sans", size=points, weight=700 if bold else 400)
    style.set_foreground(INK)
    renderer.draw_text(style, x, 40, text, font, 0)

    np.testing.assert_array_equal(pixels(page.png(900, 60)), whole[..., :3])


def test_the_characters_of_numbers_can_be_drawn_alone_in_any_order():
    characters = "0123456789.\u2212"
    for points, bold in ((8, False), (11, True)):
        width = {one: text_width_px(one, points, bold=bold) for one in characters}
        for a, b in itertools.product(characters, characters):
            assert text_width_px(a + b, points, bold=bold) == width[a] + width[b]


def test_text_and_pictures_beyond_the_edges_are_clipped():
    page = Page()
    page.write(-3, 5, "left")
    page.write(28, 19, "right")
    page.paste(25, 15, np.zeros((20, 20, 3), np.uint8))

    assert pixels(page.png(30, 20)).shape == (20, 30, 3)
