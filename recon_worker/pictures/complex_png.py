"""Encodes a complex image as one colour picture: phase as hue, amplitude as lightness.

Colours are defined in Oklab (B. Ottosson, "A perceptual color space for image processing", 2020,
https://bottosson.github.io/posts/oklab/): equal phase steps look equally large, and all phases equally bright. At
each lightness, chroma is the largest that sRGB can display at every hue.
"""

import functools
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from recon_worker.pictures.png import (
    NOT_A_NUMBER,
    NOT_SCANNED,
    POSITIVE_INFINITY,
    RESERVED_COLOURS,
    encode_rgb,
    load_matplotlib,
)
from recon_worker.reconstruction.slices import row_blocks
from recon_worker.snapshot.array_types import Bool, Complex64, Float64

_HUES, _LEVELS = 360, 252
"""Steps of phase and of amplitude, finer than the eye can resolve."""
_LIGHTEST = 0.78
"""Oklab lightness of the largest amplitude, at which the chroma that sRGB offers for all hues is largest."""
_HUE_OF_ZERO_RAD = math.radians(29)
"""Phase 0 is red, by convention."""
_WHEEL_PX, _MARGIN_PX, _FONT_PX = 112, 12, 12
_INK, _PAPER = (38, 38, 38), (255, 255, 255)
_ENCODING = "hue: phase, 0 rad red, counter-clockwise on the wheel; lightness: amplitude from vmin to vmax"


def encode_complex_png(
    object: Complex64, *, amplitude_range: tuple[float, float], scanned: Bool | None = None
) -> bytes:
    """Encode a complex image, one pixel per element, with a colour wheel to its right.

    The text chunks hold the box of the image within the picture (`image_box`: left, top, right, bottom), the amplitude
    range and the phase convention. Unscanned and non-finite pixels have the reserved colours of scalar pictures.

    Args:
        object: (H, W) complex.
        amplitude_range: (darkest, brightest), finite, increasing; amplitudes beyond it are clipped.
        scanned: (H, W) False where data is missing; None: complete.

    Raises:
        ValueError: The array is not two-dimensional or the range is invalid.
    """
    if object.ndim != 2 or object.size == 0:
        raise ValueError(f"the object has shape {object.shape}; an image has two dimensions and at least one pixel.")
    low, high = amplitude_range
    if not 0 < float(high) - float(low) < np.inf:
        raise ValueError(f"amplitude_range is ({low}, {high}); it must be finite and increasing.")
    picture = complex_colours(object, amplitude_range, scanned)
    legend = _legend(amplitude_range, bool(scanned is not None and not scanned.all()))
    height, width = picture.shape[:2]
    page = Image.new("RGB", (width + _MARGIN_PX + legend.width, max(height, legend.height)), _PAPER)
    page.paste(Image.fromarray(picture), (0, 0))
    page.paste(legend, (width + _MARGIN_PX, 0))
    text = {
        "quantity": "complex object",
        "image_box": f"0,0,{width},{height}",
        "vmin": repr(float(low)),
        "vmax": repr(float(high)),
        "encoding": _ENCODING,
    }
    return encode_rgb(np.asarray(page), text)


def complex_colours(
    object: Complex64, amplitude_range: tuple[float, float], scanned: Bool | None = None
) -> NDArray[np.uint8]:
    """Return the colour of each element, (H, W, 3) uint8 sRGB; arguments as for `encode_complex_png`."""
    low, high = amplitude_range
    colours = np.empty((*object.shape, 3), np.uint8)
    for rows in row_blocks(object.shape):
        amplitude, phase = np.abs(object[rows]), np.angle(object[rows])
        level = np.nan_to_num((amplitude.astype(np.float64) - low) / (high - low), nan=0, posinf=1)
        levels = np.rint(np.clip(level, 0, 1) * (_LEVELS - 1)).astype(np.int64)
        turns = np.nan_to_num(phase.astype(np.float64)) / (2 * np.pi)
        colours[rows] = _table()[levels, np.rint(turns * _HUES).astype(np.int64) % _HUES]
        colours[rows][np.isinf(amplitude)] = RESERVED_COLOURS[POSITIVE_INFINITY]
        colours[rows][np.isnan(amplitude) | np.isnan(phase)] = RESERVED_COLOURS[NOT_A_NUMBER]
    if scanned is not None:
        colours[~scanned] = RESERVED_COLOURS[NOT_SCANNED]
    return colours


