"""Encodes scalar images as pixel-exact PNGs whose pixels map back to values.

A `Panel` becomes an 8-bit palette PNG: one pixel per array element, row 0 on top. Palette entries 0 ... 251 are the
colour map, linear from vmin to vmax; the last four are reserved:

    252  -infinity, dark cyan       254  not a number, lime
    253  +infinity, cyan            255  not scanned, sage green

The four colours occur in none of the colour maps used. The text chunks hold range, quantity, unit and colour map.
"""

import functools
import io
import os
import struct
import zlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from recon_worker.snapshot.array_types import Bool, Float32, Float64

_T = TypeVar("_T")

LEVELS = 252
"""Palette entries that show values."""
NEGATIVE_INFINITY, POSITIVE_INFINITY, NOT_A_NUMBER, NOT_SCANNED = range(LEVELS, 256)
RESERVED_COLOURS: Mapping[int, tuple[int, int, int]] = {
    NEGATIVE_INFINITY: (0, 139, 139),
    POSITIVE_INFINITY: (0, 255, 255),
    NOT_A_NUMBER: (0, 255, 0),
    NOT_SCANNED: (127, 160, 136),
}
"""Colours by reserved palette entry, in ascending order."""
_ENCODING = (
    f"palette index i < {LEVELS}: value = vmin + i (vmax - vmin) / {LEVELS - 1}; "
    f"{NEGATIVE_INFINITY}: -inf; {POSITIVE_INFINITY}: inf; {NOT_A_NUMBER}: nan; {NOT_SCANNED}: not scanned"
)
_BLOCK_PX = 1 << 15
"""Pixels converted at a time, so that the double-precision copy fits the CPU cache."""
_KEPT_PX = 1 << 18
"""Largest panel that caches what is derived from it: 512 x 512 px."""
_TEXT_KEYS = ("quantity", "unit", "vmin", "vmax", "colormap", "encoding")
_BACKEND = "MPLBACKEND"
_MAX_PX = 1 << 29
"""Largest picture that is read: twice the largest object."""
_NOT_SCALAR = "this is not a scalar image of this program: it is not a palette PNG with a value range."


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """A scalar image and the normalisation that maps its values to colours."""

    values: Float32
    """(H, W) real, row 0 on top. Values beyond the range are clipped; infinities and NaN have reserved colours."""
    value_range: tuple[float, float]
    """(vmin, vmax), finite, vmin < vmax: values of the first and last colour."""
    colormap: str
    """Name of a Matplotlib colour map."""
    quantity: str
    """Physical quantity, such as "object phase"."""
    unit: str
    scanned: Bool | None = None
    """(H, W) False where data is missing; None: complete."""
    period: float | None = None
    """Period of cyclic values, such as 2 pi for a phase; averaging respects it. None: not cyclic."""
    _derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def derived(self, name: str, make: Callable[[], _T]) -> _T:
        """Return `make()`; a small panel, which is drawn several times, caches it under `name`."""
        if self.values.size > _KEPT_PX:
            return make()
        if name not in self._derived:
            self._derived[name] = make()
        found: _T = self._derived[name]
        return found


@dataclass(frozen=True, eq=False)
class ConstantPanels:
    """Panels that are the same in every epoch, such as those of the ground truth. Keeps only small ones."""

    panels: dict[Hashable, Panel] = field(default_factory=dict)

    def panel(self, key: Hashable, make: Callable[[], Panel]) -> Panel:
        """Return the panel cached under a key, made on first use. The key must hold all that the panel depends on."""
        panel = self.panels.get(key) or make()
        if panel.values.size <= _KEPT_PX:
            self.panels[key] = panel
        return panel


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedImage:
    """Content of a PNG written by `encode_png`."""

    values: Float64
    """(H, W), accurate to (vmax - vmin) / 502 inside the range; NaN where not scanned."""
    scanned: Bool
    """(H, W) False where not scanned."""
    value_range: tuple[float, float]
    quantity: str
    unit: str
    colormap: str


def encode_png(panel: Panel) -> bytes:
    """Encode a panel as a palette PNG.

    Raises:
        TypeError: The values are complex.
        ValueError: The array is not two-dimensional, or the range or the colour map is invalid.
    """
    return panel.derived("png", lambda: _encoded(panel))


def _encoded(panel: Panel) -> bytes:
    vmin, vmax = panel.value_range
    image = Image.fromarray(to_indices(panel))
    image.putpalette(palette(panel.colormap).tobytes())
    text = PngInfo()
    facts = (panel.quantity, panel.unit, repr(float(vmin)), repr(float(vmax)), panel.colormap, _ENCODING)
    for key, value in zip(_TEXT_KEYS, facts, strict=True):
        text.add_itxt(key, value)
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=text, compress_level=1)
    return stream.getvalue()


