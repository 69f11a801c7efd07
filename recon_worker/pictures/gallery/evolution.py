"""The evolution: an animated GIF of an object's amplitude and phase, one frame per epoch.

All frames share one palette, so that equal values have equal colours throughout: grays for the amplitude, the phase's
cyclic map, and the colours of what is not a value. The number of frames is bounded by that of the gallery's pictures.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from recon_worker.pictures.complex_png import load_font
from recon_worker.pictures.gallery.entry import GalleryEntry, GalleryView
from recon_worker.pictures.labels import range_label
from recon_worker.pictures.png import LEVELS, RESERVED_COLOURS, DecodedImage, palette, read_png, to_indices
from recon_worker.pictures.resizing import enlarged, factor_to_fill

SIDE_PX = 320
"""Side that the pictures come close to, by whole factors."""
_INKS, _STEPS = 16, 118
"""Palette entries: shades of the text, colours of each of the two maps, then those of what is not a value."""
_AMPLITUDE, _PHASE, _SPECIAL = _INKS, _INKS + _STEPS, _INKS + 2 * _STEPS
_MARGIN_PX, _HEAD_PX = 12, 58
_FRAME_MS, _ENDS_MS = 300, 1500
"""How long a frame is shown, and the first and the last."""


def evolution_gif(entries: Sequence[GalleryEntry], view: str = "stitched") -> bytes | None:
    """Animate an object.

    Args:
        entries: Of the gallery, in the order of epochs.
        view: Which object.

    Returns:
        The GIF; None where fewer than two epochs have pictures of the object. The same entries give the same bytes.
    """
    frames = [
        _frame(entry, found)
        for entry in entries
        for found in entry.views
        if found.name == view and {"amp_pred", "phase_pred"} <= found.pictures.keys()
    ]
    if len(frames) < 2:
        return None
    durations = [_ENDS_MS, *[_FRAME_MS] * (len(frames) - 2), _ENDS_MS]
    stream = io.BytesIO()
    first, *others = frames
    first.save(stream, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False)
    return stream.getvalue()


def _frame(entry: GalleryEntry, view: GalleryView) -> Image.Image:
    amplitude, phase = (read_png(view.pictures[kind].png) for kind in ("amp_pred", "phase_pred"))
    left = _picture(amplitude, _AMPLITUDE)
    right = _picture(phase, _PHASE)
    height, width = left.shape
    second = 2 * _MARGIN_PX + width
    page = np.full((_HEAD_PX + height + _MARGIN_PX, second + width + _MARGIN_PX), _INKS - 1, np.uint8)
    page[:_HEAD_PX] = _head(page.shape[1], entry, {_MARGIN_PX: amplitude, second: phase})
    page[_HEAD_PX : _HEAD_PX + height, _MARGIN_PX : _MARGIN_PX + width] = left
    page[_HEAD_PX : _HEAD_PX + height, second : second + width] = right
    image = Image.fromarray(page)
    image.putpalette(_palette(amplitude.colormap, phase.colormap).tobytes())
    return image


def _picture(decoded: DecodedImage, first: int) -> NDArray[np.uint8]:
    """(H, W) palette entries; the map's begin at `first`."""
    indices = to_indices(decoded.values, value_range=decoded.value_range, scanned=decoded.scanned).astype(int)
    entries = first + np.rint(indices * ((_STEPS - 1) / (LEVELS - 1))).astype(int)
    special = indices >= LEVELS
    entries[special] = _SPECIAL + indices[special] - LEVELS
    return enlarged(entries.astype(np.uint8), factor_to_fill(indices.shape, SIDE_PX))


def _head(width: int, entry: GalleryEntry, columns: dict[int, DecodedImage]) -> NDArray[np.uint8]:
    """Epoch, and above each picture what it is, with its range."""
    strip = Image.new("L", (width, _HEAD_PX), 255)
    draw = ImageDraw.Draw(strip)
    draw.text((_MARGIN_PX, 6), entry.label, 30, load_font(17))
    for x, shown in columns.items():
        low, high = (range_label(value, shown.value_range, shown.unit) for value in shown.value_range)
        unit = " rad" if shown.unit == "rad" else ""
        draw.text((x, _HEAD_PX - 5), f"{shown.quantity}, {low} \u2026 {high}{unit}", 90, load_font(12), anchor="ls")
    return (np.asarray(strip, np.uint16) * (_INKS - 1) // 255).astype(np.uint8)


def _palette(amplitude_map: str, phase_map: str) -> NDArray[np.uint8]:
    """(256, 3) uint8, RGB."""
    inks = np.linspace(0, 255, _INKS).round().astype(np.uint8)[:, None].repeat(3, axis=1)
    steps = np.linspace(0, LEVELS - 1, _STEPS).round().astype(int)
    special = np.array(RESERVED_COLOURS, np.uint8)
    return np.concatenate([inks, palette(amplitude_map)[steps], palette(phase_map)[steps], special])