@functools.cache
def _table() -> NDArray[np.uint8]:
    """Return the colour of each amplitude level and hue, (levels, hues, 3) uint8 sRGB."""
    lightness = np.linspace(0, _LIGHTEST, _LEVELS)[:, None]
    hue = _HUE_OF_ZERO_RAD + 2 * np.pi * np.arange(_HUES) / _HUES
    # Bisect for the largest chroma of each lightness, (levels, 1), at which every hue is an sRGB colour.
    low, high = np.zeros_like(lightness), np.full_like(lightness, 0.4)
    for _ in range(20):
        middle = (low + high) / 2
        linear = _oklab_to_linear(lightness, middle, hue)
        inside = np.all((linear >= -1e-6) & (linear <= 1 + 1e-6), axis=(1, 2), keepdims=True)[..., 0]
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    linear = np.clip(_oklab_to_linear(lightness, low, hue), 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    table: NDArray[np.uint8] = np.rint(255 * srgb).astype(np.uint8)
    return table


_LMS_FROM_OKLAB = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_LINEAR_SRGB_FROM_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def _oklab_to_linear(lightness: Float64, chroma: Float64, hue: Float64) -> Float64:
    """Convert Oklab in polar form to linear sRGB; Ottosson (2020)."""
    lab = np.stack(np.broadcast_arrays(lightness, chroma * np.cos(hue), chroma * np.sin(hue)), axis=-1)
    linear: Float64 = (lab @ _LMS_FROM_OKLAB.T) ** 3 @ _LINEAR_SRGB_FROM_LMS.T
    return linear


@functools.lru_cache(maxsize=32)
def _legend(amplitude_range: tuple[float, float], shows_not_scanned: bool) -> Image.Image:
    """Draw the colour wheel: phase counter-clockwise from the right, amplitude from the centre outwards."""
    text_px, row_px = 3 * _FONT_PX, _FONT_PX + 6
    width, height = _WHEEL_PX + 2 * text_px, _WHEEL_PX + (6 + shows_not_scanned) * row_px
    legend = Image.new("RGB", (width, height), _PAPER)
    draw, font = ImageDraw.Draw(legend), load_font(_FONT_PX)
    top, left, middle = 2 * row_px, text_px, text_px + _WHEEL_PX // 2
    legend.paste(_wheel(), (left, top))
    draw.text((middle, 0), "phase / rad", _INK, font, "ma")
    draw.text((middle, top - 3), "π/2", _INK, font, "mb")
    draw.text((middle, top + _WHEEL_PX + 2), "-π/2", _INK, font, "ma")
    draw.text((left + _WHEEL_PX + 4, top + _WHEEL_PX // 2), "0", _INK, font, "lm")
    draw.text((left - 4, top + _WHEEL_PX // 2), "±π", _INK, font, "rm")
    below = top + _WHEEL_PX + row_px + 6
    draw.text((middle, below), "amplitude", _INK, font, "ma")
    draw.text((middle, below + row_px), "centre {:.3g}, rim {:.3g}".format(*amplitude_range), _INK, font, "ma")
    if shows_not_scanned:
        square = (left, below + 2 * row_px + 4, left + _FONT_PX, below + 2 * row_px + 4 + _FONT_PX)
        draw.rectangle(square, fill=RESERVED_COLOURS[NOT_SCANNED])
        draw.text((left + _FONT_PX + 6, square[1] + _FONT_PX // 2), "not scanned", _INK, font, "lm")
    return legend


@functools.cache
def _wheel() -> Image.Image:
    radius = _WHEEL_PX / 2
    x = (np.arange(_WHEEL_PX) + 0.5 - radius) / radius
    z = (x[None, :] - 1j * x[:, None]).astype(np.complex64)
    colours = complex_colours(z, (0.0, 1.0))
    colours[np.abs(z) > 1] = _PAPER
    return Image.fromarray(colours)


def load_font(size_px: int) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which ships with Matplotlib."""
    return ImageFont.truetype(Path(load_matplotlib().get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size_px)
