"""One array element is one pixel, and each pixel maps back to a value."""

import io
import math

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from recon_worker.pictures.colour_ranges import shared_range
from recon_worker.pictures.png import ConstantPanels, Panel, encode_png, encode_rgb, read_png, to_indices

MAPS = ("gray", "twilight", "inferno", "magma", "viridis")
RESERVED = {252: (0, 139, 139), 253: (0, 255, 255), 254: (0, 255, 0), 255: (127, 160, 136)}


def _encode(values, value_range=(0.0, 1.0), **changes):
    settings = {"colormap": "gray", "quantity": "amplitude", "unit": "1"} | changes
    return encode_png(Panel(values=values, value_range=value_range, **settings))


def _indices(png):
    return np.asarray(Image.open(io.BytesIO(png)))


images = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-1e6, 1e6, width=32))


@given(images)
def test_values_come_back_within_half_a_level(values):
    vmin, vmax = shared_range(values)
    decoded = read_png(_encode(values, (vmin, vmax)))

    assert np.abs(decoded.values - values).max() <= (vmax - vmin) / 251 / 2 * (1 + 1e-9)
    assert decoded.scanned.all()
    assert decoded.value_range == (vmin, vmax)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_the_range_comes_back_exactly_however_small_or_large(a, b):
    vmin, vmax = sorted((a, b))
    if not 0 < vmax - vmin < math.inf:
        with pytest.raises(ValueError, match="finite and increasing"):
            _encode(np.zeros((1, 1)), (vmin, vmax))
        return
    decoded = read_png(_encode(np.array([[vmin, vmax]]), (vmin, vmax)))

    assert decoded.value_range == (vmin, vmax)
    np.testing.assert_allclose(decoded.values, [[vmin, vmax]], rtol=1e-12, atol=(vmax - vmin) * 1e-12)


def test_a_small_range_on_a_large_offset_keeps_its_levels():
    values = 1e8 + np.arange(252, dtype=np.int32).reshape(4, 63)

    decoded = read_png(_encode(values, (1e8, 1e8 + 251)))
    np.testing.assert_allclose(decoded.values, values, rtol=0, atol=1e-6)


def test_one_element_is_one_pixel_and_row_zero_is_on_top():
    values = np.zeros((3, 5), np.float32)
    values[0, 4] = 1
    indices = _indices(_encode(values))

    assert indices.shape == (3, 5)
    assert indices[0, 4] == 251
    assert indices.sum() == 251


