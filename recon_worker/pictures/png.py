"""Scalar images as pixel-exact PNGs whose pixels map back to values.

An image is an 8-bit palette PNG, one array element per pixel, row 0 on top. Palette entries 0 ... 251 are the colour
map, linear from vmin to vmax; the last four are kept for what is not a number:

    252  -infinity, dark cyan       254  not a number, lime
    253  +infinity, cyan            255  not scanned, sage green

None of the four colours occurs in the maps used. Range, quantity, unit and colour map are in the PNG's text chunks.
"""

import functools
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from recon_worker.pictures.matplotlib_module import load_matplotlib
from recon_worker.pictures.views import Panel
from recon_worker.snapshot.array_types import Bool, Float32, Float64

LEVELS = 252
"""Palette entries that show values."""
NEGATIVE_INFINITY, POSITIVE_INFINITY, NOT_A_NUMBER, NOT_SCANNED = range(LEVELS, 256)
"""Palette entries that show what is not a value, in the order of RESERVED_COLOURS."""
RESERVED_COLOURS = ((0, 139, 139), (0, 255, 255), (0, 255, 0), (127, 160, 136))
_ENCODING = (
    f"palette index i < {LEVELS}: value = vmin + i (vmax - vmin) / {LEVELS - 1}; "
    f"{NEGATIVE_INFINITY}: -inf; {POSITIVE_INFINITY}: inf; {NOT_A_NUMBER}: nan; {NOT_SCANNED}: not scanned"
)
_BLOCK_PX = 1 << 15
"""Pixels converted at a time: double precision that stays in the processor's cache."""
_TEXT_KEYS = ("quantity", "unit", "vmin", "vmax", "colormap", "encoding")


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """What a PNG of `encode_png` shows."""

    values: Float64
    """(H, W); infinities and NaN are themselves; NaN where not scanned. Else within (vmax - vmin) / 251 / 2."""
    scanned: Bool
    """(H, W) False where the image says "not scanned"."""
    value_range: tuple[float, float]
    quantity: str
    unit: str
    colormap: str