def encode_rgb(pixels: NDArray[np.uint8], text: Mapping[str, str] | None = None) -> bytes:
    """Encode colours, (H, W, 3) uint8, as a PNG, with text chunks by keyword.

    Uses no row filters: for pictures with enlarged pixels, this is twice as fast as Pillow, which tries all filters for
    each row, and the files are smaller.
    """
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with the number of its filter, 0: none
    rows[:, 1:] = pixels.reshape(height, -1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    for key, value in (text or {}).items():
        chunks.append((b"iTXt", key.encode("latin-1") + 5 * b"\0" + value.encode()))
    chunks += [(b"IDAT", zlib.compress(rows.data, 1)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def to_indices(image: Panel | DecodedImage) -> NDArray[np.uint8]:
    """Map the values of an image to palette entries, (H, W) uint8, read-only. Raises like `encode_png`."""
    return image.derived("indices", lambda: _indices(image)) if isinstance(image, Panel) else _indices(image)


def _indices(image: Panel | DecodedImage) -> NDArray[np.uint8]:
    array, scanned, (vmin, vmax) = np.asarray(image.values), image.scanned, image.value_range
    if np.iscomplexobj(array):
        raise TypeError("values are complex; take the amplitude or the phase first.")
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"values have shape {array.shape}; an image has two dimensions and at least one pixel.")
    if not 0 < float(vmax) - float(vmin) < np.inf:
        raise ValueError(f"value_range is ({vmin}, {vmax}); it must be finite and increasing.")
    if scanned is not None and scanned.shape != array.shape:
        raise ValueError(f"scanned has shape {scanned.shape}; it must match the values, {array.shape}.")
    indices = np.empty(array.shape, np.uint8)
    rows = max(1, _BLOCK_PX // array.shape[1])
    for start in range(0, len(array), rows):
        block = slice(start, start + rows)
        indices[block] = _block_indices(array[block].astype(np.float64), vmin, vmax)
    if scanned is not None:
        indices[~scanned] = NOT_SCANNED
    indices.flags.writeable = False
    return indices


def _block_indices(values: Float64, vmin: float, vmax: float) -> NDArray[np.uint8]:
    """Return the palette entries of a block of rows; overwrites `values`."""
    special = ~np.isfinite(values)
    kept = values[special] if special.any() else values[:0]
    with np.errstate(invalid="ignore", over="ignore"):
        values -= vmin
        values /= vmax - vmin
        values *= LEVELS - 1
        values += 0.5
        np.clip(values, 0, LEVELS - 1, out=values)
        indices = values.astype(np.uint8)
    if kept.size:
        indices[special] = np.select([np.isnan(kept), kept > 0], [NOT_A_NUMBER, POSITIVE_INFINITY], NEGATIVE_INFINITY)
    return indices


@functools.cache
def palette(colormap: str) -> NDArray[np.uint8]:
    """Return the colours of the palette entries, (256, 3) uint8 RGB, read-only.

    Raises:
        ValueError: The colour map is unknown or contains a reserved colour.
    """
    matplotlib = load_matplotlib()
    if colormap not in matplotlib.colormaps:
        raise ValueError(f"colour map {colormap!r} is not one of Matplotlib's.")
    colours = matplotlib.colormaps[colormap](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    if set(map(tuple, colours.tolist())) & set(RESERVED_COLOURS.values()):
        raise ValueError(f"colour map {colormap!r} contains a colour reserved for special values; choose another.")
    table = np.concatenate([colours, np.array(list(RESERVED_COLOURS.values()), np.uint8)])
    table.flags.writeable = False
    return table


def load_matplotlib() -> ModuleType:
    """Import Matplotlib for its colour maps, fonts and text renderer.

    The import fails if MPLBACKEND names a backend that is not installed, as in processes started from a notebook.
    Since no backend is needed, the import is then retried without the variable.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    try:
        import matplotlib
    except ValueError:
        backend = os.environ.pop(_BACKEND, None)
        if backend is None:
            raise
        try:
            import matplotlib
        finally:
            os.environ[_BACKEND] = backend
    return matplotlib


def read_png(source: Path | bytes) -> DecodedImage:
    """Map the pixels of a PNG written by `encode_png` back to values.

    Raises:
        ValueError: The file was not written by `encode_png`, or is damaged.
        OSError: It cannot be read.
    """
    try:
        # `Image.open` refuses pictures of more than 13 377 x 13 377 px
        with PngImageFile(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > _MAX_PX:
                raise ValueError(f"this picture has {image.width} x {image.height} px, more than any of this program.")
            if image.mode != "P" or not set(_TEXT_KEYS) <= image.text.keys():
                raise ValueError(_NOT_SCALAR)
            indices, facts = np.asarray(image), image.text
    except (SyntaxError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"{_NOT_SCALAR} {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"this picture is damaged: {error}.") from error
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
