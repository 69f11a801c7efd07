"""Phase is hue, amplitude is brightness, and the picture stays one pixel per element."""

import io

import numpy as np
import pytest
from PIL import Image

from recon_worker.pictures.complex_png import complex_colours, encode_complex_png
from recon_worker.pictures.png import RESERVED_COLOURS

# Linear sRGB to Oklab: the forward matrices of Ottosson (2020); the code under test holds their inverses.
LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
PHASES = np.linspace(-np.pi, np.pi, 73)[:-1]


def _oklab(colours):
    s = colours / 255
    linear = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ LMS.T) @ LAB.T


def _circle(amplitude):
    object_ = (amplitude * np.exp(1j * PHASES))[None].astype(np.complex64)
    return _oklab(complex_colours(object_, (0.0, 1.0)))[0]


@pytest.mark.parametrize("amplitude", [0.3, 0.6, 1.0])
def test_no_phase_is_brighter_or_more_colourful_than_another(amplitude):
    lightness, a, b = _circle(amplitude).T
    chroma = np.hypot(a, b)

    assert np.ptp(lightness) < 0.006  # a step of 1/255 in sRGB
    assert np.ptp(chroma) < 0.015
    assert chroma.min() > 0.03


def test_lightness_is_proportional_to_the_amplitude():
    amplitudes = np.linspace(0, 1, 11)
    lightness = [_circle(amplitude)[:, 0].mean() for amplitude in amplitudes]

    np.testing.assert_allclose(lightness, amplitudes * lightness[-1], atol=0.006)


def test_equal_steps_of_phase_are_equal_steps_of_hue():
    _, a, b = _circle(1.0).T
    steps = np.angle(np.exp(1j * np.diff(np.arctan2(b, a))))

    np.testing.assert_allclose(steps, 2 * np.pi / len(PHASES), rtol=0.2)


def test_phase_zero_is_red_and_a_turn_makes_no_difference():
    object_ = np.array([[1, np.exp(1j * np.pi), np.exp(-1j * np.pi)]], np.complex64)
    red, left, right = complex_colours(object_, (0.0, 1.0))[0].astype(int)

    assert red.argmax() == 0
    assert red[0] - red[1:].max() > 80
    assert (left == right).all()


def test_what_is_not_a_value_has_the_colours_of_the_scalar_pictures():
    object_ = np.array([[np.nan, np.inf, complex(0, np.inf), 1, complex(0, np.nan)]], np.complex64)
    scanned = np.array([[True, True, True, False, False]])
    colours = complex_colours(object_, (0.0, 1.0), scanned)[0].tolist()

    assert colours == [[0, 255, 0], [0, 255, 255], [0, 255, 255], [127, 160, 136], [127, 160, 136]]


def test_no_value_looks_like_one_of_the_special_colours():
    x = np.linspace(-1, 1, 401)
    values = complex_colours((x[:, None] + 1j * x).astype(np.complex64), (0.0, 1.0)).reshape(-1, 1, 3).astype(float)

    shown = list(RESERVED_COLOURS.values())[1:]  # all but -infinity, which is no amplitude
    distances = np.linalg.norm(values - np.array(shown, float), axis=-1)
    assert distances.min() > 20


def test_one_element_is_one_pixel_of_the_box_that_the_file_names(rng_object):
    scanned = np.ones(rng_object.shape, bool)
    scanned[:5] = False
    png = encode_complex_png(rng_object, amplitude_range=(0.1, 2.0), scanned=scanned)
    with Image.open(io.BytesIO(png)) as image:
        box = tuple(map(int, image.text["image_box"].split(",")))
        picture = np.asarray(image.crop(box))
        size = image.size

    np.testing.assert_array_equal(picture, complex_colours(rng_object, (0.1, 2.0), scanned))
    assert size[0] > box[2]  # the wheel is beside it


def test_the_wheel_shows_each_phase_in_its_direction(rng_object):
    with Image.open(io.BytesIO(encode_complex_png(rng_object, amplitude_range=(0.0, 1.0)))) as image:
        page = np.asarray(image)[:, rng_object.shape[1] + 12 :].astype(int)
    rim = {
        angle: complex_colours(np.array([[0.9 * np.exp(1j * angle)]], np.complex64), (0.0, 1.0))[0, 0].astype(int)
        for angle in (0, np.pi / 2, np.pi, -np.pi / 2)
    }
    places = {angle: np.argwhere(np.abs(page - colour).sum(-1) <= 6).mean(axis=0) for angle, colour in rim.items()}

    centre = np.mean(list(places.values()), axis=0)
    for angle, place in places.items():
        up, right = centre[0] - place[0], place[1] - centre[1]
        assert np.isclose(np.angle(np.exp(1j * (np.arctan2(up, right) - angle))), 0, atol=0.05)


def test_the_same_object_gives_the_same_bytes(rng_object):
    first, second = (encode_complex_png(rng_object.copy(), amplitude_range=(0.0, 1.0)) for _ in range(2))

    assert first == second


@pytest.mark.parametrize(
    ("shape", "amplitude_range", "message"),
    [((3,), (0.0, 1.0), "two dimensions"), ((3, 3), (1.0, 1.0), "increasing"), ((3, 3), (0.0, np.inf), "finite")],
)
def test_invalid_images_and_ranges_are_refused(shape, amplitude_range, message):
    with pytest.raises(ValueError, match=message):
        encode_complex_png(np.ones(shape, np.complex64), amplitude_range=amplitude_range)


@pytest.fixture
def rng_object():
    parts = np.random.default_rng(0).normal(size=(2, 40, 31))
    return (parts[0] + 1j * parts[1]).astype(np.complex64)