def test_special_values_and_unscanned_pixels_have_their_own_colours():
    values = np.array([[-np.inf, np.inf, np.nan, 0.5, np.nan]], np.float32)
    scanned = np.array([[True, True, True, False, False]])
    png = _encode(values, scanned=scanned)
    rgb = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    assert _indices(png).tolist() == [[252, 253, 254, 255, 255]]
    assert [tuple(pixel) for pixel in rgb[0].tolist()] == [RESERVED[i] for i in (252, 253, 254, 255, 255)]
    decoded = read_png(png)
    np.testing.assert_array_equal(decoded.values, [[-np.inf, np.inf, np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(decoded.scanned, scanned)


def test_values_outside_the_range_take_the_end_levels():
    png = _encode(np.array([[-1e30, -1, 0, 1, 2, 1e30, 3.4e38]], np.float32))

    assert _indices(png).tolist() == [[0, 0, 0, 251, 251, 251, 251]]


@pytest.mark.parametrize("colormap", MAPS)
def test_levels_are_the_colour_map_and_reserved_colours_are_not_on_it(colormap):
    png = _encode(np.arange(252.0).reshape(4, 63), (0, 251), colormap=colormap)
    rgb = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(252, 3)
    expected = matplotlib.colormaps[colormap](np.linspace(0, 1, 252), bytes=True)[:, :3]

    np.testing.assert_array_equal(rgb, expected)
    distance = np.linalg.norm(rgb[:, None].astype(float) - np.array(list(RESERVED.values())), axis=-1)
    assert distance.min() > 20


def test_a_colour_map_with_a_reserved_colour_is_refused():
    with pytest.raises(ValueError, match="reserved for special values"):
        _encode(np.zeros((2, 2)), colormap="brg")


def test_text_chunks_say_what_the_pixels_mean():
    png = _encode(np.zeros((2, 2)), (-0.1, 1 / 3), quantity="object phase", unit="Å⁻¹ µ", colormap="twilight")
    text = Image.open(io.BytesIO(png)).text

    assert (float(text["vmin"]), float(text["vmax"])) == (-0.1, 1 / 3)
    assert (text["quantity"], text["unit"], text["colormap"]) == ("object phase", "Å⁻¹ µ", "twilight")
    for word in ("not scanned", "nan", "inf", "vmin + i (vmax - vmin) / 251"):
        assert word in text["encoding"]
    assert read_png(png).unit == "Å⁻¹ µ"


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64, ">f4"])
def test_real_numbers_of_any_kind_are_drawn(dtype):
    assert _indices(_encode(np.array([[0, 1]], dtype))).tolist() == [[0, 251]]


def test_views_that_are_not_contiguous_are_drawn_as_they_look():
    values = np.random.default_rng(0).random((40, 30), np.float32)
    view = values.T[::-2, ::3]

    np.testing.assert_array_equal(_indices(_encode(view)), _indices(_encode(view.copy())))


def test_an_image_of_many_blocks_equals_its_rows_drawn_alone():
    values = np.random.default_rng(0).normal(0.5, 0.5, (300, 400))
    values[150, 7] = np.nan
    whole = _indices(_encode(values))

    for row in (0, 81, 82, 150, 299):
        np.testing.assert_array_equal(whole[row : row + 1], _indices(_encode(values[row : row + 1])))


def test_the_same_image_gives_the_same_bytes_and_leaves_its_input_alone():
    values = np.random.default_rng(0).random((20, 20))
    before = values.copy()

    assert _encode(values) == _encode(values)
    np.testing.assert_array_equal(values, before)


def test_a_file_on_disk_is_read_like_its_bytes(tmp_path):
    png = _encode(np.eye(3))
    (tmp_path / "image.png").write_bytes(png)

    np.testing.assert_array_equal(read_png(tmp_path / "image.png").values, read_png(png).values)


def test_complex_values_are_refused():
    with pytest.raises(TypeError, match="complex"):
        _encode(np.zeros((2, 2), np.complex64))


@pytest.mark.parametrize("shape", [(4,), (0, 4), (4, 0), (2, 2, 3)])
def test_an_invalid_image_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        _encode(np.zeros(shape))


@pytest.mark.parametrize("value_range", [(1.0, 1.0), (2.0, 1.0), (0.0, np.nan), (-np.inf, 0.0)])
def test_an_invalid_range_is_refused(value_range):
    with pytest.raises(ValueError, match="finite and increasing"):
        _encode(np.zeros((2, 2)), value_range)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="scanned has shape"):
        _encode(np.zeros((2, 2)), scanned=np.ones((2, 3), bool))


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_png_of_other_origin_is_refused(mode):
    stream = io.BytesIO()
    Image.new(mode, (4, 4)).save(stream, "PNG")
    with pytest.raises(ValueError, match="not a scalar image"):
        read_png(stream.getvalue())


@pytest.mark.parametrize("end", [0, 4, 40, 900, -30])
def test_a_damaged_file_is_a_value_error(end):
    png = _encode(np.random.default_rng(0).uniform(size=(40, 40)))
    with pytest.raises(ValueError, match=r"damaged|not a scalar image"):
        read_png(png[:end])


def test_objects_larger_than_pillows_limit_are_read(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # of the 2^28 px of the largest object, Pillow opens 2 / 3

    assert read_png(_encode(np.zeros((20, 20)))).values.shape == (20, 20)


@pytest.mark.parametrize("constant", [0.25, -3e20])
def test_a_constant_image_comes_back_exactly_in_its_shared_range(constant):
    values = np.full((1, 4), constant)

    assert read_png(_encode(values, shared_range(values))).values.tolist() == [[constant] * 4]


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 7)])
def test_colours_come_back_exactly_with_their_text(shape):
    colours = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    with Image.open(io.BytesIO(encode_rgb(colours, {"unit": "\u00b5m", "empty": ""}))) as image:
        assert image.mode == "RGB"
        assert image.text == {"unit": "\u00b5m", "empty": ""}
        np.testing.assert_array_equal(np.asarray(image), colours)


@pytest.mark.parametrize(("side", "kept"), [(512, True), (513, False)])
def test_only_small_panels_keep_what_was_derived_from_them(side, kept):
    values = np.linspace(0, 1, side * side, dtype=np.float32).reshape(side, side)
    one = Panel(values=values, value_range=(0, 1), colormap="gray", quantity="", unit="")
    constant = ConstantPanels()

    assert (encode_png(one) is encode_png(one)) == kept
    assert (to_indices(one) is to_indices(one)) == kept
    assert constant.panel("a", lambda: one) is one
    assert (constant.panels == {"a": one}) == kept