def log_intensity(amplitude: Float32) -> Float32:
    """log(1 + amplitude^2): diffraction over many orders of magnitude."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.log1p(np.square(np.asarray(amplitude, np.float32)))


def shared_range(*arrays: ArrayLike) -> tuple[float, float]:
    """Smallest and largest finite value of all arrays.

    (0, 1) where there is none; where all are v, (v, v + max(1, |v|)): the picture has the map's first colour.
    """
    finite = [values[np.isfinite(values)] for values in map(np.asarray, arrays)]
    low = min((float(values.min()) for values in finite if values.size), default=0.0)
    high = max((float(values.max()) for values in finite if values.size), default=1.0)
    return (low, high) if high > low else (low, low + max(1.0, abs(low)))


def encode_panel(panel: Panel) -> bytes:
    """`encode_png` of a panel."""
    return encode_png(
        panel.values,
        value_range=panel.value_range,
        colormap=panel.colormap,
        quantity=panel.quantity,
        unit=panel.unit,
        scanned=panel.scanned,
    )


def encode_png(
    values: ArrayLike,
    *,
    value_range: tuple[float, float],
    colormap: str,
    quantity: str,
    unit: str,
    scanned: Bool | None = None,
) -> bytes:
    """Render a scalar image.

    Args:
        values: (H, W) real. Values outside the range take the end colours; infinities and NaN have their own.
        value_range: (vmin, vmax), finite, vmin < vmax.
        colormap: Name of a matplotlib colour map.
        quantity: What is shown.
        unit: Its unit.
        scanned: (H, W) False where there is nothing to show; None: everywhere scanned.

    Raises:
        TypeError: The values are complex.
        ValueError: The array is not two-dimensional or the range is not a range.
    """
    vmin, vmax = value_range
    image = Image.fromarray(to_indices(values, value_range=value_range, scanned=scanned))
    image.putpalette(palette(colormap).tobytes())
    text = PngInfo()
    facts = (quantity, unit, repr(float(vmin)), repr(float(vmax)), colormap, _ENCODING)
    for key, value in zip(_TEXT_KEYS, facts, strict=True):
        text.add_itxt(key, value)
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=text, compress_level=1)
    return stream.getvalue()


def to_indices(
    values: ArrayLike, *, value_range: tuple[float, float], scanned: Bool | None = None
) -> NDArray[np.uint8]:
    """(H, W) palette entries of a scalar image; arguments and errors as of `encode_png`."""
    array, (vmin, vmax) = np.asarray(values), value_range
    _check(array, value_range, scanned)
    indices = np.empty(array.shape, np.uint8)
    rows = max(1, _BLOCK_PX // array.shape[1])
    for start in range(0, len(array), rows):
        block = slice(start, start + rows)
        indices[block] = _block_indices(array[block].astype(np.float64), vmin, vmax)
    if scanned is not None:
        indices[~scanned] = NOT_SCANNED
    return indices


def _check(array: NDArray[np.generic], value_range: tuple[float, float], scanned: Bool | None) -> None:
    vmin, vmax = value_range
    if np.iscomplexobj(array):
        raise TypeError("values are complex; take the amplitude or the phase first.")
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"values have shape {array.shape}; an image has two dimensions and at least one pixel.")
    if not 0 < float(vmax) - float(vmin) < np.inf:
        raise ValueError(f"value_range is ({vmin}, {vmax}); it must be finite and increasing.")
    if scanned is not None and scanned.shape != array.shape:
        raise ValueError(f"scanned has shape {scanned.shape}; it must be that of the values, {array.shape}.")


def _block_indices(values: Float64, vmin: float, vmax: float) -> NDArray[np.uint8]:
    special = ~np.isfinite(values)
    kept = values[special]
    with np.errstate(invalid="ignore", over="ignore"):
        values -= vmin
        values /= vmax - vmin
        values *= LEVELS - 1
        values += 0.5
        np.clip(values, 0, LEVELS - 1, out=values)
        indices = values.astype(np.uint8)
    indices[special] = np.select([np.isnan(kept), kept > 0], [NOT_A_NUMBER, POSITIVE_INFINITY], NEGATIVE_INFINITY)
    return indices


@functools.cache
def palette(colormap: str) -> NDArray[np.uint8]:
    """(256, 3) uint8, RGB: the colour of each palette entry. Read-only.

    Raises:
        ValueError: The colour map is not known, or holds a colour that is kept for special values.
    """
    matplotlib = load_matplotlib()
    if colormap not in matplotlib.colormaps:
        raise ValueError(f"colour map {colormap!r} is not one of matplotlib's.")
    colours = matplotlib.colormaps[colormap](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    if set(map(tuple, colours.tolist())) & set(RESERVED_COLOURS):
        raise ValueError(f"colour map {colormap!r} holds a colour that is kept for special values; choose another.")
    table = np.concatenate([colours, np.array(RESERVED_COLOURS, np.uint8)])
    table.flags.writeable = False
    return table


def read_png(source: Path | bytes) -> DecodedImage:
    """Map the pixels of a PNG of `encode_png` back to values.

    Raises:
        ValueError: The file is not such a PNG.
    """
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        if not isinstance(image, PngImageFile) or image.mode != "P" or not set(_TEXT_KEYS) <= image.text.keys():
            raise ValueError("this is not a scalar image of this program: it is not a palette PNG with a value range.")
        indices, facts = np.asarray(image), image.text
    vmin, vmax = float(facts["vmin"]), float(facts["vmax"])
    levels = vmin + np.linspace(0, 1, LEVELS) * (vmax - vmin)
    table = np.append(levels, [-np.inf, np.inf, np.nan, np.nan])
    return DecodedImage(
        values=table[indices],
        scanned=indices != NOT_SCANNED,
        value_range=(vmin, vmax),
        quantity=facts["quantity"],
        unit=facts["unit"],
        colormap=facts["colormap"],
    )
